// SPDX-License-Identifier: Apache-2.0

package concord

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/txn"
)

// MaxResult is how many bytes Tx.SetResult keeps at most.
const MaxResult = txn.MaxResult

const (
	// claimPause is how long it is waited at first until a key is asked for again, and claimPauseMost in the end.
	claimPause     = 10 * time.Millisecond
	claimPauseMost = 250 * time.Millisecond
)

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
// While another call with the key is under way, anywhere, RunOnce waits for what becomes of it: until ctx ends, or for
// as long as a transaction may take (WithTimeout), and then the error is ErrInFlight. If that call commits its result
// is returned; if it does not, or its client dies, one of those who wait calls its fn.
//
// An error means that nothing was committed under the key so far, except an *UnknownError and what the
// cluster could not be asked: call RunOnce again, with the same key. Who is under way only the leader knows: when
// another node has come to lead, when a call has ended with an *UnknownError, or when more than 10,000 keys are in use
// at a time, two calls may both call fn. One of them commits; the other one is rolled back and returns its result.
func (c *Client) RunOnce(ctx context.Context, key string, fn func(ctx context.Context, tx *Tx) error,
	opts ...TxOption) (Once, error) {
	opts = append(slices.Clone(opts), Recorded(), withKey(key))
	o, err := newTxConfig(opts)
	switch outer, ok := FromContext(ctx); {
	case err != nil:
		return Once{}, err
	case ok && outer.client == c:
		return Once{}, errOnceWithin
	case ctx.Err() != nil:
		return Once{}, fmt.Errorf("begin: %w", ctx.Err())
	}
	c.resources.knows(ctx, txn.LevelKeys) // the cluster itself refuses a key that it does not know
	claim := c.claimKey(ctx, key, o)
	defer claim.end()
	if used, err := claim.wait(ctx); used != nil || err != nil {
		return replayed(used), err
	}
	var ran *Tx
	err = c.Run(ctx, func(ctx context.Context, tx *Tx) error {
		ran = tx
		return fn(ctx, tx)
	}, opts...)
	// What the function returns may be about another transaction, of an outcome that says nothing about this one.
	if unknown := (*UnknownError)(nil); ran != nil && errors.As(err, &unknown) && unknown.GID == ran.id &&
		ctx.Err() == nil {
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
		claim.over = true // the cluster knows
		return Once{GID: ran.id, Result: ran.kept}, nil
	}
	if errors.Is(err, ErrAborted) && ctx.Err() == nil { // perhaps because another one was faster
		if used, asked := claim.giveBack(ctx); used != nil && asked == nil {
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

// withKey has the transaction committed under a key. It is for those who know that the cluster knows keys.
func withKey(key string) TxOption { return func(o *txConfig) { o.once, o.key = true, key } }

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

// keyClaim is what the cluster knows of a RunOnce while it is under way. It lives as long as the client's lease, and
// no longer than all attempts may take.
type keyClaim struct {
	client   *Client
	key      string
	by       txn.ID
	patience time.Time     // until then, another one is waited for
	lasts    time.Duration // from the moment at which it is told
	told     bool          // the cluster may know of it
	over     bool          // the cluster knows that it is over
}

func (c *Client) claimKey(ctx context.Context, key string, o txConfig) *keyClaim {
	_, longest := c.resources.cluster()
	patience, limit := o.limit(ctx, longest)
	lease := c.lease.begin(ctx, min(beginPatience, time.Until(patience)/4))
	once := limit.after + finishPatience + 2*o.retry.Max
	return &keyClaim{client: c, key: key, by: txn.NewID(c.resources.now()).WithLease(lease), patience: patience,
		lasts: time.Duration(max(1, o.retry.Attempts)) * once}
}

// wait claims the key, or returns what is committed under it.
func (k *keyClaim) wait(ctx context.Context) (*txn.KeyUse, error) {
	ctx, cancel := context.WithDeadline(ctx, k.patience)
	defer cancel()
	pauses := &backoff.ExponentialBackOff{InitialInterval: claimPause, MaxInterval: claimPauseMost, Multiplier: 2,
		RandomizationFactor: 0.5}
	pauses.Reset()
	for waited := false; ; waited = true {
		used, taken, err := k.ask(ctx, k.lasts)
		if used != nil || err == nil && !taken {
			return used, nil
		}
		if err == nil {
			err = api.Wait(ctx, pauses.NextBackOff())
		}
		switch {
		case err == nil:
		case ctx.Err() != nil && (taken || waited):
			return nil, fmt.Errorf("begin: %w (%w): call RunOnce again, with the same key, to learn what became of it",
				ErrInFlight, ctx.Err())
		default:
			return nil, err
		}
	}
}

// giveBack lets others have the key, and returns what is committed under it.
func (k *keyClaim) giveBack(ctx context.Context) (*txn.KeyUse, error) {
	used, _, err := k.ask(ctx, 0)
	k.over = k.over || err == nil
	return used, err
}

// end gives the key back unless the cluster knows, off the caller's path, and lets go of the lease.
func (k *keyClaim) end() {
	defer k.client.lease.done()
	if k.over || !k.told {
		return
	}
	k.client.inBackground(func() { // if not, it ends by its time
		ctx, cancel := context.WithTimeout(k.client.life, finishPatience)
		defer cancel()
		_, _ = k.giveBack(ctx)
	})
}

// ask returns what is committed under the key, or nil and whether somebody else has claimed it. If nobody has, it is
// claimed for so long, and given back with zero.
func (k *keyClaim) ask(ctx context.Context, lasts time.Duration) (used *txn.KeyUse, taken bool, err error) {
	k.told = true
	res, err := k.client.api.KeyUse(ctx, &concordv1.KeyUseRequest{Key: k.key, Claim: k.by.String(),
		ClaimMs: lasts.Milliseconds()})
	if err != nil {
		return nil, false, fmt.Errorf("look up what was done under the key: %w", err)
	}
	if res.GetGid() == "" {
		k.told = !res.GetClaimed()
		return nil, res.GetClaimed(), nil
	}
	k.over = true
	id, err := api.ParseID("gid", res.GetGid())
	if err != nil {
		return nil, false, unknownAnswer(err)
	}
	return &txn.KeyUse{Key: k.key, ID: id, Result: res.GetResult()}, false, nil
}
