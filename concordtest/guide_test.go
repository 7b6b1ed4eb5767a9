// SPDX-License-Identifier: Apache-2.0

package concordtest_test

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/adapters/memory"
	"github.com/concordtx/concord/concordtest"
)

// What follows is in docs/guide.md, word for word.

// place puts an order into one database and its bill into another: both, or neither.
func place(ctx context.Context, c *concord.Client, orders, billing *memory.Resource, id string, cents int64) error {
	return c.Run(ctx, func(ctx context.Context, tx *concord.Tx) error {
		order, err := orders.Tx(ctx, tx)
		if err != nil {
			return err
		}
		if err := order.Put(ctx, id, cents); err != nil {
			return err
		}
		bill, err := billing.Tx(ctx, tx)
		if err != nil {
			return err
		}
		return bill.Put(ctx, id, cents)
	}, concord.WithLabel("order "+id), concord.WithRetry(concord.RetryPolicy{}))
}

func TestPlace(t *testing.T) {
	orders, billing := concordtest.Memory("orders"), concordtest.Memory("billing")
	c := concordtest.New(t, orders, billing)
	try := func(id string) error {
		return place(t.Context(), c.Client(), orders.Resource(), billing.Resource(), id, 500)
	}
	require.NoError(t, try("7"))

	c.FailVote("billing") // then nothing happens anywhere
	require.ErrorIs(t, try("8"), concord.ErrAborted)

	c.KillLeader() // which costs a moment
	require.NoError(t, try("8"))

	c.LoseAnswer() // it is decided, and we do not hear how
	var unknown *concord.UnknownError
	require.ErrorAs(t, try("9"), &unknown)
	outcome, err := c.Client().Outcome(t.Context(), unknown.GID)
	require.NoError(t, err)
	require.Equal(t, concord.Committed, outcome)
}

// Here the guide's code ends.

func TestTheGuideShowsThisCode(t *testing.T) {
	source, err := os.ReadFile("guide_test.go")
	require.NoError(t, err)
	_, rest, found := strings.Cut(string(source), "word for word.\n\n")
	require.True(t, found)
	code, _, found := strings.Cut(rest, "\n// Here the guide's code ends.")
	require.True(t, found)
	guide, err := os.ReadFile("../docs/guide.md")
	require.NoError(t, err)
	require.Contains(t, string(guide), code)
}
