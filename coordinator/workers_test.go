// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/memory"
	"github.com/concordtx/concord/adapters/mysql"
	"github.com/concordtx/concord/adapters/postgres"
	"github.com/concordtx/concord/coordinator/commit"
	"github.com/concordtx/concord/coordinator/deadlock"
	"github.com/concordtx/concord/internal/testdb"
	"github.com/concordtx/concord/txn"
)

// place is where a database is served: which one, and whether anybody answers, can change, as
// when its container is made anew.
type place struct {
	adapters.Resource
	now   atomic.Pointer[memory.Resource]
	asked atomic.Int64
}

func newPlace(r *memory.Resource) *place {
	p := &place{Resource: r}
	p.now.Store(r)
	return p
}

func (p *place) Identity(ctx context.Context) (string, error) {
	p.asked.Add(1)
	return p.now.Load().Identity(ctx)
}

func identityOf(t *testing.T, r adapters.Resource) string {
	id, err := r.Identity(t.Context())
	require.NoError(t, err)
	return id
}

// A client that sees another database than the node knows makes the node look again at once,
// and however many do, the database is asked once a second.
func TestAClientThatSeesAnotherDatabaseMakesTheNodeLookAgain(t *testing.T) {
	was, is := memory.New("orders", memory.NewDisk()), memory.New("orders", memory.NewDisk())
	p := newPlace(was)
	c := newCluster(t, 1, func() []adapters.Resource { return []adapters.Resource{p} })
	known := func() string { return c.leader().Status().Resources[0].Identity }
	require.Eventually(t, func() bool { return known() == identityOf(t, was) }, 10*time.Second, 10*time.Millisecond)

	asked := p.asked.Load()
	c.leader().Recheck(t.Context(), "orders", identityOf(t, was))
	c.leader().Recheck(t.Context(), "nobody", "x")
	require.Equal(t, asked, p.asked.Load(), "there is no doubt")

	p.now.Store(is)
	c.leader().Recheck(t.Context(), "orders", identityOf(t, is))
	require.Equal(t, identityOf(t, is), known())

	began, asked := time.Now(), p.asked.Load()
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			for range 2 {
				c.leader().Recheck(t.Context(), "orders", "another one")
			}
		})
	}
	wg.Wait()
	require.LessOrEqual(t, p.asked.Load()-asked, int64(time.Since(began)/probeGap)+1)
}

// hung does not answer, as a server behind a network that drops everything, until it is back.
type hung struct {
	*memory.Resource
	away  atomic.Bool
	stuck atomic.Int64
}

func (h *hung) wait(ctx context.Context) error {
	if !h.away.Load() {
		return nil
	}
	h.stuck.Add(1)
	<-ctx.Done() // also when the server is back: this connection is dead
	return ctx.Err()
}

func (h *hung) Commit(ctx context.Context, x txn.XID, b txn.Branch) (txn.Finish, error) {
	if err := h.wait(ctx); err != nil {
		return 0, err
	}
	return h.Resource.Commit(ctx, x, b)
}

func (h *hung) Recover(ctx context.Context) ([]adapters.Prepared, error) {
	if err := h.wait(ctx); err != nil {
		return nil, err
	}
	return h.Resource.Recover(ctx)
}

// What was asked of a database before it came back may never be answered.
func TestCallsThatHangAreGivenUpWhenTheDatabaseReturns(t *testing.T) {
	disk := memory.NewDisk()
	h := &hung{Resource: memory.New("orders", disk)}
	c := newCluster(t, 1, func() []adapters.Resource { return []adapters.Resource{h} })
	id := txn.NewID(time.Now())
	b := c.prepared(h.Resource, id, "k")
	h.away.Store(true)
	require.Equal(t, txn.Commit, c.commit(id, b).Txn.Decision)
	require.Eventually(t, func() bool { return h.stuck.Load() >= 2 }, 10*time.Second, 10*time.Millisecond,
		"a worker and the scan hang")
	began := time.Now()
	h.away.Store(false)
	c.leader().workers["orders"].returned()
	require.Eventually(t, func() bool { _, done := disk.Get("k"); return done }, finishTimeout, 10*time.Millisecond)
	require.Less(t, time.Since(began), finishTimeout/2, "the attempt did not run to its own limit")
}

// stubborn cannot finish any branch but those that are prepared.
type stubborn struct {
	*memory.Resource
	failed atomic.Int64
}

func (s *stubborn) Commit(ctx context.Context, x txn.XID, b txn.Branch) (txn.Finish, error) {
	f, err := s.Resource.Commit(ctx, x, b)
	if err == nil && f != txn.Lost {
		return f, nil
	}
	s.failed.Add(1)
	return 0, errors.New("nobody can finish it")
}

// Four thousand branches that nobody can finish, older than a real one: it is finished while most
// of them wait for their next attempt, not behind them.
func TestARealBranchIsFinishedAmongThousandsThatFail(t *testing.T) {
	disk := memory.NewDisk()
	s := &stubborn{Resource: memory.New("orders", disk)}
	c := newCluster(t, 1, func() []adapters.Resource { return []adapters.Resource{s} })
	leader := c.leader()
	const poison = 4000
	var decided sync.WaitGroup
	for range poison {
		decided.Add(1)
		leader.CommitLater(txn.CommitRequest{ID: txn.NewID(time.Now()), Branches: []txn.Branch{{Resource: "orders"}}},
			func(r commit.Reply) {
				defer decided.Done()
				if r.Txn.Decision != txn.Commit {
					t.Errorf("%+v", r)
				}
			})
	}
	decided.Wait()
	require.Eventually(t, func() bool { return s.failed.Load() > poison }, time.Minute, 10*time.Millisecond)
	id := txn.NewID(time.Now())
	require.Equal(t, txn.Commit, c.commit(id, c.prepared(s.Resource, id, "k")).Txn.Decision)
	before := s.failed.Load()
	require.Eventually(t, func() bool { _, done := disk.Get("k"); return done }, time.Minute, time.Millisecond)
	require.Less(t, s.failed.Load()-before, int64(poison/4))
}

// realDatabase is a server that a test stops and starts, with a table of one column.
type realDatabase struct {
	*testdb.Server
	open func() adapters.Adapter
	// insert works in a branch.
	insert func(ctx context.Context, r adapters.Adapter, s adapters.Session) error
}

func realPostgres(t *testing.T) *realDatabase {
	s := testdb.Postgres(t)
	require.NoError(t, s.Exec(t.Context(), "", "create table kv (k int)"))
	return &realDatabase{Server: s, open: func() adapters.Adapter {
		r, err := postgres.Open(t.Context(), "orders", s.DSN(""))
		require.NoError(t, err)
		t.Cleanup(func() { _ = r.Close() })
		return r
	}, insert: func(ctx context.Context, r adapters.Adapter, s adapters.Session) error {
		tx, err := r.(*postgres.Resource).Tx(ctx, enlisted{s})
		if err == nil {
			_, err = tx.Exec(ctx, "insert into kv values (1)")
		}
		return err
	}}
}

func realMariaDB(t *testing.T) *realDatabase {
	s := testdb.MariaDB(t)
	require.NoError(t, s.Exec(t.Context(), "", "create database bank"))
	require.NoError(t, s.Exec(t.Context(), "bank", "create table kv (k int) engine=innodb"))
	return &realDatabase{Server: s, open: func() adapters.Adapter {
		r, err := mysql.Open("orders", s.DSN("bank"))
		require.NoError(t, err)
		t.Cleanup(func() { _ = r.Close() })
		return r
	}, insert: func(ctx context.Context, r adapters.Adapter, s adapters.Session) error {
		tx, err := r.(*mysql.Resource).Tx(ctx, enlisted{s})
		if err == nil {
			_, err = tx.ExecContext(ctx, "insert into kv values (1)")
		}
		return err
	}}
}

// A database is away for so long that nothing would be tried for some time. Its branches are
// finished when it is back, not when that time is over.
func TestBranchesAreFinishedWhenTheirDatabaseIsBack(t *testing.T) {
	for name, start := range map[string]func(*testing.T) *realDatabase{"PostgreSQL": realPostgres,
		"MariaDB": realMariaDB} {
		t.Run(name, func(t *testing.T) {
			db := start(t)
			c := newCluster(t, 1, func() []adapters.Resource { return []adapters.Resource{db.open()} })
			leader := c.leader()
			require.Eventually(t, func() bool { return leader.Status().Resources[0].OK }, 30*time.Second,
				20*time.Millisecond)

			app := db.open()
			id := txn.NewID(time.Now())
			x := txn.XID{Cluster: leader.Status().Cluster, ID: id, Branch: 1}
			s, err := app.Open(t.Context(), x)
			require.NoError(t, err)
			require.NoError(t, db.insert(t.Context(), app, s))
			vote, b, err := s.Prepare(t.Context())
			require.NoError(t, err)
			require.Equal(t, txn.VoteYes, vote)
			require.NoError(t, db.Stop())
			require.Equal(t, txn.Commit, c.commit(id, b).Txn.Decision)
			view := func() (commit.BranchView, bool) {
				v, err := leader.View(t.Context(), id)
				require.NoError(t, err)
				return v.Branches[x], v.Txn.Ended
			}
			var waits commit.BranchView
			require.Eventually(t, func() bool {
				waits, _ = view()
				return time.Until(waits.Due) > 10*time.Second
			}, time.Minute, 50*time.Millisecond, "it is tried less and less often")
			require.NotEmpty(t, waits.Err)
			require.False(t, leader.Status().Resources[0].OK, "and the status says that it is down")
			require.NoError(t, db.Start())
			for ended := false; !ended; _, ended = view() {
				require.True(t, time.Now().Before(waits.Due), "it waits as if the database was still away")
				time.Sleep(20 * time.Millisecond)
			}
		})
	}
}

// watched is a database that tells who waits, and counts how often it was asked.
type watched struct {
	*memory.Resource
	waits []adapters.Wait
	err   error
	asked atomic.Int64
}

func (w *watched) Waits(context.Context, time.Duration) ([]adapters.Wait, error) {
	w.asked.Add(1)
	return w.waits, w.err
}

// waiting says that A waits in billing and B in orders, as their client does, and returns who has to end.
func (c *testCluster) waiting(heard *uint64, a, b txn.ID) (victims []deadlock.Deadlock) {
	branches := func(name string, at string) (all []deadlock.Branch) {
		for _, r := range []string{"orders", "billing", "stock"} {
			all = append(all, deadlock.Branch{Session: deadlock.Session{Resource: r, Name: name}, Waits: r == at})
		}
		return all
	}
	r, err := c.leader().Waiting(c.t.Context(), *heard, []deadlock.Waiter{{ID: a, Branches: branches("a", "billing")},
		{ID: b, Branches: branches("b", "orders")}})
	require.NoError(c.t, err)
	*heard = r.Look
	return r.Deadlocks
}

// Databases are asked who waits if there is a reason, those in which somebody waits; who cannot tell keeps nobody
// from an answer, and only finds no deadlock.
func TestDatabasesAreAskedWhoWaitsIfThereIsAReason(t *testing.T) {
	since := time.Unix(5, 0)
	orders := &watched{Resource: memory.New("orders", memory.NewDisk()),
		waits: []adapters.Wait{{Session: "b", For: "a", Since: since}}}
	billing := &watched{Resource: memory.New("billing", memory.NewDisk()), err: errors.New("no privilege")}
	stock := &watched{Resource: memory.New("stock", memory.NewDisk())}
	c := newCluster(t, 1, func() []adapters.Resource { return []adapters.Resource{orders, billing, stock} })
	c.lease() // it leads
	_, err := c.leader().Waiting(t.Context(), 0, nil)
	require.NoError(t, err)
	require.Zero(t, orders.asked.Load()+billing.asked.Load(), "nobody waits")

	a, b, heard := txn.NewID(time.Now().Add(-time.Second)), txn.NewID(time.Now()), uint64(0)
	require.Eventually(t, func() bool {
		require.Empty(t, c.waiting(&heard, a, b))
		return orders.asked.Load() > 2 && billing.asked.Load() > 2
	}, 20*time.Second, 50*time.Millisecond)
	require.Zero(t, stock.asked.Load(), "there nobody waits")
	require.Zero(t, c.leader().Status().Deadlocks)

	blind := billing
	billing = &watched{Resource: blind.Resource, waits: []adapters.Wait{{Session: "a", For: "b", Since: since}}}
	c.kill(1)
	c.start(1)
	c.lease()
	var victims []deadlock.Deadlock
	require.Eventually(t, func() bool {
		victims = c.waiting(&heard, a, b)
		return len(victims) > 0
	}, 20*time.Second, 50*time.Millisecond)
	require.Equal(t, b, victims[0].Victim)
	require.Equal(t, []string{"billing", "orders"}, victims[0].Resources)
	require.Eventually(t, func() bool { return c.leader().Status().Deadlocks == 1 }, 10*time.Second,
		10*time.Millisecond)
}

// A database that hangs holds up no other: what is prepared elsewhere is shown, and finished, meanwhile. What it holds
// itself is finished when it answers.
func TestRecoverGoesRoundADatabaseThatHangs(t *testing.T) {
	disk, slow, hung := memory.NewDisk(), memory.NewDisk(), &atomic.Int32{}
	c := newTunedCluster(t, 1, func() []adapters.Resource {
		return []adapters.Resource{memory.New("orders", disk), late{memory.New("billing", slow), hung}}
	}, func(c *Config) { c.Rules = commit.Rules{MaxTransaction: time.Hour, Grace: time.Hour, Scan: time.Hour} })
	orders, billing := memory.New("orders", disk), memory.New("billing", slow)
	id, other := txn.NewID(time.Now()), txn.NewID(time.Now())
	require.Equal(t, txn.Commit, c.commit(id, c.prepared(orders, id, "a")).Txn.Decision)
	require.Equal(t, txn.Commit, c.commit(other, c.prepared(billing, other, "c")).Txn.Decision)
	waiting := txn.NewID(time.Now())
	c.prepared(orders, waiting, "b")
	hung.Store(hangs)
	recovered := func(apply bool) (early, all, unlisted []string) {
		began := time.Now()
		require.NoError(t, c.leader().Recover(t.Context(), txn.ID{}, apply, func(p Progress) error {
			for _, a := range p.Actions {
				require.NoError(t, a.Err)
				all = append(all, a.Branch.Resource+" "+a.Kind.String()+" "+a.Result)
			}
			if p.Unlisted != nil {
				unlisted = append(unlisted, p.Unlisted.Error())
			}
			if p.Pending != "" {
				unlisted = append(unlisted, p.Pending)
				hung.Store(isUp)
			}
			if time.Since(began) < recoverPatience {
				early = slices.Clone(all)
			}
			return nil
		}))
		return early, all, unlisted
	}
	early, all, unlisted := recovered(false)
	require.ElementsMatch(t, []string{"orders commit ", "orders leave "}, early)
	require.Equal(t, early, all)
	require.Len(t, unlisted, 1)
	require.Contains(t, unlisted[0], "not listed: billing: no answer within 3s")
	require.Contains(t, unlisted[0], `run "concord resource check billing"`)

	early, all, unlisted = recovered(true)
	require.ElementsMatch(t, []string{"orders commit ", "orders leave ", "orders commit done"}, early,
		"they did not wait for the other database")
	require.ElementsMatch(t, []string{"billing commit ", "billing commit done"}, all[len(early):])
	require.Len(t, unlisted, 1)
	require.Contains(t, unlisted[0], "billing has listed nothing within 3s")
	_, found := slow.Get("c")
	require.True(t, found)
}

// late is an outage whose lists come when it is over.
type late outage

func (l late) Recover(ctx context.Context) ([]adapters.Prepared, error) {
	for l.state.Load() == hangs {
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return l.Resource.Recover(ctx)
}
