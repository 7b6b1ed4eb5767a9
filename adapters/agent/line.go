// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
)

const (
	// maxShared is how large a request may be to share the stream: one that the agent finds too large ends
	// alone, and one that takes long to send holds up nobody.
	maxShared = 16 << 10
	// maxMessage is how many bytes of requests share a message; an agent takes twice as many.
	maxMessage = 512 << 10
)

// ask makes one request, together with others that are made at this moment.
func (c *Client) ask(ctx context.Context, w *concordv1.NumberedWork) (*concordv1.NumberedResult, error) {
	if proto.Size(w) > maxShared {
		return c.call(ctx, w)
	}
	if by, ok := ctx.Deadline(); ok { // so that requests that nobody waits for leave room for others
		w.TimeoutMs = max(1, time.Until(by).Milliseconds())
	}
	w.Traceparent = api.ValidTraceparent(api.Traceparent(ctx))
	return c.line.Ask(ctx, w)
}

func (c *Client) execute(ctx context.Context, w *concordv1.NumberedWork) (*concordv1.ExecuteResponse, error) {
	m, err := c.ask(ctx, w)
	return m.GetExecute(), err
}

// call makes a call of its own.
func (c *Client) call(ctx context.Context, w *concordv1.NumberedWork) (*concordv1.NumberedResult, error) {
	m := &concordv1.NumberedResult{}
	var err error
	switch r := w.GetCall().(type) {
	case *concordv1.NumberedWork_Execute:
		err = put(m)(c.stub.Execute(ctx, r.Execute))
	case *concordv1.NumberedWork_Savepoint:
		err = put(m)(c.stub.Savepoint(ctx, r.Savepoint))
	case *concordv1.NumberedWork_RollbackTo:
		err = put(m)(c.stub.RollbackTo(ctx, r.RollbackTo))
	case *concordv1.NumberedWork_Prepare:
		var a *concordv1.PrepareResponse
		a, err = c.stub.Prepare(ctx, r.Prepare)
		m.Result = &concordv1.NumberedResult_Prepare{Prepare: a}
	case *concordv1.NumberedWork_Finish:
		var a *concordv1.FinishResponse
		a, err = c.stub.Finish(ctx, r.Finish)
		m.Result = &concordv1.NumberedResult_Finish{Finish: a}
	}
	return m, err
}

func put(m *concordv1.NumberedResult) func(*concordv1.ExecuteResponse, error) error {
	return func(a *concordv1.ExecuteResponse, err error) error {
		m.Result = &concordv1.NumberedResult_Execute{Execute: a}
		return err
	}
}

type line = api.Pipe[*concordv1.NumberedWork, *concordv1.NumberedResult]

func (c *Client) open(ctx context.Context) (line, error) {
	bidi, err := c.stub.Work(ctx)
	if err != nil {
		return nil, err
	}
	return pipe{bidi}, nil
}

// pipe is the stream of requests to an agent.
type pipe struct {
	*connect.BidiStreamForClientSimple[concordv1.WorkRequest, concordv1.WorkResponse]
}

// Send implements api.Pipe.
func (p pipe) Send(batch []api.Numbered[*concordv1.NumberedWork]) error {
	for len(batch) > 0 {
		m, size := &concordv1.WorkRequest{}, 0
		for len(m.Work) < len(batch) && size < maxMessage {
			w := batch[len(m.Work)]
			size += proto.Size(w.Of)
			m.Work = append(m.Work, &concordv1.NumberedWork{Number: w.Number, TimeoutMs: w.Of.TimeoutMs,
				Traceparent: w.Of.Traceparent, Call: w.Of.Call})
		}
		if err := p.BidiStreamForClientSimple.Send(m); err != nil {
			return err
		}
		batch = batch[len(m.Work):]
	}
	return nil
}

// Receive implements api.Pipe.
func (p pipe) Receive() ([]api.Numbered[*concordv1.NumberedResult], error) {
	m, err := p.BidiStreamForClientSimple.Receive()
	if err != nil {
		return nil, err
	}
	list := make([]api.Numbered[*concordv1.NumberedResult], len(m.GetResults()))
	for i, a := range m.GetResults() {
		list[i] = api.Numbered[*concordv1.NumberedResult]{Number: a.GetNumber(), Of: a}
		if e := a.GetError(); e != nil {
			list[i].Err = api.FromCommitError(e)
		}
	}
	return list, nil
}
