// SPDX-License-Identifier: Apache-2.0

package concord

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/api"
	"github.com/concordtx/concord/protocol/twopc"
	"github.com/concordtx/concord/txn"
)

// Tx is one global transaction. Enlist may be called concurrently; Commit or Rollback
// ends it, the first of them wins.
type Tx struct {
	client   *Client
	id       ID
	cluster  txn.ClusterID
	protocol txn.Protocol
	label    string
	deadline time.Time

	// turn holds one token. Who has it owns what follows; a driver that has begun to end
	// the transaction keeps it.
	turn     chan struct{}
	ended    bool
	core     twopc.Initiator
	branches []*branch // by number
}

var _ adapters.Global = (*Tx)(nil)

// branch is one open session.
type branch struct {
	no       txn.BranchNo
	resource string
	session  adapters.Session
	err      error // why it voted No or did not commit; set before its event is sent
}

func newTx(c *Client, id ID, cluster txn.ClusterID, p txn.Protocol, deadline time.Time) *Tx {
	tx := &Tx{client: c, id: id, cluster: cluster, protocol: p, deadline: deadline, turn: make(chan struct{}, 1)}
	tx.turn <- struct{}{}
	return tx
}

// ID returns the id, which is unique and can be stored with the data. To ask Client.Outcome
// for it later begin the transaction with Recorded: of one that changed a single
// database the cluster hears nothing otherwise.
func (tx *Tx) ID() ID { return tx.id }

// take waits for the turn.
func (tx *Tx) take(ctx context.Context) error {
	select {
	case <-tx.turn:
	case <-ctx.Done():
		return ctx.Err()
	}
	if tx.ended {
		tx.give()
		return ErrTxEnded
	}
	return nil
}

func (tx *Tx) give() { tx.turn <- struct{}{} }

// Enlist returns the open branch of a resource, and opens it at first use. Adapters
// call it; applications call the Tx method of their adapter.
func (tx *Tx) Enlist(ctx context.Context, r adapters.Opener) (adapters.Session, error) {
	ctx, cancel := context.WithDeadline(ctx, tx.deadline)
	defer cancel()
	if err := tx.take(ctx); err != nil {
		return nil, fmt.Errorf("transaction %s: %w", tx.id, err)
	}
	defer tx.give()
	// Before the name is looked up: a second resource of that name may be another database.
	if err := tx.client.resources.fits(ctx, r); err != nil {
		return nil, fmt.Errorf("transaction %s: %w", tx.id, err)
	}
	for _, b := range tx.branches {
		if b.resource == r.Name() {
			return b.session, nil
		}
	}
	if len(tx.branches) == api.MaxBranches {
		return nil, fmt.Errorf("transaction %s has %d branches already, which is the limit: split it", tx.id, api.MaxBranches)
	}
	no := txn.BranchNo(len(tx.branches))
	session, err := r.Open(ctx, txn.XID{Cluster: tx.cluster, ID: tx.id, Branch: no})
	if err != nil {
		return nil, fmt.Errorf("transaction %s: open a branch of %s: %w", tx.id, r.Name(), err)
	}
	tx.branches = append(tx.branches, &branch{no: no, resource: r.Name(), session: session})
	tx.core.Step(twopc.Enlisted{No: no})
	return session, nil
}

// Commit makes all branches permanent, or none. It returns nil when the transaction is
// committed, an *AbortedError when nothing of it happened anywhere, an *UnknownError when
// that could not be learned before ctx or the transaction's time limit ended, and
// ErrTxEnded after an earlier Commit or Rollback. After nil a branch may still be
// applying if ctx ended meanwhile.
func (tx *Tx) Commit(ctx context.Context) error {
	ctx, cancel := context.WithDeadline(ctx, tx.deadline)
	defer cancel()
	if err := tx.claim(ctx); err != nil {
		return err
	}
	return tx.result(ctx, tx.drive(ctx, twopc.CommitAsked{Recorded: tx.id.Class() == txn.Recorded}))
}

// Rollback undoes all branches. An ended context does not keep it from that: it
// takes a bounded time. It returns ErrTxEnded after an earlier Commit or Rollback.
func (tx *Tx) Rollback(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishPatience)
	defer cancel()
	if err := tx.claim(ctx); err != nil {
		return err
	}
	tx.drive(ctx, twopc.RollbackAsked{Reason: "the application asked for it"})
	for _, b := range tx.branches {
		if b.err != nil {
			return fmt.Errorf("roll back %s: %w", b.resource, b.err)
		}
	}
	return nil
}

// claim ends the life of tx as far as others are concerned. Even an ended context
// must claim: the branches have to be ended in any case.
func (tx *Tx) claim(ctx context.Context) error {
	patient, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishPatience)
	defer cancel()
	if err := tx.take(patient); err != nil { // an Enlist that does not return
		return fmt.Errorf("transaction %s: %w", tx.id, err)
	}
	tx.ended = true
	tx.give()
	return nil
}

// result turns the core's reply into what the application gets.
func (tx *Tx) result(ctx context.Context, r twopc.Reply) error {
	cause := errors.New(r.Reason)
	if ended := context.Cause(ctx); ended != nil {
		cause = fmt.Errorf("%s (%w)", r.Reason, ended)
	}
	var resource string
	if r.By {
		b := tx.branches[r.Branch]
		resource, cause = b.resource, b.err
	}
	switch {
	case r.Outcome == txn.Committed:
		return nil
	case r.Outcome == txn.Aborted:
		return &AbortedError{GID: tx.id, Resource: resource, Err: cause}
	case len(tx.branches) == 1 && tx.id.Class() == txn.Plain:
		return &UnknownError{Resource: tx.branches[0].resource, Err: tx.branches[0].err}
	}
	tx.client.doubts.add(tx.id)
	return &UnknownError{GID: tx.id, Err: cause}
}
