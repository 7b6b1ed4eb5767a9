// SPDX-License-Identifier: Apache-2.0

package mysql

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/txn"
)

func TestInspect(t *testing.T) { tellAll(t, inspectStories) }

var inspectStories = []story{
	{"a prepared branch tells which others there are, and whom its session keeps waiting", func(t *testing.T, w *world) {
		r, x := w.open(), newXID()
		s := w.work(r, x, "siblings")
		s.Siblings([]txn.BranchNo{0, 1, 200})
		vote, b, err := s.Prepare(w.ctx)
		require.NoError(t, err)
		require.Equal(t, txn.VoteYes, vote)
		found, err := w.open().Inspect(w.ctx, x)
		require.NoError(t, err)
		require.True(t, found.Prepared)
		require.False(t, found.Committed)
		require.Equal(t, []txn.BranchNo{0, 1, 200}, found.Siblings)

		if !s.link.server.detaches {
			other := w.open()
			waited := make(chan error, 1)
			go func() {
				_, err := w.admin.ExecContext(w.ctx, "UPDATE kv SET v = 8 WHERE k = 'siblings'")
				waited <- err
			}()
			require.Eventually(t, func() bool {
				found, err = other.Inspect(w.ctx, x)
				require.NoError(t, err)
				return len(found.Blocked) == 1
			}, patience, 200*time.Millisecond, "InnoDB looks again only when nobody has asked for 0.1 s")
			require.True(t, strings.HasPrefix(found.Blocked[0].Statement, "UPDATE kv"), "%+v", found.Blocked)
			defer func() { require.NoError(t, <-waited) }()
		}
		require.Equal(t, txn.Done, w.finish(w.open(), txn.Commit, x, b))
		found, err = w.open().Inspect(w.ctx, x)
		require.NoError(t, err)
		require.True(t, found.Committed)
		require.False(t, found.Prepared)
		require.Empty(t, found.Blocked)
	}},
	{"a table of an older version gets its column with the next branch, and until then branches are finished", func(t *testing.T, w *world) {
		w.run(database, CreateMarkerTable, "ALTER TABLE "+markerTable+" DROP COLUMN siblings")
		x := newXID()
		require.Equal(t, txn.Lost, w.finish(w.open(), txn.Commit, x, txn.Branch{No: x.Branch, Resource: "db"}))
		s, b := w.prepared(w.open(), x, "older")
		require.Equal(t, txn.Done, w.finish(w.open(), txn.Commit, x, b))
		_ = s
		w.requireValue("older", 7)
	}},
}
