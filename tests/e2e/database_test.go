// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/txn"
)

func TestDatabaseKilled(t *testing.T) {
	b := newBank(t)
	c := startCluster(t, settings{resources: b.resources(), maxAge: 4 * time.Second, grace: time.Second,
		scan: 500 * time.Millisecond})
	caller := c.caller()
	for no, d := range []*database{b.left, b.right} {
		t.Run(d.server.Flavor()+" between prepare and commit", func(t *testing.T) {
			b, c := b.in(t), c.in(t)
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			h, err := b.prepareTransfer(ctx, c.id)
			require.NoError(t, err)
			require.NoError(t, d.server.Kill())
			res, err := caller.Commit(ctx, h.request())
			require.NoError(t, err)
			require.Equal(t, txn.Commit.String(), res.GetDecision(), res.GetReason())
			// It stays down until the cluster has tried in vain: the decision is kept.
			eventually(t, "the attempts to reach the database are shown", func() bool {
				x := c.get(h.id)
				require.Equal(t, "committing", x.State)
				return len(x.Branches) == 2 && x.Branches[no].Error != "" && x.Branches[no].State == "prepared" &&
					x.Branches[1-no].State == "committed"
			})
			r := c.command("tx", "wait", h.id.String(), "--timeout", "500ms")
			require.Equal(t, 4, r.code, "%v", r)
			require.NoError(t, d.server.Start())
			b.settled(c)
			require.Equal(t, concord.Committed, b.shows(h.id))
			r = c.command("tx", "wait", h.id.String(), "--timeout", "60s")
			require.Equal(t, 0, r.code, "%v", r)
		})
		t.Run(d.server.Flavor()+" after prepare and nobody decides", func(t *testing.T) {
			b, c := b.in(t), c.in(t)
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			h, err := b.prepareTransfer(ctx, c.id)
			require.NoError(t, err)
			require.NoError(t, d.server.Kill())
			require.NoError(t, d.server.Start())
			require.NotEmpty(t, d.prepared(t, c.id), "a prepared branch survives a crash")
			b.settled(c)
			require.Equal(t, concord.Aborted, b.shows(h.id))
			require.Equal(t, 0, c.command("tx", "wait", h.id.String()).code)
			require.Equal(t, "aborted", c.get(h.id).State)
		})
	}
	b.sumHolds()
}

func TestDatabasesKilledUnderLoad(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	b := newBank(t)
	c := startCluster(t, settings{resources: b.resources(), maxAge: 10 * time.Second, grace: 2 * time.Second,
		scan: time.Second})
	over := make(chan struct{})
	l := startLoad(ctx, b, c.dial(), 8, func(int) bool {
		select {
		case <-over:
			return true
		default:
			return false
		}
	})
	for _, d := range []*database{b.left, b.right, b.left, b.right} {
		before := l.sofar()
		eventually(t, "transfers commit", func() bool { return l.sofar() > before+100 })
		require.NoError(t, d.server.Kill())
		require.NoError(t, d.server.Start())
	}
	before := l.sofar()
	eventually(t, "transfers commit", func() bool { return l.sofar() > before+100 })
	close(over)
	l.wait(t, c)
}
