// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/coordinator/commit"
	"github.com/concordtx/concord/security/access"
)

// maxUnanswered requests of one stream may be under way. A client that sends more is
// not read until answers went out.
const maxUnanswered = 16384

// Decide answers a stream of commit requests. One goroutine reads, this one writes, and
// the node's loop puts answers in between.
func (h *handlers) Decide(ctx context.Context,
	stream *connect.BidiStream[concordv1.DecideRequest, concordv1.DecideResponse]) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	redirect := stream.RequestHeader().Get(api.RedirectHeader) != ""
	out := &answers{wake: make(chan struct{}, 1), room: make(chan struct{}, maxUnanswered), measure: h.metrics.answered,
		held: access.HeldBy(ctx)}
	// The reader ends with the client's last request, or when this handler returns.
	go func() {
		err := h.metrics.guard(h.log, methodDecide, func() error { return h.readCommits(ctx, stream, out, redirect) })
		if err != nil {
			cancel(err)
		}
		out.finish() // what was read is still answered
	}()
	return out.write(ctx, h.node.Closed(), stream)
}

func (h *handlers) readCommits(ctx context.Context,
	stream *connect.BidiStream[concordv1.DecideRequest, concordv1.DecideResponse], out *answers, redirect bool) error {
	for {
		m, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		b := &batch{came: time.Now(), size: out.held.Took()}
		b.open.Store(int64(len(m.GetCommits())))
		if len(m.GetCommits()) == 0 {
			out.held.Give(b.size)
		}
		behind := h.reach(ctx, m.GetSeen())
		for _, c := range m.GetCommits() {
			select {
			case out.room <- struct{}{}:
			case <-ctx.Done():
				return ctx.Err()
			}
			h.commitLater(ctx, c, behind, b, out, redirect)
		}
	}
}

// reach waits until this node, if it leads, has come as far as the client has seen.
func (h *handlers) reach(ctx context.Context, seen string) error {
	at, err := api.ParseZxid("seen", seen)
	if s := h.node.Status(); err != nil || s.Leader != s.Node {
		return err
	}
	return h.node.Reach(ctx, at)
}

// commitLater answers a request of a batch. What is wrong with it goes before that this
// node is behind: who speaks of another cluster has seen what this one never reaches.
func (h *handlers) commitLater(ctx context.Context, c *concordv1.NumberedCommit, behind error, from *batch,
	out *answers, redirect bool) {
	number := c.GetNumber()
	request, err := h.parseCommit(ctx, c.GetRequest())
	if err == nil {
		err = behind
	}
	if err != nil {
		out.add(&concordv1.NumberedAnswer{Number: number, Error: api.CommitError(err)}, from)
		return
	}
	h.node.CommitLater(request, func(r commit.Reply) {
		a := &concordv1.NumberedAnswer{Number: number}
		if to := handable(r.Err); !redirect && to != nil {
			go func() { out.add(h.relay.commit(ctx, c, to), from) }() // as many as there is room for answers
			return
		}
		if r.Err != nil {
			a.Error = api.CommitError(r.Err)
		} else {
			a.Response = commitResponse(r)
		}
		out.add(a, from)
	})
}

// batch is a message with requests, of which open ones are not answered. It is held until all are.
type batch struct {
	came time.Time
	size int64
	open atomic.Int64
}

// answers are on their way to the client. room holds a token for each request that is not
// written yet, which bounds the queue.
type answers struct {
	wake chan struct{} // capacity 1: "look again"; when full, one is there already
	room chan struct{}
	// measure is told how long each answer took, when it is written.
	measure func(*concordv1.NumberedAnswer, time.Duration)
	held    *access.Held

	mu     sync.Mutex
	queue  []*concordv1.NumberedAnswer
	of     []*batch // of the requests, in the order of queue
	ending bool
}

func (a *answers) add(m *concordv1.NumberedAnswer, from *batch) {
	a.mu.Lock()
	a.queue, a.of = append(a.queue, m), append(a.of, from)
	a.mu.Unlock()
	a.notify()
}

func (a *answers) finish() {
	a.mu.Lock()
	a.ending = true
	a.mu.Unlock()
	a.notify()
}

func (a *answers) notify() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// write sends what is there, all in one message, until the stream or the node ends.
func (a *answers) write(ctx context.Context, closed <-chan struct{},
	stream *connect.BidiStream[concordv1.DecideRequest, concordv1.DecideResponse]) error {
	for {
		select {
		case <-a.wake:
		case <-closed:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		a.mu.Lock()
		queue, of := a.queue, a.of
		a.queue, a.of = nil, nil
		ended := a.ending && len(a.room) == len(queue)
		a.mu.Unlock()
		if len(queue) > 0 {
			if err := stream.Send(&concordv1.DecideResponse{Answers: queue}); err != nil {
				return err
			}
		}
		written := time.Now()
		for i, m := range queue {
			a.measure(m, written.Sub(of[i].came))
			if of[i].open.Add(-1) == 0 {
				a.held.Give(of[i].size)
			}
			<-a.room
		}
		if ended {
			return nil
		}
	}
}
