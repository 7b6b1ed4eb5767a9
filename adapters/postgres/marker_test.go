// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters/adaptertest"
	"github.com/concordtx/concord/internal/testdb"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

// The files of a server are copied, a branch is prepared and decided to commit, and the copy is put
// back before it was. The server counts on from the old number: what it says of the number of the
// branch is about somebody else, and neither system id nor timeline have changed.
func TestFilesThatWerePutBackProveNothing(t *testing.T) {
	if shared == nil {
		t.Skip("PostgreSQL: NOT RUN (not installed)")
	}
	dir, err := os.MkdirTemp("", "concord-put-back-") // not t.TempDir, where the server's account may not go
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	db, err := testdb.Start(testdb.FlavorPostgres, dir)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	require.NoError(t, furnish(ctx, db))
	marks, err := filepath.Glob(filepath.Join(dir, "*", "PG_VERSION"))
	require.NoError(t, err)
	require.Len(t, marks, 1)
	data := filepath.Dir(marks[0])
	copied := filepath.Join(dir, "copy")

	require.NoError(t, db.Stop())
	copyTree(t, data, copied)
	require.NoError(t, db.Start())
	b := bankOf(t, db)
	_, x, branch := b.prepared()
	e, err := parseEvidence(branch.Evidence)
	require.NoError(t, err)
	require.NoError(t, db.Stop())
	require.NoError(t, os.RemoveAll(data))
	require.NoError(t, os.Rename(copied, data))
	require.NoError(t, db.Start())
	b.admin.Reset()
	b.pool.Reset()
	for range 100 { // until somebody has got the number of the branch
		var next string
		require.NoError(t, b.admin.QueryRow(b.ctx, "select pg_current_xact_id()::text").Scan(&next))
		if next == e.number {
			break
		}
	}
	var what string
	require.NoError(t, b.admin.QueryRow(b.ctx, "select pg_xact_status($1::text::xid8)", e.number).Scan(&what))
	require.Equal(t, "committed", what, "the trap is set")

	found, err := b.Commit(b.ctx, x, branch)
	require.NoError(t, err)
	require.Equal(t, txn.Lost, found, "its row is not there")
	found, err = b.Rollback(b.ctx, x, branch)
	require.NoError(t, err)
	require.Equal(t, txn.AlreadyDone, found)
}

// copyTree copies a directory with its owners, of a server that is stopped.
func copyTree(t *testing.T, from, to string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rest, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rest)
		info, err := d.Info()
		if err != nil {
			return err
		}
		if d.IsDir() {
			err = os.Mkdir(target, info.Mode().Perm())
		} else {
			var content []byte
			if content, err = os.ReadFile(path); err == nil {
				err = os.WriteFile(target, content, info.Mode().Perm())
			}
		}
		if err != nil {
			return err
		}
		owner := info.Sys().(*syscall.Stat_t)
		return os.Chown(target, int(owner.Uid), int(owner.Gid))
	}))
}

func TestMarkerIsThereExactlyIfTheBranchHasCommitted(t *testing.T) {
	b := newBank(t)
	there := func(x txn.XID) int {
		return b.count("select count(*) from concord.branch where cluster = $1 and gid = $2 and branch = $3",
			int64(x.Cluster), x.ID.String(), int16(x.Branch))
	}
	s, x, _ := b.prepared()
	require.Zero(t, there(x))
	_, err := s.Commit(b.ctx)
	require.NoError(t, err)
	require.Equal(t, 1, there(x))
	s, y, _ := b.prepared()
	require.NoError(t, s.Rollback(b.ctx))
	require.Zero(t, there(y))
	require.NoError(t, b.Forget(b.ctx, []txn.XID{x, y}))
	require.Zero(t, there(x))
}

// A DBA has committed the branch. Whoever is to roll it back may know its name alone.
func TestRollbackOfABranchThatSomebodyCommittedIsContradicted(t *testing.T) {
	b := newBank(t)
	_, x, _ := b.prepared()
	b.run(finishText(x, txn.Commit))
	found, err := b.Rollback(b.ctx, x, txn.Branch{No: x.Branch, Resource: "bank"})
	require.NoError(t, err)
	require.Equal(t, txn.Contradicted, found)
}

// A transaction that is read only can leave no marker, and nothing that one would have to prove.
func TestBranchThatIsDeclaredReadOnlyNeedsNoMarker(t *testing.T) {
	b := newBank(t)
	s := b.begin(newXID())
	_, err := b.TxWith(b.ctx, adaptertest.Enlisted(s), TxOptions{ReadOnly: true})
	require.NoError(t, err)
	b.do(s, "select pg_postmaster_start_time()") // for all that anybody knows, it writes
	branch := b.prepare(s)
	e, err := parseEvidence(branch.Evidence)
	require.NoError(t, err)
	require.False(t, e.marker)
	_, err = s.Commit(b.ctx)
	require.NoError(t, err)

	s = b.begin(newXID())
	_, err = b.TxWith(b.ctx, adaptertest.Enlisted(s), TxOptions{ReadOnly: true})
	require.NoError(t, err)
	b.do(s, "set transaction read write")
	b.do(s, insertAccount, newXID().ID.String(), 1)
	require.ErrorIs(t, b.votesNo(s, ""), errReplaced)
}

func TestTableOfTheMarkersIsMadeWhereTheRoleMay(t *testing.T) {
	b := newBank(t)
	b.run("drop database if exists empty", "drop role if exists owner", "create role owner login",
		"create database empty owner owner")
	admin := newPool(t, b.db.DSN("empty"))
	first := b.as("owner", "empty")
	x := newXID()
	s, err := first.Open(b.ctx, x)
	require.NoError(t, err)
	require.NoError(t, do(b.ctx, s, "create table t (v int)"))
	b.prepare(s)
	_, err = s.Commit(b.ctx)
	require.NoError(t, err)
	found, err := b.as("owner", "empty").Commit(b.ctx, x, txn.Branch{No: x.Branch})
	require.NoError(t, err)
	require.Equal(t, txn.AlreadyDone, found)

	// Another role may not write it, and hears what to grant.
	_, err = b.as("stranger", "empty").Open(b.ctx, newXID())
	require.ErrorIs(t, err, errMarker)
	require.ErrorContains(t, err, "GRANT USAGE ON SCHEMA concord")
	report, err := b.as("stranger", "empty").Check(b.ctx)
	require.NoError(t, err)
	require.False(t, report.OK())
	require.True(t, findingOf(t, report, "concord.branch").Problem)

	// Where the table goes away the next vote is a no, and the branch after that makes it again.
	s, err = first.Open(b.ctx, newXID())
	require.NoError(t, err)
	require.NoError(t, do(b.ctx, s, "insert into t values (1)"))
	_, err = admin.Exec(b.ctx, "drop table concord.branch")
	require.NoError(t, err)
	vote, _, err := s.Prepare(b.ctx)
	require.Equal(t, txn.VoteNo, vote)
	require.ErrorIs(t, err, errMarker)
	s, err = first.Open(b.ctx, newXID())
	require.NoError(t, err)
	require.NoError(t, do(b.ctx, s, "insert into t values (2)"))
	b.prepare(s)
	require.NoError(t, s.Rollback(b.ctx))
}

func TestWithoutMarkersNothingProvesACommit(t *testing.T) {
	b := newBank(t, WithoutMarker())
	s, x, branch := b.prepared()
	require.Empty(t, branch.Evidence)
	found, err := b.Commit(b.ctx, x, branch)
	require.NoError(t, err)
	require.Equal(t, txn.Done, found)
	s.giveBack(true)
	found, err = b.Commit(b.ctx, x, branch)
	require.NoError(t, err)
	require.Equal(t, txn.Lost, found)
	xs, err := b.Evidence(b.ctx, txn.XID{})
	require.NoError(t, err)
	require.Empty(t, xs)
}

// Somebody else's rows are nobody's evidence, and end no page early.
func TestStrangeRowsAreNoEvidence(t *testing.T) {
	b := newBank(t)
	s, x, _ := b.prepared()
	_, err := s.Commit(b.ctx)
	require.NoError(t, err)
	b.run("insert into concord.branch select 12648430, 'x' || i, 1 from generate_series(1, 600) i",
		"insert into concord.branch values (99999999999, '01ARZ3NDEKTSV4RRFFQ69G5FAV', 1), (-1, "+
			"'01ARZ3NDEKTSV4RRFFQ69G5FAV', 1), (7, '01ARZ3NDEKTSV4RRFFQ69G5FAV', 999)")
	b.Cleanup(func() {
		b.run("delete from concord.branch where gid not like '0%' or branch > 255 or cluster > 4294967295")
	})
	found := false
	for after := (txn.XID{}); ; {
		xs, err := b.Evidence(b.ctx, after)
		require.NoError(t, err)
		for _, y := range xs {
			found = found || y == x
		}
		if len(xs) == 0 {
			break
		}
		after = xs[len(xs)-1]
	}
	require.True(t, found)
}

// Before the first branch has left evidence there is no table, and so no row to be raised.
func TestARowIsNotRaisedWhereThereIsNoTable(t *testing.T) {
	b := newBank(t)
	_, err := b.admin.Exec(b.ctx, "create database tableless")
	require.NoError(t, err)
	r, err := Open(b.ctx, "bank", b.db.DSN("tableless"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	now, err := r.Raise(b.ctx, 7, txn.HighWater{At: zab.Zxid{Epoch: 1, Counter: 5}}, nil)
	require.NoError(t, err)
	require.True(t, now.IsZero())
}
