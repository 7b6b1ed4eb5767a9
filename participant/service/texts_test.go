// SPDX-License-Identifier: Apache-2.0

package service

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/internal/said"
	"github.com/concordtx/concord/participant"
	"github.com/concordtx/concord/txn"
)

// messages are the errors of calls that no text of the agent itself is behind: how to get them, what they say as the
// caller hears it, and what they wrap.
var messages = []struct {
	name string
	meet func(context.Context) error
	says string
	is   error
}{
	{"a call that panics", func(ctx context.Context) error {
		c := &calls{log: slog.New(slog.DiscardHandler)}
		_, err := c.WrapUnary(func(context.Context, connect.AnyRequest) (connect.AnyResponse, error) {
			panic("oh no")
		})(ctx, connect.NewRequest(&concordv1.DescribeRequest{}))
		return err
	}, "internal: internal error: the agent's log says more", nil},
	{"too many calls", func(ctx context.Context) error {
		var call connect.UnaryFunc // which calls itself until there are too many
		var last error
		call = (&calls{log: slog.New(slog.DiscardHandler)}).WrapUnary(func(ctx context.Context,
			r connect.AnyRequest) (connect.AnyResponse,
			error) {
			res, err := call(ctx, r)
			if last == nil {
				last = err
			}
			return res, nil
		})
		_, err := call(ctx, connect.NewRequest(&concordv1.DescribeRequest{}))
		if err != nil {
			return err
		}
		return last
	}, "4096 calls are under way at this agent: ask again in a moment", txn.ErrBusy},
	{"too many streams", func(ctx context.Context) error {
		c := &calls{log: slog.New(slog.DiscardHandler)}
		c.streams.Store(maxStreams)
		return c.WrapStreamingHandler(nil)(ctx, nil)
	}, "1024 streams are open at this agent: ask again in a moment", txn.ErrBusy},
	{"a request of a later version", func(ctx context.Context) error {
		m := (&handlers{}).one(ctx, "", &concordv1.NumberedWork{Number: 7})
		return api.FromCommitError(m.GetError())
	}, "request 7 of the stream is of a kind that this agent does not know: run the newest version of concord on " +
		"the agent", txn.ErrRefused},
	{"a resource of somebody else", func(context.Context) error {
		_, err := (&handlers{agent: &participant.Agent{}}).database("orders")
		return api.ToStatus(err)
	}, `the agent "" hosts no resource "orders": add it to "resources" in its configuration`,
		txn.ErrNotFound},
}

func TestWhatErrorsSay(t *testing.T) {
	for _, m := range messages {
		t.Run(m.name, func(t *testing.T) {
			err := api.FromStatus(m.meet(t.Context()))
			require.EqualError(t, err, m.says)
			require.True(t, m.is == nil || errors.Is(err, m.is))
		})
	}
}

// Who writes another error finds out here that its text has to be looked at by everybody.
func TestEveryErrorHasARow(t *testing.T) {
	var rows []string
	for _, m := range messages {
		rows = append(rows, m.says)
	}
	said.Check(t, rows, nil)
}
