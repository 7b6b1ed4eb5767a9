// SPDX-License-Identifier: Apache-2.0

package service

import (
	"context"
	"errors"
	"io"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/api/concord/v1/concordv1connect"
	"github.com/concordtx/concord/security/access"
	"github.com/concordtx/concord/txn"
)

const (
	// maxUnanswered requests of one stream may be under way. A client that sends more is not read until
	// answers went out.
	maxUnanswered = 1024
	// maxAnswers is how many bytes of answers share a message, unless one alone is larger.
	maxAnswers = 1 << 20
)

// Work answers a stream of requests. One goroutine reads, this one writes, and each request has one of its
// own, as a call has.
func (h *handlers) Work(ctx context.Context,
	stream *connect.BidiStream[concordv1.WorkRequest, concordv1.WorkResponse]) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	out := access.NewAnswers(ctx, maxUnanswered, func(*concordv1.NumberedResult, time.Duration) {})
	go func() {
		err := h.calls.guarded("Work", func() error { return h.readWork(ctx, stream, out) })
		if err != nil {
			cancel(err)
		}
		out.Finish() // what was read is still answered
	}()
	return out.Write(ctx, h.agent.Closed(), func(list []*concordv1.NumberedResult) error {
		for len(list) > 0 {
			n, size := 0, 0
			for n < len(list) && (n == 0 || size < maxAnswers) {
				size += proto.Size(list[n])
				n++
			}
			if err := stream.Send(&concordv1.WorkResponse{Results: list[:n]}); err != nil {
				return err
			}
			list = list[n:]
		}
		return nil
	})
}

func (h *handlers) readWork(ctx context.Context,
	stream *connect.BidiStream[concordv1.WorkRequest, concordv1.WorkResponse],
	out *access.Answers[*concordv1.NumberedResult]) error {
	for {
		m, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		from := out.Came(len(m.GetWork()))
		for _, w := range m.GetWork() {
			if err := out.Room(ctx); err != nil {
				return err
			}
			go func() { out.Add(h.one(ctx, stream.Peer().Addr, w), from) }()
		}
	}
}

// one does what a call of its own would have done.
func (h *handlers) one(ctx context.Context, remote string, w *concordv1.NumberedWork) *concordv1.NumberedResult {
	if ms := w.GetTimeoutMs(); ms > 0 && ms < callTimeout.Milliseconds() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(ms)*time.Millisecond)
		defer cancel()
	}
	m := &concordv1.NumberedResult{Number: w.GetNumber()}
	of := func(procedure string) call {
		return call{procedure: procedure, remote: remote, traceparent: w.GetTraceparent()}
	}
	executed := func(a *concordv1.ExecuteResponse) { m.Result = &concordv1.NumberedResult_Execute{Execute: a} }
	var err error
	switch r := w.GetCall().(type) {
	case *concordv1.NumberedWork_Execute:
		err = asCall(ctx, h.calls, of(concordv1connect.ParticipantServiceExecuteProcedure), r.Execute, h.Execute,
			executed)
	case *concordv1.NumberedWork_Savepoint:
		err = asCall(ctx, h.calls, of(concordv1connect.ParticipantServiceSavepointProcedure), r.Savepoint, h.Savepoint,
			executed)
	case *concordv1.NumberedWork_RollbackTo:
		err = asCall(ctx, h.calls, of(concordv1connect.ParticipantServiceRollbackToProcedure), r.RollbackTo,
			h.RollbackTo, executed)
	case *concordv1.NumberedWork_Prepare:
		err = asCall(ctx, h.calls, of(concordv1connect.ParticipantServicePrepareProcedure), r.Prepare, h.Prepare,
			func(a *concordv1.PrepareResponse) { m.Result = &concordv1.NumberedResult_Prepare{Prepare: a} })
	case *concordv1.NumberedWork_Finish:
		err = asCall(ctx, h.calls, of(concordv1connect.ParticipantServiceFinishProcedure), r.Finish, h.Finish,
			func(a *concordv1.FinishResponse) { m.Result = &concordv1.NumberedResult_Finish{Finish: a} })
	default:
		err = txn.Refusedf("request %d of the stream is of a kind that this agent does not know: run the newest "+
			"version of concord on the agent", w.GetNumber())
	}
	if err != nil {
		m.Result = &concordv1.NumberedResult_Error{Error: api.CommitError(err)}
	}
	return m
}

// asCall does a request of a stream as a call of its own would be done, and puts its answer into the result.
func asCall[Req, Res any](ctx context.Context, c *calls, k call, r Req, do func(context.Context, Req) (Res, error),
	put func(Res)) error {
	k.request = r
	return c.do(ctx, k, func(ctx context.Context) error {
		a, err := do(ctx, r)
		put(a)
		return err
	})
}
