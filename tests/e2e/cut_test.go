// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	sqldriver "github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/mysql"
	"github.com/concordtx/concord/adapters/postgres"
	"github.com/concordtx/concord/internal/faultproxy"
	"github.com/concordtx/concord/internal/testdb"
	"github.com/concordtx/concord/txn"
)

// series is the number of connections that are cut at a time.
const series = 8

// TestConnectionCutAtEachMessage cuts the connection to a database before, in and after each
// message of PREPARE, COMMIT and ROLLBACK, in both directions, until a transaction ends before
// its message comes. Whatever the application is told must be true, and nothing may be left: of
// that the cluster, which looks every hour, has no part.
func TestConnectionCutAtEachMessage(t *testing.T) {
	for _, server := range []*testdb.Shared{postgresServer, mariadbServer, mysqlServer} {
		t.Run(server.Flavor, func(t *testing.T) {
			s := server.Get(t)
			near, far := newDatabase(t, s), newDatabase(t, s)
			for _, d := range []*database{near, far} {
				d.admin.SetMaxIdleConns(series) // these servers stay
			}
			c := startCluster(t, idleCluster(near, far))
			client := c.dial()
			var account atomic.Int64
			var cuts atomic.Int64
			var slowest atomic.Int64
			group := new(errgroup.Group)
			group.SetLimit(series)
			for _, way := range ways {
				for _, d := range []faultproxy.Direction{faultproxy.Forward, faultproxy.Backward} {
					for _, p := range []faultproxy.Place{faultproxy.Before, faultproxy.In, faultproxy.After} {
						x := &cutter{TB: t, client: client, cluster: c, near: near, far: far, way: way,
							account: int(account.Add(1)), slowest: &slowest}
						x.open()
						group.Go(func() error {
							defer x.close()
							for message := 0; ; message++ {
								cut, err := x.run(d, message, p)
								if err != nil {
									return fmt.Errorf("%s, cut %v message %d %v: %w", way.name, p, message, d, err)
								}
								if !cut {
									return nil
								}
								cuts.Add(1)
							}
						})
					}
				}
			}
			require.NoError(t, group.Wait())
			require.Greater(t, cuts.Load(), int64(len(ways)*2*3*2), "each way has some messages in each direction")
			t.Logf("%d cuts; what was left of one was gone after %v at most", cuts.Load(),
				time.Duration(slowest.Load()).Round(time.Millisecond))
		})
	}
}

// way is one way in which a transaction ends.
type way struct {
	name  string
	both  bool // it has two branches
	doom  bool // the far branch votes No
	fails bool // the function fails
}

var ways = []way{
	{name: "prepare and commit", both: true},
	{name: "prepare and the other votes no", both: true, doom: true},
	{name: "roll back", both: true, fails: true},
	{name: "commit in one phase"},
}

func driverOf(s *testdb.Server) string {
	if s.Flavor() == testdb.FlavorPostgres {
		return "postgres"
	}
	return "mysql"
}

// cutter runs one transaction after the other with the near database behind a knife.
type cutter struct {
	testing.TB
	client    *concord.Client
	cluster   *cluster
	near, far *database
	way       way
	account   int // the row that all of them change
	slowest   *atomic.Int64

	link        *faultproxy.Link
	knife       *faultproxy.Knife
	nearR, farR place
}

// place is a database as the application sees it.
type place struct {
	work  func(ctx context.Context, g adapters.Global, statements ...string) error
	close func()
}

func (x *cutter) open() {
	x.Helper()
	var err error
	x.link, err = faultproxy.New(fmt.Sprintf("127.0.0.1:%d", x.near.server.Port()))
	require.NoError(x, err)
	framing := faultproxy.MySQL
	if driverOf(x.near.server) == "postgres" {
		framing = faultproxy.Postgres
	}
	x.knife = faultproxy.NewKnife(framing)
	x.link.Use(x.knife)
	x.nearR, x.farR = openPlace(x, "near", x.near, x.link.Addr()), openPlace(x, "far", x.far, "")
}

func (x *cutter) close() {
	x.nearR.close()
	x.farR.close()
	x.link.Close()
}

// openPlace connects to a database at another address, unless that is empty.
func openPlace(t testing.TB, name string, d *database, addr string) place {
	t.Helper()
	if driverOf(d.server) == "postgres" {
		config, err := pgxpool.ParseConfig(d.dsn())
		require.NoError(t, err)
		if addr != "" {
			at, err := netip.ParseAddrPort(addr)
			require.NoError(t, err)
			config.ConnConfig.Host, config.ConnConfig.Port = at.Addr().String(), at.Port()
			config.ConnConfig.TLSConfig, config.ConnConfig.Fallbacks = nil, nil // the knife reads along
		}
		config.MaxConns = 4
		pool, err := pgxpool.NewWithConfig(context.Background(), config)
		require.NoError(t, err)
		r := postgres.New(name, pool)
		return place{close: pool.Close, work: func(ctx context.Context, g adapters.Global, statements ...string) error {
			tx, err := r.Tx(ctx, g)
			for _, s := range statements {
				if err == nil {
					_, err = tx.Exec(ctx, s)
				}
			}
			return err
		}}
	}
	config, err := sqldriver.ParseDSN(d.dsn())
	require.NoError(t, err)
	config.Logger = &sqldriver.NopLogger{}
	if addr != "" {
		config.Net, config.Addr = "tcp", addr
	}
	connector, err := mysql.NewConnector(config)
	require.NoError(t, err)
	r := mysql.New(name, connector)
	return place{close: func() { _ = r.Close() },
		work: func(ctx context.Context, g adapters.Global, statements ...string) error {
			tx, err := r.Tx(ctx, g)
			for _, s := range statements {
				if err == nil {
					_, err = tx.ExecContext(ctx, s)
				}
			}
			return err
		}}
}

var errRefuses = errors.New("the application does not want to")

// run does one transaction with a cut. It reports whether there was one.
func (x *cutter) run(d faultproxy.Direction, message int, p faultproxy.Place) (cut bool, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var id concord.ID
	err = x.client.Run(ctx, func(ctx context.Context, tx *concord.Tx) error {
		id = tx.ID()
		change := fmt.Sprintf("UPDATE account SET balance = balance + 1 WHERE id = %d", x.account)
		note := fmt.Sprintf("INSERT INTO transfer VALUES ('%v', 1)", id)
		if err := x.nearR.work(ctx, tx, change, note); err != nil {
			return fmt.Errorf("near: %w", err)
		}
		if x.way.both {
			if err := x.farR.work(ctx, tx, change, note); err != nil {
				return fmt.Errorf("far: %w", err)
			}
		}
		if x.way.doom {
			if x.farR.work(ctx, tx, note) == nil {
				return errors.New("the second insert of a key worked")
			}
		}
		x.knife.Aim(d, message, p)
		if x.way.fails {
			return errRefuses
		}
		return nil
	})
	ended := time.Now()
	cut = x.knife.Rest()
	if left := x.awaitNothing(ctx, id); left != nil {
		return cut, fmt.Errorf("%w (Run said: %v)", left, err)
	}
	for slow := time.Since(ended); slow > time.Duration(x.slowest.Load()); {
		x.slowest.Store(int64(slow))
	}
	return cut, x.judge(ctx, id, cut, err)
}

// awaitNothing waits until nothing of the transaction is prepared, and nobody holds its rows.
func (x *cutter) awaitNothing(ctx context.Context, id concord.ID) error {
	for {
		left := append(x.near.preparedOf(x, x.cluster.id, id), x.far.preparedOf(x, x.cluster.id, id)...)
		if len(left) == 0 {
			break
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("%v is still prepared", left)
		}
	}
	for _, d := range []*database{x.near, x.far} {
		if _, err := d.admin.ExecContext(ctx,
			fmt.Sprintf("UPDATE account SET balance = balance WHERE id = %d", x.account)); err != nil {
			return fmt.Errorf("the row is not free: %w", err)
		}
	}
	return nil
}

// judge compares the answer with what the databases show.
func (x *cutter) judge(ctx context.Context, id concord.ID, cut bool, err error) error {
	near, far := x.near.holds(x, id), x.far.holds(x, id)
	if x.way.both && near != far {
		return fmt.Errorf("near has the row: %v, far has it: %v (Run said: %v)", near, far, err)
	}
	var unknown *concord.UnknownError
	switch {
	case errors.As(err, &unknown) && strings.Contains(err.Error(), "try again"):
		return fmt.Errorf("unknown, with the advice to repeat it: %w", err)
	case err == nil && !near:
		return errors.New("nil, and the row is not there")
	case err == nil:
		return nil
	case errors.Is(err, concord.ErrAborted) && near:
		return fmt.Errorf("aborted, and the row is there: %w", err)
	case errors.Is(err, concord.ErrAborted) && !cut && !x.way.doom && !x.way.fails:
		return fmt.Errorf("aborted without a reason: %w", err)
	case errors.Is(err, concord.ErrAborted):
		return nil
	case errors.As(err, &unknown) && cut && unknown.GID.IsZero() && !x.way.both:
		return nil // one database alone knows
	case errors.As(err, &unknown) && cut && unknown.GID == id:
		outcome, asked := x.client.Outcome(ctx, id)
		if asked != nil || (outcome == concord.Committed) != near {
			return fmt.Errorf("the outcome is %v (%w), and the row is there: %v", outcome, asked, near)
		}
		return nil
	}
	return fmt.Errorf("an answer that says nothing: %w", err)
}

// preparedOf returns what the server lists as prepared for a transaction.
func (d *database) preparedOf(t testing.TB, cluster txn.ClusterID, id concord.ID) []string {
	t.Helper()
	return slices.DeleteFunc(d.prepared(t, cluster),
		func(name string) bool { return !strings.Contains(name, id.String()) })
}

// holds tells whether a transaction is visible.
func (d *database) holds(t testing.TB, id concord.ID) bool {
	t.Helper()
	return d.number(t, fmt.Sprintf("SELECT COUNT(*) FROM transfer WHERE gid = '%v'", id)) > 0
}
