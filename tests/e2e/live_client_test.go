// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/internal/faultproxy"
	"github.com/concordtx/concord/internal/testdb"
)

// idleCluster is one that does nothing by itself while a test lasts.
func idleCluster(near, far *database) settings {
	return settings{nodes: 1, maxAge: time.Hour, grace: time.Hour, scan: time.Hour,
		resources: []resource{{"near", driverOf(near.server), near.dsn()}, {"far", driverOf(far.server), far.dsn()}}}
}

func TestDatabaseDiesInPrepareAndComesBackToALiveClient(t *testing.T) {
	for _, server := range []*testdb.Shared{postgresServer, mariadbServer, mysqlServer} {
		t.Run(server.Flavor, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
			defer cancel()
			s, other := server.Get(t), postgresServer.Get(t)
			if server == postgresServer {
				other = mariadbServer.Get(t)
			}
			near, far := newDatabase(t, s), newDatabase(t, other)
			c := startCluster(t, idleCluster(near, far))
			x := &cutter{TB: t, near: near, far: far}
			x.open()
			defer x.close()
			var id concord.ID
			said := make(chan error, 1)
			client := c.dial()
			go func() {
				said <- client.Run(ctx, func(ctx context.Context, tx *concord.Tx) error {
					id = tx.ID()
					note := fmt.Sprintf("INSERT INTO transfer VALUES ('%v', 1)", id)
					if err := errors.Join(x.nearR.work(ctx, tx, note), x.farR.work(ctx, tx, note)); err != nil {
						return err
					}
					x.link.Set(faultproxy.Backward, faultproxy.Fault{Hold: true}) // the answer does not arrive
					return nil
				})
			}()
			eventually(t, "the branch is prepared", func() bool { return len(near.prepared(t, c.id)) == 1 })
			require.NoError(t, s.Kill())
			x.link.Cut()
			x.link.Heal()
			require.ErrorIs(t, <-said, concord.ErrAborted)
			require.NoError(t, s.Start())
			for _, d := range []*database{near, far} {
				eventually(t, "the client has ended what it left",
					func() bool { return len(d.preparedOf(t, c.id, id)) == 0 })
				require.False(t, d.holds(t, id))
			}
			outcome, err := client.Outcome(ctx, id)
			require.NoError(t, err)
			require.Equal(t, concord.Aborted, outcome)
		})
	}
}

func TestLimitFreesTheLocksOfAFunctionThatHangs(t *testing.T) {
	for _, server := range []*testdb.Shared{postgresServer, mariadbServer, mysqlServer} {
		t.Run(server.Flavor, func(t *testing.T) {
			s := server.Get(t)
			sleep := "SELECT SLEEP(600)"
			if driverOf(s) == "postgres" {
				sleep = "SELECT pg_sleep(600)"
			}
			near, far := newDatabase(t, s), newDatabase(t, s)
			c := startCluster(t, idleCluster(near, far))
			client := c.dial()
			for name, hang := range map[string]func(context.Context, *concord.Tx, place) error{
				"in the program": func(ctx context.Context, _ *concord.Tx, _ place) error { <-ctx.Done(); return nil },
				"in a statement": func(ctx context.Context, tx *concord.Tx,
					p place) error {
					return p.work(ctx, tx, sleep)
				},
			} {
				t.Run(name, func(t *testing.T) {
					ctx, cancel := context.WithTimeout(context.Background(), patience)
					defer cancel()
					x := &cutter{TB: t, near: near, far: far}
					x.open()
					defer x.close()
					hanging, release := context.WithCancel(ctx)
					defer release()
					said, locked := make(chan error, 1), make(chan struct{})
					go func() {
						said <- client.Run(ctx, func(ctx context.Context, tx *concord.Tx) error {
							if err := errors.Join(x.nearR.work(ctx, tx, "UPDATE account SET balance = 0"),
								x.farR.work(ctx, tx, "UPDATE account SET balance = 0")); err != nil {
								return err
							}
							close(locked)
							return hang(hanging, tx, x.nearR) // with a context that has no limit
						}, concord.WithTimeout(time.Second))
					}()
					<-locked
					for _, d := range []*database{near, far} {
						eventually(t, "the rows are free", func() bool {
							_, err := d.admin.ExecContext(ctx, "UPDATE account SET balance = balance + 1")
							return err == nil
						})
					}
					release()
					err := <-said
					require.ErrorIs(t, err, concord.ErrAborted)
					require.ErrorContains(t, err, "its time limit of 1s (WithTimeout) was reached")
					for _, d := range []*database{near, far} {
						require.Zero(t, d.number(t, "SELECT COUNT(*) FROM account WHERE balance < 2"))
					}
				})
			}
		})
	}
}

func TestErrorOfADatabaseNamesItsResource(t *testing.T) {
	for _, server := range []*testdb.Shared{postgresServer, mariadbServer, mysqlServer} {
		t.Run(server.Flavor, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			s := server.Get(t)
			near, far := newDatabase(t, s), newDatabase(t, s)
			c := startCluster(t, idleCluster(near, far))
			x := &cutter{TB: t, near: near, far: far}
			x.open()
			defer x.close()
			client := c.dial()
			for name, broken := range map[string]place{"near": x.nearR, "far": x.farR} {
				err := client.Run(ctx, func(ctx context.Context, tx *concord.Tx) error {
					note := "INSERT INTO transfer VALUES ('twice', 1)"
					if err := errors.Join(x.nearR.work(ctx, tx, note), x.farR.work(ctx, tx, note)); err != nil {
						return err
					}
					return fmt.Errorf("pay: %w", broken.work(ctx, tx, note))
				})
				var aborted *concord.AbortedError
				require.ErrorAs(t, err, &aborted)
				require.Equal(t, name, aborted.Resource, "%v", err)
			}
		})
	}
}

func TestFunctionThatCommitsByItselfIsToldSo(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	s := postgresServer.Get(t)
	near, far := newDatabase(t, s), newDatabase(t, s)
	c := startCluster(t, idleCluster(near, far))
	x := &cutter{TB: t, near: near, far: far}
	x.open()
	defer x.close()
	client := c.dial()
	for name, returned := range map[string]error{"and succeeds": nil, "and fails": errRefuses} {
		for _, hostile := range []string{"commit", "commit; begin", "commit and chain", "rollback; begin"} {
			t.Run(hostile+" "+name, func(t *testing.T) {
				var id concord.ID
				err := client.Run(ctx, func(ctx context.Context, tx *concord.Tx) error {
					id = tx.ID()
					note := fmt.Sprintf("INSERT INTO transfer VALUES ('%v', 1)", id)
					require.NoError(t, errors.Join(x.nearR.work(ctx, tx, note), x.farR.work(ctx, tx, note)))
					// it takes no notice
					_ = x.nearR.work(ctx, tx, hostile, "UPDATE account SET balance = 1 WHERE id = 1")
					return returned
				})
				require.Error(t, err)
				require.False(t, far.holds(t, id))
				if near.holds(t, id) {
					var torn *concord.TornError
					require.ErrorAs(t, err, &torn)
					require.Equal(t, "near", torn.Resource)
					require.NotErrorIs(t, err, concord.ErrAborted)
				}
				require.Empty(t, append(near.preparedOf(t, c.id, id), far.preparedOf(t, c.id, id)...))
			})
		}
	}
}
