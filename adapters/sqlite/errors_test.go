// SPDX-License-Identifier: Apache-2.0

package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/adaptertest"
	"github.com/concordtx/concord/adapters/memory"
	"github.com/concordtx/concord/internal/said"
	"github.com/concordtx/concord/txn"
)

// branchOf is a branch that a row can meet its error in.
type branchOf struct {
	r *Resource
	x txn.XID
	s adapters.Session
}

// text has a statement fail.
func fails(text string, args ...any) func(context.Context, *branchOf) error {
	return func(ctx context.Context, b *branchOf) error { return execIn(ctx, b.s, text, args...) }
}

// failed is what a branch says to that after a statement of it failed.
func failed(do func(context.Context, *branchOf) error) func(context.Context, *branchOf) error {
	return func(ctx context.Context, b *branchOf) error {
		_ = execIn(ctx, b.s, "INSERT INTO kv VALUES ('NULL', NULL)")
		return do(ctx, b)
	}
}

// held is what is said to that while another branch writes.
func held(do func(context.Context, *branchOf) error) func(context.Context, *branchOf) error {
	return func(ctx context.Context, b *branchOf) error {
		other, err := b.r.Open(ctx, b.x)
		if err == nil {
			err = write(ctx, other, "k", 1)
		}
		if err != nil {
			return err
		}
		defer func() { _ = other.Rollback(ctx) }()
		return do(ctx, b)
	}
}

func prepare(ctx context.Context, b *branchOf) error {
	_, _, err := b.s.Prepare(ctx)
	return err
}

func commitOnePhase(ctx context.Context, b *branchOf) error { return b.s.CommitOnePhase(ctx) }

var messages = []struct {
	name string
	meet func(context.Context, *branchOf) error
	says string
}{
	{"a directory that is not there", func(_ context.Context, b *branchOf) error {
		_, err := Open("ledger", filepath.Join(b.r.path, "no", "file"))
		return err
	}, `sqlite "ledger": open FILE/no/file: sqlite3: unable to open database file: not a ` +
		`directory; it must be a SQLite database on a local disk that this user may write, in a directory that exists`},
	{"a branch of another database", func(ctx context.Context, b *branchOf) error {
		s, err := memory.New("ledger", memory.NewDisk()).Open(ctx, b.x)
		if err != nil {
			return err
		}
		_, err = b.r.Tx(ctx, adaptertest.Enlisted(s))
		return err
	}, "enlist ledger: the transaction has a branch of another database under this name: give each its own"},
	{"a transaction that the cluster decides", func(ctx context.Context, b *branchOf) error {
		x := b.x
		x.ID = x.ID.WithClass(txn.Recorded)
		_, err := b.r.Open(ctx, x)
		return err
	}, `sqlite "ledger": begin RECORDED: a SQLite file cannot prepare, so it takes part as the last resource or ` +
		"alone: name it in WithLastResource"},
	{"a vote of a branch that wrote", func(ctx context.Context, b *branchOf) error {
		if err := write(ctx, b.s, "k", 1); err != nil {
			return err
		}
		return prepare(ctx, b)
	}, `sqlite "ledger": prepare XID: a SQLite file cannot prepare, so it takes part as the last resource or alone: ` +
		"name it in WithLastResource"},
	{"an ignored error", failed(commitOnePhase), `sqlite "ledger": commit XID: not committed: the application ` +
		"ignored an error of this branch: sqlite3: constraint failed: NOT NULL constraint failed: kv.v"},
	{"a statement after a failed one", failed(fails("SELECT 1")),
		"the branch can only be rolled back: sqlite3: constraint failed: NOT NULL constraint failed: kv.v"},
	{"a statement after a failed one, behind a savepoint", func(ctx context.Context, b *branchOf) error {
		return within(ctx, b.s, func(tx *sql.Tx) error {
			_, _ = tx.ExecContext(ctx, "SAVEPOINT a; INSERT INTO kv VALUES ('NULL', NULL)")
			_, err := tx.ExecContext(ctx, "SELECT 1")
			return err
		})
	}, "the branch can only be rolled back: sqlite3: constraint failed: NOT NULL constraint failed: kv.v"},
	{"a rollback by the application", func(ctx context.Context, b *branchOf) error {
		if err := within(ctx, b.s, (*sql.Tx).Rollback); err != nil {
			return err
		}
		return commitOnePhase(ctx, b)
	}, `sqlite "ledger": commit XID: not committed: the application rolled the branch back`},
	{"COMMIT", fails("COMMIT"), "BEGIN, COMMIT and ROLLBACK are not allowed inside a branch: let the global " +
		"transaction end it, or use SAVEPOINT: sqlite3: authorization denied: not authorized"},
	{"ATTACH", fails("ATTACH ':memory:' AS a"), "ATTACH and DETACH are not allowed inside a branch: open the other " +
		"file as a resource of its own: sqlite3: authorization denied: not authorized"},
	{"a PRAGMA", fails("PRAGMA foreign_keys = 0"), "a PRAGMA that sets something for the connection is not allowed " +
		"inside a branch: give it to the file, outside of one: sqlite3: authorization denied: not authorized"},
	{"a table of ours", fails("DELETE FROM concord_water"), "tables that begin with concord_ are concord's: give " +
		"your own another name: sqlite3: authorization denied: not authorized"},
	{"an argument too few", fails("INSERT INTO kv VALUES (?, ?)", 1), "the statement has another number of arguments " +
		"than it was given: give it all of them"},
	{"a trigger that rolls back", func(ctx context.Context, b *branchOf) error {
		_ = execIn(ctx, b.s, "INSERT OR ROLLBACK INTO kv VALUES ('NULL', NULL)")
		return commitOnePhase(ctx, b)
	}, `sqlite "ledger": commit XID: not committed: the application ignored an error of this branch: sqlite3: ` +
		"constraint failed: NOT NULL constraint failed: kv.v"},
	{"a lock that is held", held(fails("SELECT 1")), `sqlite "ledger": begin XID: the file is being written by ` +
		"somebody else for longer than that is waited for: try again, or look for a process that keeps a transaction " +
		"open in it: sqlite3: database is locked"},
	{"settling while somebody writes", held(func(ctx context.Context, b *branchOf) error {
		_, err := b.r.Settle(ctx, b.x.Cluster, b.x.ID)
		return err
	}), `sqlite "ledger": settle GID: a session of the last resource has written the marker of the transaction, or ` +
		"may have, and has not ended: the server ends it when it has been idle for too long; try again"},
	{"a last resource that was settled", func(ctx context.Context, b *branchOf) error {
		if _, err := b.r.Settle(ctx, b.x.Cluster, b.x.ID); err != nil {
			return err
		}
		return b.s.(adapters.Last).CommitLast(ctx, txn.LastMarker{Decision: txn.Commit})
	}, `sqlite "ledger": commit XID as the last resource: not committed: the cluster was asked for the outcome ` +
		"before the commit, and has aborted it in its last resource: run it again"},
	{"a second vote", func(ctx context.Context, b *branchOf) error {
		_ = b.s.Rollback(ctx)
		return prepare(ctx, b)
	}, `sqlite "ledger": prepare XID: the branch has ended, as its global transaction was committed or rolled back: ` +
		"begin a new one"},
	{"a handle after the end", func(ctx context.Context, b *branchOf) error {
		_ = b.s.Rollback(ctx)
		return fails("SELECT 1")(ctx, b)
	}, "the branch has ended, as its global transaction was committed or rolled back: begin a new one"},
	{"a record of another adapter", func(_ context.Context, b *branchOf) error {
		return b.r.Validate(txn.Branch{Evidence: "marker"})
	}, "a SQLite file has no prepared branches, so there is no evidence and no holder of one: run the newest version " +
		"of concord on all nodes"},
	{"a second phase", func(ctx context.Context, b *branchOf) error {
		_, err := b.s.Commit(ctx)
		return err
	}, `sqlite "ledger": commit XID: a SQLite file cannot prepare, so it takes part as the last resource or alone: ` +
		"name it in WithLastResource"},
	{"a file that was replaced", func(ctx context.Context, b *branchOf) error {
		if err := errors.Join(os.Rename(b.r.path, b.r.path+".old"), os.WriteFile(b.r.path, nil, 0o600)); err != nil {
			return err
		}
		return commitOnePhase(ctx, b)
	}, `sqlite "ledger": commit XID: not committed: its path names another file than the one that was opened, or ` +
		"none: somebody moved, deleted or replaced it; open the resource again, and do that to a file only while " +
		"nobody has it open"},
	{"a closed resource", func(ctx context.Context, b *branchOf) error {
		return errors.Join(b.r.Close(), b.r.Forget(ctx, []txn.XID{b.x}))
	}, `sqlite "ledger": forget branches: sql: database is closed`},
}

func TestWhatErrorsSay(t *testing.T) {
	for _, m := range messages {
		t.Run(m.name, func(t *testing.T) {
			ctx := context.Background()
			r, err := Open("ledger", newFile(t), WithLockTimeout(50*time.Millisecond))
			require.NoError(t, err)
			defer r.Close()
			x := txn.XID{Cluster: cluster, ID: txn.NewID(time.Now()).WithClass(txn.LastResource), Branch: 1}
			s, err := r.Open(ctx, x)
			require.NoError(t, err)
			defer func() { _ = s.Rollback(ctx) }()
			err = m.meet(ctx, &branchOf{r, x, s})
			require.Error(t, err)
			recorded := x
			recorded.ID = x.ID.WithClass(txn.Recorded)
			require.Equal(t, m.says, strings.NewReplacer(x.String(), "XID", recorded.String(), "RECORDED",
				x.ID.String(), "GID", r.path, "FILE").Replace(err.Error()))
		})
	}
}

func TestEveryErrorHasARow(t *testing.T) {
	rows := make([]string, 0, len(messages))
	for _, m := range messages {
		rows = append(rows, m.says)
	}
	// TestCheckSaysWhatAFileIs
	rows = append(rows, "PRAGMA journal_mode = WAL: otherwise readers and commits wait for each other",
		"ask again; if it stays so, look for a process that keeps a transaction open in the file")
	said.Check(t, rows, map[string]string{
		"let the user of this process write the file and its directory": "whoever runs the tests may be root",
		"nobody can tell whether it is committed: %w":                   "a disk that fails in the middle of a COMMIT",
		"SQLite has rolled the transaction back":                        "a rollback without an error: none is known",
		"the connection has no branch: statements go through Tx of the resource": "a *sql.Tx that has " +
			"ended lets nobody come here",
	})
}

// A SQLite file says what it is for at its preflight.
func TestCheckSaysWhatAFileIs(t *testing.T) {
	ctx := context.Background()
	r := open(t, newFile(t))
	report, err := r.Check(ctx)
	require.NoError(t, err)
	require.True(t, report.OK())
	require.Equal(t, "SQLite has no prepared transactions", report.NotBranch)
	require.Empty(t, report.NotLast)
	require.Regexp(t, `^SQLite 3\.`, report.Version)
	require.Equal(t, []adapters.Finding{{What: "file", Detail: r.path}, {What: "journal_mode", Detail: "wal"},
		{What: "writes", Detail: "possible"}}, report.Findings)

	_, err = r.db.ExecContext(ctx, "PRAGMA journal_mode = DELETE")
	require.NoError(t, err)
	s, err := r.Open(ctx, txn.XID{Cluster: cluster, ID: txn.NewID(time.Now()), Branch: 1})
	require.NoError(t, err)
	require.NoError(t, write(ctx, s, "k", 1))
	report, err = r.Check(ctx)
	require.NoError(t, err)
	require.True(t, report.OK())
	require.Equal(t, []adapters.Finding{{What: "file", Detail: r.path},
		{What: "journal_mode", Detail: "delete",
			Fix: "PRAGMA journal_mode = WAL: otherwise readers and commits wait for each other"},
		{What: "writes", Detail: "somebody is writing at the moment",
			Fix: "ask again; if it stays so, look for a process that keeps a transaction open in the file"}},
		report.Findings)
	require.NoError(t, s.Rollback(ctx))
}
