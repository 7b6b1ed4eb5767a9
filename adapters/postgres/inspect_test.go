// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/txn"
)

// Whoever meets a prepared branch reads from its name which others there are, and whom it keeps
// waiting: by a row, by a table, and behind one who waits himself.
func TestInspectTellsSiblingsAndWhoIsBlocked(t *testing.T) {
	b := newBank(t, WithLockTimeout(0))
	s, x := b.work()
	s.Siblings([]txn.BranchNo{0, 1, 7})
	b.prepare(s)
	require.Equal(t, 1, b.count("select count(*) from pg_prepared_xacts where gid = $1", x.String()+"-000107"))
	left, err := b.Recover(b.ctx)
	require.NoError(t, err)
	require.Len(t, left, 1)
	require.Equal(t, x, left[0].XID)

	done := make(chan error, 2)
	waiter := b.begin(newXID())
	go func() { done <- write(b.ctx, waiter, x.ID.String(), 2) }()
	b.busy(waiter)
	go func() {
		_, err := b.admin.Exec(b.ctx, "alter table account add column if not exists note text")
		done <- err
	}()
	b.eventually(func() bool {
		found, err := b.Inspect(b.ctx, x)
		require.NoError(b, err)
		return len(found.Blocked) == 2
	})
	found, err := b.as("postgres", "").Inspect(b.ctx, x) // others do not see the statements of a superuser
	require.NoError(t, err)
	require.True(t, found.Prepared)
	require.False(t, found.Committed)
	require.Equal(t, []txn.BranchNo{0, 1, 7}, found.Siblings)
	require.Contains(t, found.Blocked[0].Statement, "insert into account")
	require.Contains(t, found.Blocked[1].Statement, "alter table account")
	require.Contains(t, found.Blocked[0].Session, "process ")
	require.Positive(t, found.Blocked[0].For)

	// Anybody finishes it who knows its XID alone.
	finish, err := b.Commit(b.ctx, x, txn.Branch{No: x.Branch})
	require.NoError(t, err)
	require.Equal(t, txn.Done, finish)
	require.NoError(t, <-done)
	require.NoError(t, waiter.Rollback(b.ctx))
	require.NoError(t, <-done)
	found, err = b.Inspect(b.ctx, x)
	require.NoError(t, err)
	require.True(t, found.Committed)
	require.False(t, found.Prepared)
	b.run("alter table account drop column note")
}

func TestNamesAreReadAsTheyAreWritten(t *testing.T) {
	x := newXID()
	for _, siblings := range [][]txn.BranchNo{nil, {1}, {0, 1}, {1, 2, 255}} {
		y, read, ours := parseName(nameOf(x, siblings))
		require.True(t, ours)
		require.Equal(t, x, y)
		require.Equal(t, siblings, read)
	}
	many := make([]txn.BranchNo, 200)
	require.Equal(t, x.String(), nameOf(x, many), "too many for a name")
	for _, tail := range []string{"-", "0", "-0", "-00", "-0100", "-0101", "-01'", "-0001FF", "-0001-", " 0001", "-01\x00"} {
		_, _, ours := parseName(x.String() + tail)
		require.False(t, ours, "%q", tail)
	}
}
