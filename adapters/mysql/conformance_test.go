// SPDX-License-Identifier: Apache-2.0

package mysql

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"testing"

	sqldriver "github.com/go-sql-driver/mysql"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/adaptertest"
)

func TestConformance(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		target := w.target()
		target.Open = func(t testing.TB) adapters.Adapter {
			r := w.openMulti(t)
			r.pause = shortPause
			return r
		}
		target.Restart = func(t testing.TB) {
			require.NoError(t, w.Kill())
			require.NoError(t, w.Start())
		}
		target.Child = w.DSN(database)
		target.Foreign = w.plantForeign
		target.Hostile = w.hostiles()
		adaptertest.Run(t, target)
	})
}

// On connectors of the driver itself every command of ours is a round trip of its own.
func TestConformanceOnAPlainConnector(t *testing.T) {
	for _, f := range flavors[:2] {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, f.start(t))
			target := w.target()
			target.Open = func(t testing.TB) adapters.Adapter {
				cfg, err := sqldriver.ParseDSN(w.DSN(database))
				require.NoError(t, err)
				cfg.Logger = &sqldriver.NopLogger{}
				connector, err := sqldriver.NewConnector(cfg)
				require.NoError(t, err)
				r := New("db", connector)
				r.pause = shortPause
				return r
			}
			target.Hostile = []adaptertest.Hostile{
				text(adaptertest.Harmless, "SAVEPOINT a"),
				w.procedure(adaptertest.Harmless, "SELECT 1"),
				text(adaptertest.Spoiled, "COMMIT"),
				w.procedure(adaptertest.Torn, "XA END $; XA COMMIT $ ONE PHASE; XA START $"),
				w.procedure(adaptertest.Torn, "XA END $; XA COMMIT $ ONE PHASE"),
			}
			adaptertest.Run(t, target)
		})
	}
}

func (w *world) target() adaptertest.Target {
	return adaptertest.Target{
		Batches: true,
		Rows:    true,
		Last:    true,
		Write:   write,
		Read:    func(t testing.TB, key string) (int64, bool) { return w.value(key) },
		Fail: func(ctx context.Context, s adapters.Session) error {
			return within(ctx, s, func(tx *sql.Tx) error {
				_, err := tx.ExecContext(ctx, "INSERT INTO kv (k, v) VALUES ('NULL', NULL)")
				return err
			})
		},
		ReadOnly: func(ctx context.Context, s adapters.Session) error {
			return within(ctx, s, func(tx *sql.Tx) error {
				var n int
				return tx.QueryRowContext(ctx, "SELECT COUNT(*) FROM kv").Scan(&n)
			})
		},
		Hang: func(ctx context.Context, s adapters.Session) error {
			return within(ctx, s, func(tx *sql.Tx) error {
				_, err := tx.ExecContext(ctx, "DO SLEEP(600)")
				return err
			})
		},
		Busy:       func(t testing.TB, s adapters.Session) { w.awaitBusy(s.(*session)) },
		EndSession: func(t testing.TB, s adapters.Session) { w.kill(s) },
	}
}

// foreign are XA names that are not ours, as they stand in XA statements.
var foreign = []string{
	"X'00ff2700',X'5c',7",                                // binary, NUL, quote, backslash
	"X'',X'61',3",                                        // MySQL: no gtrid at all
	`"x'; DROP TABLE canary; -- ","\"",1`,                // hurts who pastes it
	"'concord-0badcafe-01ARZ3NDEKTSV4RRFFQ69G5FAV','01'", // our name with another format
	"'concord-0badcafe-01ARZ3NDEKTSV4RRFFQ69G5FA!','01',1129270851",
	"'concord-0badcafe-01arz3ndektsv4rrffq69g5fav','01',1129270851",
	"'concord-0badcafe-01ARZ3NDEKTSV4RRFFQ69G5FAV','0A',1129270851", // upper-case hex
	"'concord-0BADCAFE-01ARZ3NDEKTSV4RRFFQ69G5FAV','01',1129270851",
	"'concord-0badcafe-01ARZ3NDEKTSV4RRFFQ69G5FAV01','',1129270851", // the same bytes, split elsewhere
}

func (w *world) plantForeign(t testing.TB) func(testing.TB) {
	ctx := context.Background()
	names := foreign
	if w.Flavor() == "mariadb" {
		names = append(append([]string{}, foreign[:1]...), foreign[2:]...)
	}
	exec := func(statement string) {
		_, err := w.admin.ExecContext(ctx, statement)
		require.NoError(t, err, statement)
	}
	exec("CREATE TABLE canary (i INT PRIMARY KEY)")
	for i, name := range names {
		c, err := w.admin.Conn(ctx)
		require.NoError(t, err)
		for _, statement := range []string{"XA START " + name, fmt.Sprintf("INSERT INTO canary VALUES (%d)", i),
			"XA END " + name, "XA PREPARE " + name} {
			_, err := c.ExecContext(ctx, statement)
			require.NoError(t, err, statement)
		}
		t.Cleanup(func() {
			_, err := c.ExecContext(ctx, "XA ROLLBACK "+name)
			require.NoError(t, err)
			require.NoError(t, c.Close())
			if i == 0 { // the last clean-up: the table's locks are gone
				exec("DROP TABLE canary")
			}
		})
	}
	return func(t testing.TB) {
		rows, err := w.admin.QueryContext(ctx, "XA RECOVER")
		require.NoError(t, err)
		all, err := collect(rows)
		require.NoError(t, err)
		// Branches of ours that were rolled back before a crash may be back (see
		// TestARolledBackBranchThatACrashBringsBackIsFinishedAgain).
		all = slices.DeleteFunc(all, func(row []string) bool {
			_, ours := parseListed(row)
			return ours
		})
		require.Len(t, all, len(names))
		exec("SELECT * FROM canary")
	}
}
