// SPDX-License-Identifier: Apache-2.0

package concord

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/concordtx/concord/api"
	"github.com/concordtx/concord/txn"
)

const (
	// maxParts transactions of other services may be taken part in at a time, and maxEnded that have ended are
	// remembered, until their time limit, to refuse what comes late.
	maxParts = 1 << 14
	maxEnded = 1 << 18
	// leaseless is how long work may go on before its vote in a transaction that was begun without a lease.
	leaseless = 10 * time.Second
)

var (
	errLate = txn.Refusedf("the call has outlived its transaction, which has ended: begin another one, and make the " +
		"call in that")
	errTime = txn.Refusedf("the time limit of the call's transaction is over: allow more (WithTimeout), or do less " +
		"in one transaction")
	errCircle = txn.Refusedf("the transaction came through this very process, which would wait for its own locks: " +
		"do the work before the other service is called, or answer it what it needs to do the work")
	errTwoCallers = txn.Refusedf("another service has called this one in the same transaction, and each would have " +
		"to know what the other one has done: let one of them make all calls of this service in a transaction")
	errStranger = txn.Deniedf("who calls does not take part in the transaction: call with the context that Run " +
		"gives to its function, through concordhttp or concordgrpc")
	errProof = txn.Deniedf("who asks has not begun the transaction: let only who has begun it ask for votes, and " +
		"tell decisions")
	errManyParts = txn.Busyf("%d transactions of other services are taken part in, which is the limit: call again "+
		"later", maxParts)
	errBegunElsewhere = errors.New("the transaction was begun by another service, which commits it: return from the " +
		"handler")
	errGone = errors.New("who began the transaction is gone, or has ended it")
)

// joins are the transactions of other services that a client takes part in.
type joins struct {
	client   *Client
	instance string // this life of the client

	mu    sync.Mutex
	of    map[ID]joining
	parts int // that have not ended
	sweep int // how many of them make it worth while to look for those to forget
}

// joining is a part, or what is remembered of it after its end.
type joining struct {
	capability txn.Capability
	caller     string    // instance that has made all calls
	until      time.Time // nobody can join any more, so it is forgotten
	part       *part     // nil after its end
	end        *concluded
}

func newJoins(c *Client) *joins {
	var b [16]byte
	_, _ = rand.Read(b[:]) // it ends the process if it fails
	return &joins{client: c, instance: hex.EncodeToString(b[:]), of: map[ID]joining{}}
}

// Join is a call that another service has made in a transaction that it began: whoever carries transactions between
// services makes one before the call is handled. concordhttp and concordgrpc do; applications use those.
type Join struct {
	part *part
	call *inCall
	ctx  context.Context
	end  func()
}

// JoinError says why a call cannot take part in its transaction.
type JoinError struct {
	Err error
	// Header is the ParticipationHeader of the refusal; empty if whoever calls need not know.
	Header string
}

// Error says why.
func (e *JoinError) Error() string { return "join a transaction: " + e.Err.Error() }

// Unwrap returns why.
func (e *JoinError) Unwrap() error { return e.Err }

// Join takes part in the transaction that a call came with, in its PropagationHeader. The error is a *JoinError, which
// wraps one of the errors of package api. The first call of a transaction opens this client's part in it; its
// branches vote when who began it asks for that, by JoinService, and are rolled back at its time limit, or
// when it is gone. In the transaction it may call further services, as who began it does.
func (c *Client) Join(ctx context.Context, header string) (*Join, error) {
	p, err := api.ParsePropagation(header)
	if err != nil {
		return nil, &JoinError{Err: err}
	}
	j, err := c.joins.join(ctx, p)
	if err == nil {
		return j, nil
	}
	refusal := &JoinError{Err: err}
	if !errors.Is(err, txn.ErrDenied) {
		refusal.Header = c.joins.answer(api.Participation{Call: p.Call, Failed: err.Error(),
			Passing: errors.Is(err, txn.ErrUnavailable) || errors.Is(err, txn.ErrBusy)})
	}
	return nil, refusal
}

func (j *joins) answer(p api.Participation) string {
	p.Instance, p.Failed = j.instance, api.Readable(p.Failed, txn.MaxReason)
	text, err := api.Text(p.Message())
	if err != nil { // without it the transaction does not commit
		j.client.logger.Error("could not say what was done in a transaction", "error", err)
	}
	return text
}

func (j *joins) join(ctx context.Context, p api.Propagation) (*Join, error) {
	c := j.client
	cluster, _ := c.resources.cluster()
	left := p.Deadline.Sub(c.resources.now())
	switch {
	case p.Cluster != cluster:
		return nil, txn.Refusedf("the transaction is one of cluster %v, and this service uses %v: let both use the "+
			"same cluster", p.Cluster, cluster)
	case p.ID.Class() == txn.LastResource:
		return nil, errCallLast
	case !p.Capability.Fits(p.ID):
		return nil, errStranger
	case slices.Contains(p.Path, j.instance):
		return nil, errCircle
	case p.ID.Class() == txn.ThreePhase:
		return nil, errCallThree
	case left <= 0:
		return nil, errTime
	case p.ID.Lease() == 0: // nobody would notice the death of who began it
		left = min(left, leaseless)
	}
	part, err := j.part(ctx, p, left)
	if err != nil {
		return nil, err
	}
	call, err := part.enter(p)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(part.tx.life, func() { cancel(context.Cause(part.tx.life)) })
	ctx = context.WithValue(NewContext(ctx, part.tx), inCallKey{}, call)
	return &Join{part: part, call: call, ctx: ctx, end: func() { stop(); cancel(nil) }}, nil
}

// part returns the part in a transaction, and opens it if there is none.
func (j *joins) part(ctx context.Context, p api.Propagation, left time.Duration) (*part, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	known, ok := j.of[p.ID]
	switch {
	case ok && known.capability != p.Capability:
		return nil, errStranger
	case ok && known.part == nil:
		return nil, errLate
	case ok && known.caller != p.Caller():
		return nil, errTwoCallers
	case ok:
		return known.part, nil
	}
	if len(j.of) >= j.sweep {
		j.forget()
	}
	if j.parts >= maxParts || len(j.of)-j.parts >= maxEnded {
		return nil, errManyParts
	}
	if !j.client.enter() {
		return nil, txn.Unavailablef("%w", ErrClosed)
	}
	_, longest := j.client.resources.cluster()
	if longest > 0 {
		left = min(left, longest)
	}
	until := time.Now().Add(left)
	opened := newPart(ctx, j, p, until)
	j.of[p.ID] = joining{capability: p.Capability, caller: p.Caller(), until: until, part: opened}
	j.parts++
	return opened, nil
}

// forget lets go of transactions that nobody can join any more.
func (j *joins) forget() {
	now := time.Now()
	for id, known := range j.of {
		if known.part == nil && now.After(known.until) {
			delete(j.of, id)
		}
	}
	j.sweep = max(1024, 2*len(j.of))
}

// over remembers how a part has ended.
func (j *joins) over(id ID, end *concluded) {
	j.mu.Lock()
	defer j.mu.Unlock()
	known := j.of[id]
	known.part, known.end = nil, end
	j.of[id] = known
	j.parts--
}

// Context is that of the call with its transaction: FromContext returns it, and Run joins it. It ends with the
// transaction.
func (j *Join) Context() context.Context { return j.ctx }

// Leave ends the call. With a failure the transaction will not commit. It returns the ParticipationHeader of the
// answer, which must not be sent before. addr is where this process is reached for votes and decisions, host:port;
// empty if that is where the call went.
func (j *Join) Leave(failure error, addr string) (header string) {
	defer j.end()
	return j.part.joins.answer(j.part.leave(j.call, failure, addr))
}
