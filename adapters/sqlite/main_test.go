// SPDX-License-Identifier: Apache-2.0

package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/ncruces/go-sqlite3"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/adaptertest"
)

func TestMain(m *testing.M) {
	serveCommitter()
	serveApplication()
	adaptertest.ServeChild(
		func(path string) (adapters.Adapter, error) { return Open("ledger", path) },
		write,
	)
	os.Exit(m.Run())
}

// newFile is a file with the table of the suite.
func newFile(t testing.TB) string {
	path := filepath.Join(t.TempDir(), "ledger ?#%.db") // a name that a URI would take apart
	r := open(t, path)
	_, err := r.db.ExecContext(context.Background(), "CREATE TABLE kv (k TEXT PRIMARY KEY, v INTEGER NOT NULL) STRICT")
	require.NoError(t, err)
	require.NoError(t, r.Close())
	return path
}

// open closes the resource with the test.
func open(t testing.TB, path string) *Resource {
	r, err := Open("ledger", path)
	require.NoError(t, err)
	t.Cleanup(func() { _ = r.Close() }) // some test may have
	return r
}

// within works in a branch.
func within(ctx context.Context, s adapters.Session, do func(*sql.Tx) error) error {
	tx, err := s.(*session).r.Tx(ctx, adaptertest.Enlisted(s))
	if err != nil {
		return err
	}
	return do(tx)
}

func execIn(ctx context.Context, s adapters.Session, text string, args ...any) error {
	return within(ctx, s, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, text, args...)
		return err
	})
}

func write(ctx context.Context, s adapters.Session, key string, v int64) error {
	return execIn(ctx, s, "INSERT INTO kv VALUES (?, ?) ON CONFLICT DO UPDATE SET v = excluded.v", key, v)
}

func valueIn(t testing.TB, r *Resource, key string) (v int64, found bool) {
	err := r.db.QueryRowContext(context.Background(), "SELECT v FROM kv WHERE k = ?", key).Scan(&v)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, false
	}
	require.NoError(t, err)
	return v, true
}

// endless counts for ever.
const endless = "WITH RECURSIVE n (i) AS (SELECT tick() UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"

// ticks has a channel for each session, which is closed when its endless statement has begun.
var ticks sync.Map

func tickOf(s adapters.Session) chan struct{} {
	c, _ := ticks.LoadOrStore(s, make(chan struct{}))
	return c.(chan struct{})
}

func target(t *testing.T, path string) adaptertest.Target {
	reader := open(t, path)
	return adaptertest.Target{
		Last:      true,
		NoPrepare: true,
		OneWriter: true,
		Rows:      true,
		Child:     path,
		Open: func(t testing.TB) adapters.Adapter {
			r, err := Open("ledger", path)
			require.NoError(t, err)
			return r
		},
		Write: write,
		Read:  func(t testing.TB, key string) (int64, bool) { return valueIn(t, reader, key) },
		Fail: func(ctx context.Context, s adapters.Session) error {
			return execIn(ctx, s, "INSERT INTO kv VALUES ('NULL', NULL)")
		},
		ReadOnly: func(ctx context.Context, s adapters.Session) error {
			return within(ctx, s, func(tx *sql.Tx) error {
				var n int
				return tx.QueryRowContext(ctx, "SELECT count(*) FROM kv").Scan(&n)
			})
		},
		Hang: func(ctx context.Context, s adapters.Session) error {
			begun := sync.OnceFunc(func() { close(tickOf(s)) })
			err := s.(*session).link.raw.Raw().CreateFunction("tick", 0, 0,
				func(ctx sqlite3.Context, _ ...sqlite3.Value) {
					begun()
					ctx.ResultInt(1)
				})
			if err != nil {
				return err
			}
			return within(ctx, s, func(tx *sql.Tx) error {
				var n int
				return tx.QueryRowContext(ctx, endless).Scan(&n)
			})
		},
		Busy: func(t testing.TB, s adapters.Session) {
			select {
			case <-tickOf(s):
			case <-time.After(adaptertest.Patience):
				t.Fatal("the endless statement does not begin")
			}
		},
		Hostile: hostiles(),
	}
}

func TestConformance(t *testing.T) { adaptertest.Run(t, target(t, newFile(t))) }

// A file that an application has made, without a write-ahead log.
func TestConformanceWithARollbackJournal(t *testing.T) {
	path := newFile(t)
	r := open(t, path)
	var mode string
	require.NoError(t, r.db.QueryRowContext(context.Background(), "PRAGMA journal_mode = DELETE").Scan(&mode))
	require.Equal(t, "delete", mode)
	require.NoError(t, r.Close())
	target := target(t, path)
	target.Hostile = nil // which has nothing to do with it
	adaptertest.Run(t, target)
}

func text(damage adaptertest.Damage, text string) adaptertest.Hostile {
	return adaptertest.Hostile{Name: text, Damage: damage, Do: func(ctx context.Context, s adapters.Session) error {
		return execIn(ctx, s, text)
	}}
}

// queried does not look at what it has asked for.
func queried(damage adaptertest.Damage, text string) adaptertest.Hostile {
	return adaptertest.Hostile{Name: "not read: " + text, Damage: damage,
		Do: func(ctx context.Context, s adapters.Session) error {
			return within(ctx, s, func(tx *sql.Tx) error {
				rows, err := tx.QueryContext(ctx, text)
				if err != nil {
					return err
				}
				return rows.Close()
			})
		}}
}

// hostiles are what the SQL of applications does to branches. None tears one.
func hostiles() []adaptertest.Hostile {
	const harmless, spoiled = adaptertest.Harmless, adaptertest.Spoiled
	const other = "CREATE TABLE IF NOT EXISTS other (i INTEGER PRIMARY KEY, j INTEGER UNIQUE ON CONFLICT ROLLBACK); "
	return []adaptertest.Hostile{
		text(harmless, "-- a comment"),
		text(harmless, "SELECT 1; ; /* two */ SELECT 2"),
		text(harmless, "SAVEPOINT a"),
		text(harmless, "SAVEPOINT a; INSERT INTO kv VALUES ('never', 1); ROLLBACK TO a; RELEASE a"),
		text(harmless, "SAVEPOINT a; SAVEPOINT A; RELEASE a; ROLLBACK TRANSACTION TO SAVEPOINT a"),
		text(harmless, "CREATE TEMP TABLE mine (i INTEGER); INSERT INTO mine VALUES (1)"),
		text(harmless, "PRAGMA defer_foreign_keys = ON"),
		text(harmless, "PRAGMA user_version = 7"),
		text(harmless, "PRAGMA table_info(kv)"),
		text(harmless, "PRAGMA foreign_keys"),
		queried(harmless, "SELECT 1"),
		{Name: "a statement that fails behind a savepoint, and goes back to it", Damage: harmless,
			Do: func(ctx context.Context, s adapters.Session) error {
				return within(ctx, s, func(tx *sql.Tx) error {
					if _, err := tx.ExecContext(ctx, "SAVEPOINT a"); err != nil {
						return err
					}
					if _, err := tx.ExecContext(ctx, "INSERT INTO kv VALUES ('NULL', NULL)"); err == nil {
						return errors.New("it did not fail")
					}
					if _, err := tx.ExecContext(ctx, "SELECT 1"); err == nil {
						return errors.New("what failed is forgotten")
					}
					_, err := tx.ExecContext(ctx, "ROLLBACK TO a")
					return err
				})
			}},
		{Name: "a statement that fails before a savepoint, and goes back to that", Damage: spoiled,
			Do: func(ctx context.Context, s adapters.Session) error {
				return within(ctx, s, func(tx *sql.Tx) error {
					_, _ = tx.ExecContext(ctx, "SAVEPOINT b")
					_, _ = tx.ExecContext(ctx, "RELEASE b; INSERT INTO kv VALUES ('NULL', NULL)")
					_, err := tx.ExecContext(ctx, "SAVEPOINT a; ROLLBACK TO a")
					return err
				})
			}},
		text(spoiled, "COMMIT"),
		text(spoiled, "END"),
		text(spoiled, "COMMIT; BEGIN IMMEDIATE"),
		text(spoiled, "SELECT 1; COMMIT"),
		text(spoiled, "ROLLBACK"),
		text(spoiled, "BEGIN"),
		text(spoiled, "ATTACH ':memory:' AS other"),
		text(spoiled, "DETACH main"),
		text(spoiled, "VACUUM"),
		text(spoiled, "PRAGMA foreign_keys = OFF"),
		text(spoiled, "PRAGMA journal_mode = DELETE"),
		text(spoiled, "PRAGMA writable_schema(1)"),
		text(spoiled, "PRAGMA wal_checkpoint"),
		text(spoiled, "PRAGMA query_only = 1"),
		text(spoiled, "DELETE FROM concord_markers"),
		text(spoiled, "DROP TABLE concord_file"),
		text(spoiled, "ALTER TABLE concord_water RENAME TO mine"),
		text(spoiled, "ROLLBACK TO nothing"),
		text(spoiled, "SAVEPOINT a; INSERT INTO nowhere VALUES (1)"),
		text(spoiled, "INSERT OR ROLLBACK INTO kv VALUES ('NULL', NULL)"),
		text(spoiled, other+"INSERT INTO other VALUES (1, 1); INSERT INTO other VALUES (2, 1)"),
		text(spoiled, other+"CREATE TEMP TRIGGER t BEFORE INSERT ON other BEGIN SELECT RAISE(ROLLBACK, 'no'); END; "+
			"INSERT INTO other VALUES (1, 1)"),
		queried(spoiled, "INSERT INTO kv VALUES ('NULL', NULL)"),
		queried(spoiled, "COMMIT"),
		{Name: "an argument too few", Damage: spoiled, Do: func(ctx context.Context, s adapters.Session) error {
			return execIn(ctx, s, "INSERT INTO kv VALUES (?, ?)", "few")
		}},
		{Name: "an argument that is none", Damage: spoiled, Do: func(ctx context.Context, s adapters.Session) error {
			return execIn(ctx, s, "INSERT INTO kv VALUES (?, ?)", "none", struct{}{})
		}},
		{Name: "the handle is rolled back", Damage: spoiled, Do: func(ctx context.Context, s adapters.Session) error {
			return within(ctx, s, (*sql.Tx).Rollback)
		}},
		{Name: "the handle is committed", Damage: harmless, Do: func(ctx context.Context, s adapters.Session) error {
			return within(ctx, s, (*sql.Tx).Commit)
		}},
	}
}
