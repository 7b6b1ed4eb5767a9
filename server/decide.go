// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"io"

	"connectrpc.com/connect"

	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/coordinator/commit"
	"github.com/concordtx/concord/security/access"
)

// maxUnanswered requests of one stream may be under way. A client that sends more is
// not read until answers went out.
const maxUnanswered = 16384

// commitAnswers are on their way to a client.
type commitAnswers = access.Answers[*concordv1.NumberedAnswer]

// Decide answers a stream of commit requests. One goroutine reads, this one writes, and
// the node's loop puts answers in between.
func (h *handlers) Decide(ctx context.Context,
	stream *connect.BidiStream[concordv1.DecideRequest, concordv1.DecideResponse]) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	redirect := stream.RequestHeader().Get(api.RedirectHeader) != ""
	out := access.NewAnswers(ctx, maxUnanswered, h.metrics.answered)
	// The reader ends with the client's last request, or when this handler returns.
	go func() {
		err := h.metrics.guard(h.log, methodDecide, func() error { return h.readCommits(ctx, stream, out, redirect) })
		if err != nil {
			cancel(err)
		}
		out.Finish() // what was read is still answered
	}()
	return out.Write(ctx, h.node.Closed(), func(list []*concordv1.NumberedAnswer) error {
		return stream.Send(&concordv1.DecideResponse{Answers: list})
	})
}

func (h *handlers) readCommits(ctx context.Context,
	stream *connect.BidiStream[concordv1.DecideRequest, concordv1.DecideResponse], out *commitAnswers,
	redirect bool) error {
	for {
		m, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		b := out.Came(len(m.GetCommits()))
		behind := h.reach(ctx, m.GetSeen())
		for _, c := range m.GetCommits() {
			if err := out.Room(ctx); err != nil {
				return err
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
func (h *handlers) commitLater(ctx context.Context, c *concordv1.NumberedCommit, behind error, from *access.Message,
	out *commitAnswers, redirect bool) {
	number := c.GetNumber()
	request, err := h.parseCommit(ctx, c.GetRequest())
	if err == nil {
		err = behind
	}
	if err != nil {
		out.Add(&concordv1.NumberedAnswer{Number: number, Error: api.CommitError(err)}, from)
		return
	}
	h.node.CommitLater(request, func(r commit.Reply) {
		a := &concordv1.NumberedAnswer{Number: number}
		if to := handable(r.Err); !redirect && to != nil {
			go func() { out.Add(h.relay.commit(ctx, c, to), from) }() // as many as there is room for answers
			return
		}
		if r.Err != nil {
			a.Error = api.CommitError(r.Err)
		} else {
			a.Response = commitResponse(r)
		}
		out.Add(a, from)
	})
}
