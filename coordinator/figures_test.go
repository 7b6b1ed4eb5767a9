// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/memory"
	"github.com/concordtx/concord/coordinator/commit"
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

// outage is a database that can go away: it refuses, or says nothing at all.
type outage struct {
	*memory.Resource
	state *atomic.Int32
}

const (
	isUp int32 = iota
	refuses
	hangs
	busy // says nothing to who asks for its identity, and works
)

func (o outage) fails(ctx context.Context) error {
	switch o.state.Load() {
	case refuses:
		return errors.New("connection refused")
	case hangs:
		<-ctx.Done()
		return ctx.Err()
	}
	return nil
}

func (o outage) Identity(ctx context.Context) (string, error) {
	if o.state.Load() == busy {
		<-ctx.Done()
	}
	if err := o.fails(ctx); err != nil {
		return "", err
	}
	return o.Resource.Identity(ctx)
}

func (o outage) Check(ctx context.Context) (adapters.Report, error) {
	return adapters.Report{}, o.fails(ctx)
}

func (o outage) Recover(ctx context.Context) ([]adapters.Prepared, error) {
	if err := o.fails(ctx); err != nil {
		return nil, err
	}
	return o.Resource.Recover(ctx)
}

func (o outage) Commit(ctx context.Context, x txn.XID, b txn.Branch) (txn.Finish, error) {
	if err := o.fails(ctx); err != nil {
		return 0, err
	}
	return o.Resource.Commit(ctx, x, b)
}

// everywhere waits until all running nodes know figures that satisfy a condition.
func (c *testCluster) everywhere(what string, holds func(*commit.Figures) bool) {
	c.t.Helper()
	require.Eventually(c.t, func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, n := range c.nodes {
			if f := n.Status().Known(time.Now()); f == nil || !holds(f) {
				return false
			}
		}
		return true
	}, 20*time.Second, 20*time.Millisecond, what)
}

func TestEveryNodeTellsWhatTheLeaderKnows(t *testing.T) {
	disk := memory.NewDisk()
	c := newTunedCluster(t, 4, func() []adapters.Resource { return []adapters.Resource{memory.New("orders", disk)} },
		func(c *Config) {
			c.Members = slices.Clone(c.Members) // the nodes before have it
			c.Members[3].Observer = true
			c.Rules = commit.Rules{MaxTransaction: time.Hour, Grace: time.Hour, Scan: 100 * time.Millisecond}
		})
	orders := memory.New("orders", disk)
	undecided, committing, foreign := txn.NewID(time.Now().Add(-time.Minute)), txn.NewID(time.Now()),
		txn.NewID(time.Now())
	c.prepared(orders, undecided, "a")
	require.Equal(t, txn.Commit, c.commit(committing, c.prepared(orders, committing, "b")).Txn.Decision)
	stranger, err := orders.Open(t.Context(), txn.XID{Cluster: c.leader().Status().Cluster + 1, ID: foreign})
	require.NoError(t, err)
	tx, err := orders.Tx(t.Context(), enlisted{stranger})
	require.NoError(t, err)
	require.NoError(t, tx.Put(t.Context(), "c", 1))
	_, _, err = stranger.Prepare(t.Context())
	require.NoError(t, err)
	born := undecided.Time()
	c.everywhere("the counts of the leader", func(f *commit.Figures) bool {
		r := f.Resources[0]
		return f.InDoubt == 2 && f.Oldest.Equal(born) && r.OK && r.InDoubt == 2 && r.Oldest.Equal(born) &&
			r.Foreign == 1 && !r.Listed.IsZero() &&
			f.Age(f.Oldest, time.Now()) >= time.Minute
	})
	c.everywhere("its warnings", func(f *commit.Figures) bool {
		return strings.Contains(strings.Join(f.Warnings, "\n"), "orders holds 1 prepared branches of other clusters")
	})
	for _, n := range c.nodes {
		require.Contains(t, strings.Join(n.Status().Warnings, "\n"), "other clusters")
	}
	view, err := c.leader().View(t.Context(), foreign)
	require.NoError(t, err)
	require.Len(t, view.Foreign, 1)
	var plan []ActionResult
	require.NoError(t, c.leader().Recover(t.Context(), foreign, true, func(p Progress) error {
		plan = append(plan, p.Actions...)
		return p.Unlisted
	}))
	require.Len(t, plan, 1, "shown, with what to do, and not touched")
	require.Contains(t, plan[0].Why, "concord tx settle "+foreign.String())
	require.Empty(t, plan[0].Result)

	// Without a leader it is unknown, not zero.
	for id := zab.NodeID(1); id <= 2; id++ {
		c.kill(id)
	}
	require.Eventually(t, func() bool {
		return c.nodes[3].Status().Known(time.Now()) == nil && c.nodes[4].Status().Known(time.Now()) == nil
	}, 20*time.Second, 20*time.Millisecond)
}

func TestOldestBranchIsTheOneOfADatabaseThatIsDown(t *testing.T) {
	disk, state := memory.NewDisk(), &atomic.Int32{}
	c := newTunedCluster(t, 3, func() []adapters.Resource {
		return []adapters.Resource{outage{memory.New("orders",
			disk), state}}
	}, func(c *Config) {
		c.Rules = commit.Rules{MaxTransaction: time.Hour, Grace: 10 * time.Millisecond, Scan: 100 * time.Millisecond}
	})
	orders := memory.New("orders", disk)
	id, orphan := txn.NewID(time.Now().Add(-time.Minute)), txn.NewID(time.Now().Add(-2*time.Minute))
	b := c.prepared(orders, id, "k")
	c.everywhere("it is fit", func(f *commit.Figures) bool { return f.Resources[0].OK })
	state.Store(refuses)
	require.Equal(t, txn.Commit, c.commit(id, b).Txn.Decision)
	counted := func(f *commit.Figures) bool {
		r := f.Resources[0]
		return !r.OK && strings.Contains(r.Err, "connection refused") && r.InDoubt == 1 && r.Oldest.Equal(id.Time()) &&
			f.InDoubt == 1 && f.Oldest.Equal(id.Time())
	}
	c.everywhere("down, with its branch", counted)
	// Who leads next has never listed it, and knows of the branch all the same; of others it says that
	// it does not know.
	c.kill(c.leader().config.Node)
	c.leader()
	c.everywhere("down, with its branch",
		func(f *commit.Figures) bool { return counted(f) && f.Incomplete() && f.Resources[0].Listed.IsZero() })
	view, err := c.leader().View(t.Context(), orphan)
	require.NoError(t, err)
	require.False(t, view.Known)
	require.Len(t, view.Unlisted, 1)
	require.Contains(t, view.Unlisted[0], "orders")
	state.Store(isUp)
	c.everywhere("back, and finished", func(f *commit.Figures) bool {
		return f.Resources[0].OK && f.Resources[0].InDoubt == 0 && f.InDoubt == 0 && f.Oldest.IsZero() &&
			!f.Incomplete()
	})
}

// The last listing of a database that has gone away since still counts.
func TestUndecidedBranchOfADatabaseThatIsDownStillCounts(t *testing.T) {
	disk, state := memory.NewDisk(), &atomic.Int32{}
	c := newTunedCluster(t, 1, func() []adapters.Resource {
		return []adapters.Resource{outage{memory.New("orders",
			disk), state}}
	}, func(c *Config) {
		c.Rules = commit.Rules{MaxTransaction: time.Hour, Scan: 100 * time.Millisecond}
	})
	c.prepared(memory.New("orders", disk), txn.NewID(time.Now()), "k")
	c.everywhere("listed", func(f *commit.Figures) bool { return f.Resources[0].InDoubt == 1 })
	state.Store(hangs)
	c.everywhere("down, and still counted", func(f *commit.Figures) bool {
		return !f.Resources[0].OK && f.Resources[0].InDoubt == 1 && f.InDoubt == 1
	})
}

func TestResourceThatGoesAwayIsDownWithinSixSeconds(t *testing.T) {
	for name, how := range map[string]int32{"refuses": refuses, "hangs": hangs} {
		t.Run(name, func(t *testing.T) {
			// At any moment of the probe's rhythm, the preflight's included.
			for after := time.Duration(0); after < 35*time.Second; after += 700 * time.Millisecond {
				synctest.Test(t, func(t *testing.T) {
					state := &atomic.Int32{}
					w, stop := runProbe(t, outage{memory.New("orders", memory.NewDisk()), state})
					time.Sleep(time.Second + after)
					synctest.Wait()
					require.True(t, w.state().OK)
					identity := w.state().Identity
					state.Store(how)
					time.Sleep(5 * time.Second) // and a second for the way to the other nodes
					synctest.Wait()
					require.False(t, w.state().OK, "after %v", after)
					require.NotEmpty(t, w.state().Err)
					require.Equal(t, identity, w.state().Identity, "which database it is stays known")
					state.Store(isUp)
					time.Sleep(5 * time.Second)
					synctest.Wait()
					require.True(t, w.state().OK)
					stop()
				})
			}
		})
	}
}

func TestFailedCallMakesTheProbeLookAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		state := &atomic.Int32{}
		w, stop := runProbe(t, outage{memory.New("orders", memory.NewDisk()), state})
		time.Sleep(probeInterval / 2)
		state.Store(refuses)
		_, err := w.list(t.Context())
		require.Error(t, err)
		synctest.Wait()
		require.False(t, w.state().OK)
		stop()
	})
}

func TestResourceThatIsBusyIsNotDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		state := &atomic.Int32{}
		w, stop := runProbe(t, outage{memory.New("orders", memory.NewDisk()), state})
		time.Sleep(time.Second)
		state.Store(busy)
		for range 20 {
			_, err := w.list(t.Context())
			require.NoError(t, err)
			time.Sleep(time.Second)
			synctest.Wait()
			require.True(t, w.state().OK)
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		require.False(t, w.state().OK, "nothing is answered any more")
		stop()
	})
}

func runProbe(t *testing.T, r adapters.Resource) (w *worker, stop func()) {
	w = newWorker(r, slog.New(slog.DiscardHandler), nil, func(context.Context, replica.Event) {},
		func(context.Context) {})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { w.probe(ctx); close(done) }()
	return w, func() { cancel(); <-done }
}

// Every node delivers every decision, and only one has made it.
func TestEachDecisionIsCountedByOneNode(t *testing.T) {
	c := newCluster(t, 3, func() []adapters.Resource { return nil })
	made := func() (sum commit.Decided) {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, n := range c.nodes {
			sum.Commit += n.Status().Decided.Commit
			sum.Abort += n.Status().Decided.Abort
		}
		return sum
	}
	decide := func() {
		for range 5 {
			require.Equal(t, txn.Commit, c.commit(txn.NewID(time.Now())).Txn.Decision)
		}
		_, err := c.leader().Outcome(t.Context(), txn.Inquiry{ID: txn.NewID(time.Now())})
		require.NoError(t, err)
	}
	decide()
	require.Eventually(t, func() bool { return made() == commit.Decided{Commit: 5, Abort: 1} }, 10*time.Second,
		20*time.Millisecond)
	first := c.leader().config.Node
	c.kill(first)
	c.leader()
	c.start(first)
	decide()
	require.Eventually(t, func() bool { return made() == commit.Decided{Commit: 5, Abort: 1} }, 10*time.Second,
		20*time.Millisecond,
		"who was started again counts nothing that others made")
}

func TestTurnsAreCountedAndSlowOnesLogged(t *testing.T) {
	var text bytes.Buffer
	log := slog.New(slog.NewTextHandler(&text, nil))
	var ts turns
	now := time.Unix(1_700_000_000, 0)
	took := func(d time.Duration) {
		now = now.Add(d)
		ts.count(log, turn{began: now.Add(-d), stepped: now.Add(-d / 4), ended: now, log: &replica.Effects{},
			commits: &commit.Effects{Reply: make([]commit.Reply, 3)},
			events:  []replica.Event{commit.CommitAsked{}, replica.Peer{Event: zab.Persisted{}}, commit.CommitAsked{}}})
	}
	took(time.Microsecond)
	took(20 * time.Millisecond)
	require.Empty(t, text.String(), "20 ms is not too long")
	for range 5 {
		took(30 * time.Millisecond)
	}
	took(3 * time.Second)
	require.Equal(t, 1, strings.Count(text.String(), "\n"), "one line in ten seconds: %s", text.String())
	require.Contains(t, text.String(), "took=30ms core=22.5ms events=3 kinds=\"2 CommitAsked, 1 Persisted\"")
	require.Contains(t, text.String(), "replies=3")

	took(8 * time.Second)
	require.Equal(t, 2, strings.Count(text.String(), "\n"))
	require.Contains(t, text.String(), "slow_turns=6", "those that had no line")

	x := ts.read()
	require.Equal(t, uint64(9), x.Count)
	require.Equal(t, uint64(1), x.Upto[50*time.Microsecond])
	require.Equal(t, uint64(2), x.Upto[slowTurn])
	require.Equal(t, uint64(7), x.Upto[50*time.Millisecond])
	require.Equal(t, uint64(7), x.Upto[time.Second])
	require.Equal(t, 20*time.Millisecond+150*time.Millisecond+11*time.Second+time.Microsecond, x.Sum)
}
