// SPDX-License-Identifier: Apache-2.0

package sqlite

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/txn"
)

const (
	committerVar = "CONCORD_SQLITE_COMMITTER"
	cluster      = txn.ClusterID(7)
)

// serveCommitter is the process that is killed: it commits as the last resource, each time under the key that is the
// gid, and says before and after what it is about to commit.
func serveCommitter() {
	path, is := os.LookupEnv(committerVar)
	if !is {
		return
	}
	r, err := Open("ledger", path)
	for err == nil {
		id := txn.NewID(time.Now()).WithClass(txn.LastResource)
		fmt.Println("begin", id)
		if err = commitLast(r, id); err == nil {
			fmt.Println("done", id)
		}
	}
	fmt.Println("failed", err)
	os.Exit(1)
}

func commitLast(r *Resource, id txn.ID) error {
	ctx := context.Background()
	s, err := r.Open(ctx, txn.XID{Cluster: cluster, ID: id, Branch: 1})
	if err != nil {
		return err
	}
	if err := write(ctx, s, id.String(), 1); err != nil {
		return err
	}
	return s.(adapters.Last).CommitLast(ctx, txn.LastMarker{Decision: txn.Commit,
		Branches: []txn.Branch{{No: 2, Resource: "orders"}}})
}

// The process that commits is killed at any moment, the file is opened by others, and whoever settles finds a commit
// exactly where there is work: what was told committed always.
func TestAKilledProcessLeavesWorkAndMarkerOrNeither(t *testing.T) {
	path := newFile(t)
	r := open(t, path)
	ctx := context.Background()
	open := 0
	for round := range 12 {
		cmd := exec.Command(os.Args[0], "-test.run=^$")
		cmd.Env = append(os.Environ(), committerVar+"="+path)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		var begun, done []txn.ID
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			word, text, _ := strings.Cut(lines.Text(), " ")
			id, err := txn.ParseID(text)
			require.NoError(t, err, lines.Text())
			if word == "done" {
				done = append(done, id)
				continue
			}
			begun = append(begun, id)
			if len(begun) == 3+round%3 {
				time.AfterFunc(time.Duration(round)*150*time.Microsecond, func() { _ = cmd.Process.Kill() })
			}
		}
		require.Error(t, cmd.Wait())
		require.NotEmpty(t, done)
		for _, id := range begun {
			m, err := r.Settle(ctx, cluster, id)
			require.NoError(t, err)
			_, worked := valueIn(t, r, id.String())
			require.Equal(t, m.Decision == txn.Commit, worked, id)
			if m.Decision == txn.Commit {
				require.Equal(t, []txn.Branch{{No: 2, Resource: "orders"}}, m.Branches)
			}
		}
		for _, id := range done {
			_, worked := valueIn(t, r, id.String())
			require.True(t, worked, "%v was told committed", id)
		}
		open += len(begun) - len(done)
		var integrity string
		require.NoError(t, r.db.QueryRowContext(ctx, "PRAGMA integrity_check").Scan(&integrity))
		require.Equal(t, "ok", integrity)
	}
	require.Positive(t, open, "no process was killed in the middle of anything")
}

// Whoever settles waits for a transaction that works in the file, since that may be the one in question; when its
// process dies it is gone, with its lock.
func TestSettlingWaitsForWhoWrites(t *testing.T) {
	path := newFile(t)
	writer, r := open(t, path), open(t, path)
	ctx := context.Background()
	x := txn.XID{Cluster: cluster, ID: txn.NewID(time.Now()).WithClass(txn.LastResource), Branch: 1}
	s, err := writer.Open(ctx, x)
	require.NoError(t, err)
	require.NoError(t, write(ctx, s, "k", 1))
	_, err = r.Settle(ctx, cluster, x.ID)
	require.ErrorIs(t, err, adapters.ErrLastHeld)
	require.NoError(t, s.(adapters.Last).CommitLast(ctx, txn.LastMarker{Decision: txn.Commit}))
	m, err := r.Settle(ctx, cluster, x.ID)
	require.NoError(t, err)
	require.Equal(t, txn.Commit, m.Decision)
}

// A wait for the lock ends with its context, and leaves nothing.
func TestACancelledWaitLeavesNothingLocked(t *testing.T) {
	path := newFile(t)
	r, other := open(t, path), open(t, path)
	ctx := context.Background()
	begin := func(r *Resource) adapters.Session {
		s, err := r.Open(ctx, txn.XID{Cluster: cluster, ID: txn.NewID(time.Now()), Branch: 1})
		require.NoError(t, err)
		return s
	}
	holder, waiter := begin(r), begin(other)
	require.NoError(t, write(ctx, holder, "k", 1))
	short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	err := write(short, waiter, "k", 2)
	require.Error(t, err)
	require.True(t, other.Transient(err))
	require.ErrorIs(t, waiter.CommitOnePhase(ctx), adapters.ErrNotCommitted)
	require.NoError(t, waiter.Rollback(ctx))
	require.NoError(t, holder.CommitOnePhase(ctx))
	again := begin(other)
	require.NoError(t, write(ctx, again, "k", 3))
	require.NoError(t, again.CommitOnePhase(ctx))
	v, _ := valueIn(t, r, "k")
	require.Equal(t, int64(3), v)
}

// A branch waits for the lock while its transaction is rolled back.
func TestARollbackEndsAWaitForTheLock(t *testing.T) {
	path := newFile(t)
	r := open(t, path)
	ctx := context.Background()
	holder, err := r.Open(ctx, txn.XID{Cluster: cluster, ID: txn.NewID(time.Now()), Branch: 1})
	require.NoError(t, err)
	require.NoError(t, write(ctx, holder, "k", 1))
	waiter, err := r.Open(ctx, txn.XID{Cluster: cluster, ID: txn.NewID(time.Now()), Branch: 1})
	require.NoError(t, err)
	tx, err := waiter.(*session).work(ctx)
	require.NoError(t, err)
	waits := make(chan error, 1)
	go func() {
		_, err := tx.ExecContext(ctx, "INSERT INTO kv VALUES ('k', 2)")
		waits <- err
	}()
	require.NoError(t, waiter.Rollback(ctx))
	require.Error(t, <-waits)
	require.NoError(t, holder.CommitOnePhase(ctx))
}

// What a branch leaves in its connection, temporary tables, nobody else gets.
func TestTemporaryTablesEndWithTheirBranch(t *testing.T) {
	r := open(t, newFile(t))
	ctx := context.Background()
	for range 3 {
		s, err := r.Open(ctx, txn.XID{Cluster: cluster, ID: txn.NewID(time.Now()), Branch: 1})
		require.NoError(t, err)
		require.NoError(t, execIn(ctx, s, "CREATE TEMP TABLE mine (i INTEGER)"))
		require.NoError(t, s.CommitOnePhase(ctx))
	}
}

const addText = "INSERT INTO kv VALUES ('sum', 1) ON CONFLICT DO UPDATE SET v = v + 1"

// Many branches take turns.
func TestBranchesTakeTurns(t *testing.T) {
	r := open(t, newFile(t))
	ctx := context.Background()
	errs := make(chan error)
	const workers, each = 8, 20
	for w := range workers {
		go func() {
			for i := range each {
				err := func() error {
					s, err := r.Open(ctx, txn.XID{Cluster: cluster, ID: txn.NewID(time.Now()), Branch: 1})
					if err != nil {
						return err
					}
					if err := execIn(ctx, s, addText); err != nil {
						return err
					}
					return s.CommitOnePhase(ctx)
				}()
				if err != nil {
					err = fmt.Errorf("%d %d: %w", w, i, err)
				}
				errs <- err
			}
		}()
	}
	for range workers * each {
		require.NoError(t, <-errs)
	}
	v, _ := valueIn(t, r, "sum")
	require.Equal(t, int64(workers*each), v)
}

// A *sql.Tx that the application keeps is of no use when its branch has ended.
func TestAnOldHandleDoesNothing(t *testing.T) {
	r := open(t, newFile(t))
	ctx := context.Background()
	s, err := r.Open(ctx, txn.XID{Cluster: cluster, ID: txn.NewID(time.Now()), Branch: 1})
	require.NoError(t, err)
	tx, err := s.(*session).work(ctx)
	require.NoError(t, err)
	st, err := tx.PrepareContext(ctx, "INSERT INTO kv VALUES ('k', 1)")
	require.NoError(t, err)
	require.NoError(t, s.Rollback(ctx))
	next, err := r.Open(ctx, txn.XID{Cluster: cluster, ID: txn.NewID(time.Now()), Branch: 1})
	require.NoError(t, err)
	_, err = tx.ExecContext(ctx, "INSERT INTO kv VALUES ('k', 1)")
	require.ErrorIs(t, err, sql.ErrTxDone)
	_, err = st.ExecContext(ctx)
	require.Error(t, err)
	require.NoError(t, next.CommitOnePhase(ctx))
	_, found := valueIn(t, r, "k")
	require.False(t, found)
}

// With a write-ahead log SQLite itself does not notice that its file is gone, and commits where nobody will look.
func TestNothingIsCommittedInAFileThatWasMoved(t *testing.T) {
	for name, hurt := range map[string]func(path string) error{
		"deleted": os.Remove,
		"moved":   func(path string) error { return os.Rename(path, path+".old") },
		"replaced": func(path string) error {
			return errors.Join(os.Rename(path, path+".old"), os.WriteFile(path, nil, 0o600))
		},
	} {
		for end, commit := range map[string]func(context.Context, adapters.Session) error{
			"alone": func(ctx context.Context, s adapters.Session) error { return s.CommitOnePhase(ctx) },
			"last": func(ctx context.Context, s adapters.Session) error {
				return s.(adapters.Last).CommitLast(ctx, txn.LastMarker{Decision: txn.Commit})
			},
		} {
			t.Run(name+", "+end, func(t *testing.T) {
				ctx := t.Context()
				r := open(t, newFile(t))
				x := txn.XID{Cluster: cluster, ID: txn.NewID(time.Now()).WithClass(txn.LastResource), Branch: 1}
				s, err := r.Open(ctx, x)
				require.NoError(t, err)
				require.NoError(t, write(ctx, s, "k", 1))
				require.NoError(t, hurt(r.path))
				require.ErrorIs(t, commit(ctx, s), adapters.ErrNotCommitted)
				_, found := valueIn(t, r, "k")
				require.False(t, found)

				_, err = r.Open(ctx, x)
				require.ErrorIs(t, err, errMoved)
				_, err = r.Settle(ctx, x.Cluster, x.ID)
				require.ErrorIs(t, err, errMoved, "whose marker nobody would find")
			})
		}
	}
}
