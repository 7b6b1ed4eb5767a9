// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/cenkalti/backoff/v5"
	"google.golang.org/protobuf/proto"

	"github.com/concordtx/concord/txn"
)

// unary makes an ordinary call, which says what the client has seen.
func unary[Req proto.Message, Res any](do func(stub, context.Context, Req) (Res, error)) func(*node, context.Context,
	Req) (Res, error) {
	return func(n *node, ctx context.Context, r Req) (Res, error) {
		res, err := do(n.stub, ctx, stamped(r, n.seen.String()))
		if err == nil {
			n.seen.raise(zxidOf(res))
		}
		return res, err
	}
}

// manner says which nodes answer a call, and how fast.
type manner uint8

// call does one call on one node after the other until there is an answer.
func call[Req, Res any](ctx context.Context, c *Client, op string, how manner, req Req,
	do func(*node, context.Context, Req) (Res, error)) (Res, error) {

	ctx, cancel := context.WithTimeout(ctx, c.opts.Patience)
	defer cancel()
	var none Res
	limit := c.opts.Attempt
	switch {
	case how&looks != 0:
		limit *= 4
	case how&slow != 0:
		limit *= 10
	}
	var failed attempts
	pause := newPause()
	tour, inVain, heard := c.newTour(how), false, false
	for {
		n := tour.next()
		if n == nil { // asked everybody in vain
			_ = Wait(ctx, pause.NextBackOff())
			if ctx.Err() != nil {
				return none, &NoAnswerError{Op: op, Attempts: failed, Err: context.Cause(ctx)}
			}
			tour, inVain = c.newTour(how), true
			continue
		}
		attempt, done := context.WithTimeout(ctx, limit)
		var handed *handOn
		if how&ofLeader != 0 && (inVain || n.handsOn()) {
			attempt, handed = withHandOn(attempt)
		}
		res, err := do(n, attempt, req)
		done()
		if err == nil {
			if handed != nil {
				n.noteHandOn(handed.done)
			}
			if how&ofLeader != 0 {
				c.remember(n.addr)
			}
			return res, nil
		}
		err = FromStatus(err)
		if ctx.Err() == nil { // else it was cut off, and an earlier answer says more
			failed.add(n.addr, err)
		} else {
			failed.addFirst(n.addr, err)
		}
		c.opts.Logger.Debug("a coordinator node did not carry out a request", "op", op, "addr", n.addr, "err", err)
		switch notLeader := (*txn.NotLeaderError)(nil); {
		case ctx.Err() != nil:
			return none, &NoAnswerError{Op: op, Attempts: failed, Err: context.Cause(ctx)}
		case errors.As(err, &notLeader):
			heard = heard || !notLeader.Untouched
			c.forget(n.addr)
			tour.hint(notLeader.API)
		case errors.Is(err, txn.ErrBusy): // the leader lives; asking others would not help
			tour.left = nil
		case final(err):
			return none, &refusal{op: op, err: err, heard: heard}
		default: // the node is gone or going, or the connection broke at whatever point
			heard = heard || !notReached(err)
			c.forget(n.addr)
		}
	}
}

// refusal is the answer of a node.
type refusal struct {
	op    string
	err   error
	heard bool // perhaps by another node before, which did not answer
}

func (e *refusal) Error() string { return e.op + ": " + e.err.Error() }

func (e *refusal) Unwrap() error { return e.err }

// Unheard reports whether err says that a call was refused and that no other node can have
// heard of it, so that it had no effect and never will.
func Unheard(err error) bool {
	var r *refusal
	return errors.As(err, &r) && !r.heard
}

// notReached reports whether a node cannot have got the request.
func notReached(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial" || errors.Is(err, errNotSent)
}

// final reports whether a node has answered. Everything else is repeated: a call that
// broke off may have been heard, and is safe to repeat.
func final(err error) bool {
	for _, kind := range []error{txn.ErrInvalid, txn.ErrNotFound, txn.ErrDecided, txn.ErrRefused, txn.ErrTooOld,
		txn.ErrUnauthenticated, txn.ErrDenied} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return connect.CodeOf(err) == connect.CodeUnimplemented
}

// tour is one round over the nodes.
type tour struct {
	c    *Client
	left []string
	seen map[string]bool
}

// newTour starts at the leader for its calls, else at the first given node.
func (c *Client) newTour(how manner) *tour {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := &tour{c: c, seen: make(map[string]bool)}
	if how&ofLeader != 0 && c.leader != "" {
		t.left = append(t.left, c.leader)
	}
	t.left = append(t.left, c.given...)
	return t
}

func (t *tour) next() *node {
	for len(t.left) > 0 {
		addr := t.left[0]
		t.left = t.left[1:]
		if t.seen[addr] {
			continue
		}
		t.seen[addr] = true
		if n := t.c.node(addr); n != nil {
			return n
		}
	}
	return nil
}

// hint moves the named leader to the front, unless it was asked in this round.
func (t *tour) hint(addr string) {
	if addr != "" {
		t.left = append([]string{addr}, t.left...)
	}
}

// node returns nil for a named leader whose address is malformed or that is one too many.
func (c *Client) node(addr string) *node {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := c.nodes[addr]; n != nil {
		return n
	}
	if _, _, err := net.SplitHostPort(addr); err != nil || len(c.nodes) >= maxNodes {
		return nil
	}
	c.nodes[addr] = c.newNode(addr)
	return c.nodes[addr]
}

func (c *Client) remember(addr string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leader = addr
}

func (c *Client) forget(addr string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.leader == addr {
		c.leader = ""
	}
}

// newPause spreads repetitions: 25 ms, growing to half a second, half of it random.
func newPause() *backoff.ExponentialBackOff {
	return &backoff.ExponentialBackOff{InitialInterval: 25 * time.Millisecond, RandomizationFactor: 0.5, Multiplier: 2,
		MaxInterval: 500 * time.Millisecond}
}

// Wait waits for so long, or until ctx ends, and returns its error then.
func Wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// NoAnswerError says that no node did what was asked before the time was up. Whether
// an attempt had an effect is not known, but repeating the call is safe. It wraps
// txn.ErrUnavailable.
type NoAnswerError struct {
	Op       string
	Attempts []Attempt // the last one for each address, in order of the addresses' first
	Err      error     // why no further attempt was made
}

// Attempt is what one address said.
type Attempt struct {
	Addr string
	Err  error
}

// Error lists what each address said and ends with the next step.
func (e *NoAnswerError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: no coordinator node did it in time (%v)", e.Op, e.Err)
	var addrs []string
	for _, a := range e.Attempts {
		fmt.Fprintf(&b, "; %s: %v", a.Addr, a.Err)
		addrs = append(addrs, a.Addr)
	}
	fmt.Fprintf(&b, "; check the nodes with \"concord status --addr %s\"", strings.Join(addrs, ","))
	return b.String()
}

// Unwrap returns txn.ErrUnavailable and why no further attempt was made.
func (e *NoAnswerError) Unwrap() []error { return []error{txn.ErrUnavailable, e.Err} }

type attempts []Attempt

// addFirst adds what is known of an address of which nothing else is known.
func (a *attempts) addFirst(addr string, err error) {
	if !slices.ContainsFunc(*a, func(x Attempt) bool { return x.Addr == addr }) {
		a.add(addr, err)
	}
}

// add keeps the last error of each address.
func (a *attempts) add(addr string, err error) {
	for i := range *a {
		if (*a)[i].Addr == addr {
			(*a)[i].Err = err
			return
		}
	}
	*a = append(*a, Attempt{Addr: addr, Err: err})
}
