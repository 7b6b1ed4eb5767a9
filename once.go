// SPDX-License-Identifier: Apache-2.0

package concord

import (
	"context"
	"errors"
	"fmt"

	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/txn"
)

// MaxResult is how many bytes Tx.SetResult keeps at most.
const MaxResult = txn.MaxResult

// Once is what RunOnce did, or what was done before.
type Once struct {
	GID    ID // of the transaction that is committed under the key
	Result []byte
	// Replayed says that it was committed before, by somebody else or by an earlier call.
	Replayed bool
}

// RunOnce is Run at most once for a key: it commits, or finds what was committed under the key before
// and returns that with Replayed. So a request that comes again, because its answer was lost, is not
// done twice, whoever handles it. A key has at most 128 bytes, is shared by all clients of the cluster, and
// is remembered as long as outcomes are, seven days by default.
//
// An error means that nothing was committed under the key so far, except an *UnknownError and what the
// cluster could not be asked: call RunOnce again, with the same key. Calls that run at the same time may all call fn,
// and one of them commits; the others are rolled back and return its result.
func (c *Client) RunOnce(ctx context.Context, key string, fn func(ctx context.Context, tx *Tx) error,
	opts ...TxOption) (Once, error) {
	if err := api.ParseKey("RunOnce", key); err != nil {
		return Once{}, fmt.Errorf("begin: %w", err)
	}
	if outer, ok := FromContext(ctx); ok && outer.client == c {
		return Once{}, errOnceWithin
	}
	if used, err := c.keyUse(ctx, key); used != nil || err != nil {
		return replayed(used), err
	}
	var ran *Tx
	err := c.Run(ctx, func(ctx context.Context, tx *Tx) error {
		ran = tx
		return fn(ctx, tx)
	}, append(opts, Recorded(), withKey(key))...)
	if unknown := (*UnknownError)(nil); errors.As(err, &unknown) && ctx.Err() == nil {
		switch outcome, asked := c.Outcome(ctx, unknown.GID); {
		case asked != nil:
			return Once{}, err
		case outcome == Committed:
			err = nil
		case outcome == Aborted:
			err = ran.aborted("", unknown.Err)
		}
	}
	if err == nil {
		return Once{GID: ran.id, Result: ran.kept}, nil
	}
	if errors.Is(err, ErrAborted) && ctx.Err() == nil { // perhaps because another one was faster
		if used, asked := c.keyUse(ctx, key); used != nil && asked == nil {
			return replayed(used), nil
		}
	}
	return Once{}, err
}

var errOnceWithin = errors.New("begin: RunOnce commits a transaction of its own, and its context is that of another " +
	"one: call it outside of Run")

func replayed(used *txn.KeyUse) Once {
	if used == nil {
		return Once{}
	}
	return Once{GID: used.ID, Result: used.Result, Replayed: true}
}

// keyUse returns what is committed under a key, or nil.
func (c *Client) keyUse(ctx context.Context, key string) (*txn.KeyUse, error) {
	res, err := c.api.KeyUse(ctx, &concordv1.KeyUseRequest{Key: key})
	if err != nil {
		return nil, fmt.Errorf("look up what was done under the key: %w", err)
	}
	if res.GetGid() == "" {
		return nil, nil
	}
	id, err := api.ParseID("gid", res.GetGid())
	if err != nil {
		return nil, unknownAnswer(err)
	}
	return &txn.KeyUse{Key: key, ID: id, Result: res.GetResult()}, nil
}

// withKey has the transaction committed under a key. It is for those who know that the cluster knows keys.
func withKey(key string) TxOption { return func(o *txConfig) { o.key = key } }

// SetResult says what is to be kept with the key of a RunOnce, for whoever comes with the same key
// later: at most MaxResult bytes. The last call before the commit counts. It is called by the function of
// RunOnce, on its goroutine.
func (tx *Tx) SetResult(result []byte) error {
	switch {
	case tx.key == "":
		return errors.New("the transaction has no key to keep a result with: use Client.RunOnce")
	case len(result) > MaxResult:
		return fmt.Errorf("the result has %d bytes, and at most %d are kept with a key: keep less, or store it in a "+
			"database and keep its name", len(result), MaxResult)
	}
	tx.kept = append([]byte(nil), result...)
	return nil
}
