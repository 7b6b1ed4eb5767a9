// SPDX-License-Identifier: Apache-2.0

package concord

import (
	"context"
	"errors"
	"fmt"

	"github.com/concordtx/concord/txn"
)

// ErrNested says that Run was called within a transaction that it must not, or cannot, join.
var ErrNested = errors.New("this context already has a transaction")

type txKey struct{}

// NewContext returns a context that carries a transaction, as Run gives one to its function: a Run with it
// joins that transaction. With nil it carries none, so that Run begins another one.
func NewContext(ctx context.Context, tx *Tx) context.Context {
	return context.WithValue(ctx, txKey{}, tx)
}

// FromContext returns the transaction that a context carries.
func FromContext(ctx context.Context) (*Tx, bool) {
	tx, _ := ctx.Value(txKey{}).(*Tx)
	return tx, tx != nil
}

// NoJoin makes Run fail at once, with ErrNested, if its context carries a transaction of this client
// already: for what has to be committed when Run returns.
func NoJoin() TxOption { return func(o *txConfig) { o.alone = true } }

var (
	errAlone = fmt.Errorf("%w, and NoJoin forbids to join it: call Run outside of that one, or leave out NoJoin",
		ErrNested)
	errUnrecorded = fmt.Errorf("%w, which is not recorded: begin the outer one with Recorded", ErrNested)
)

// join runs fn as a part of tx.
func (tx *Tx) join(ctx context.Context, fn func(ctx context.Context, tx *Tx) error, o txConfig) (err error) {
	switch {
	case o.alone:
		return fmt.Errorf("begin: %w", errAlone)
	case o.class == txn.Recorded && tx.id.Class() != txn.Recorded:
		return fmt.Errorf("begin: %w", errUnrecorded)
	}
	if err := tx.working(ctx); err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	returned := false
	defer func() {
		switch {
		case !returned:
			tx.doom(errPanicked)
		case err != nil:
			tx.doom(err)
		}
	}()
	err = fn(ctx, tx)
	returned = true
	return err
}

// working returns nil unless tx has ended.
func (tx *Tx) working(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), claimPatience) // ctx has ended with tx
	defer cancel()
	if err := tx.take(ctx); err != nil {
		return err
	}
	tx.give()
	return nil
}

var errPanicked = errors.New("a function that had joined the transaction panicked")

// doom makes sure that tx is not committed.
func (tx *Tx) doom(why error) {
	why = fmt.Errorf("a part of the transaction failed: %w", why)
	tx.doomed.CompareAndSwap(nil, &why)
}
