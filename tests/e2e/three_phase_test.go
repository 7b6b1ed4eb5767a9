// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord"
	remote "github.com/concordtx/concord/adapters/agent"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/internal/testdb"
	"github.com/concordtx/concord/txn"
)

// council is a cluster and agents, each of which hosts a ledger that nobody else reaches, and an
// application that works through them.
type council struct {
	testing.TB
	*cluster
	agents  []*agent
	ledgers []*remote.Resource
	client  *concord.Client
}

func newCouncil(t testing.TB, more string, names ...string) *council {
	t.Helper()
	c := &council{TB: t}
	var s settings
	for _, name := range names {
		s.resources = append(s.resources,
			resource{name + "-ledger", remote.Driver, fmt.Sprintf("127.0.0.1:%d", testdb.FreePort(t))})
	}
	c.cluster = newCluster(t, s)
	for _, n := range c.cluster.nodes {
		c.cluster.start(n)
	}
	for i, name := range names {
		r := s.resources[i]
		c.agents = append(c.agents, startAgentAt(t, c.cluster, r.dsn, name, more,
			fmt.Sprintf("name: %s, driver: pebble, dir: %s", r.name, filepath.Join(t.TempDir(), "ledger"))))
		caller, err := remote.Dial(r.dsn)
		require.NoError(t, err)
		ledger := remote.New(r.name, caller)
		c.ledgers = append(c.ledgers, ledger)
		t.Cleanup(func() { require.NoError(t, ledger.Close()) })
	}
	c.cluster.ready()
	c.dialed()
	return c
}

func (c *council) dialed() {
	c.Helper()
	var err error
	c.client, err = concord.Dial(c.agents[0].within(), c.cluster.addrs())
	require.NoError(c, err)
	client := c.client
	c.Cleanup(func() { require.NoError(c, client.Close()) })
}

// run moves n from the first ledger to each of the others.
func (c *council) run(ctx context.Context, account string, n int) (id concord.ID, err error) {
	err = c.client.Run(ctx, func(ctx context.Context, tx *concord.Tx) error {
		id = tx.ID()
		for i, ledger := range c.ledgers {
			b, err := ledger.Tx(ctx, tx)
			if err != nil {
				return err
			}
			amount := n
			if i == 0 {
				amount = -n * (len(c.ledgers) - 1)
			}
			if _, err := b.Execute(ctx, remote.Statement{Text: "add ? ?", Args: []any{account, amount}}); err != nil {
				return err
			}
			if _, err := b.Execute(ctx, remote.Statement{Text: "set ? ?",
				Args: []any{id.String(), account}}); err != nil {
				return err
			}
		}
		return nil
	}, concord.WithProtocol(concord.ThreePhase), concord.WithTimeout(15*time.Second))
	return id, err
}

// value is what a ledger has under a key, asked of its agent alone: there may be no cluster.
func (c *council) value(i int, key string) string {
	c.Helper()
	a := c.agents[i]
	id := txn.NewID(time.Now()).WithClass(txn.Recorded)
	address := &concordv1.BranchAddress{Cluster: c.cluster.id.String(), Gid: id.String(), Resource: a.name + "-ledger",
		Journal: a.who.Load().GetJournal(), Epoch: a.who.Load().GetEpoch()}
	r, err := a.stub.Execute(a.within(),
		&concordv1.ExecuteRequest{Branch: address, Number: 1, Statement: "get ?",
			Arguments: []*concordv1.Value{text(key)}})
	require.NoError(c, err)
	require.Empty(c, r.GetError())
	_, err = a.stub.Finish(a.within(), &concordv1.FinishRequest{Branch: address, Decision: "abort"})
	require.NoError(c, err)
	if len(r.GetRows()) == 0 {
		return ""
	}
	return string(r.GetRows()[0].GetValues()[0].GetBytes())
}

func (c *council) number(i int, account string) int {
	c.Helper()
	text := c.value(i, account)
	if text == "" {
		return 0
	}
	n, err := strconv.Atoi(text)
	require.NoError(c, err)
	return n
}

// open counts the branches that the agents hold for a decision, or are ending.
func (c *council) open() (n int) {
	c.Helper()
	for _, a := range c.agents {
		m, err := a.stub.ListBranches(a.within(), &concordv1.ListBranchesRequest{Fresh: true, Limit: 10_000})
		require.NoError(c, err)
		for _, b := range m.GetBranches() {
			if b.GetPhase() != "ended" {
				n++
			}
		}
	}
	return n
}

// happened reports whether a transaction changed the ledgers, all of them or none.
func (c *council) happened(id concord.ID) bool {
	c.Helper()
	first := c.value(0, id.String()) != ""
	for i := range c.ledgers {
		require.Equal(c, first, c.value(i, id.String()) != "", "%v in the ledger of %s", id, c.agents[i].name)
	}
	return first
}

func TestThreePhaseTransactionCommitsEverywhereOrNowhere(t *testing.T) {
	c := newCouncil(t, "silence: 3s\n", "east", "west", "north")
	id, err := c.run(c.agents[0].within(), "A", 5)
	require.NoError(t, err)
	require.Equal(t, []int{-10, 5, 5}, []int{c.number(0, "A"), c.number(1, "A"), c.number(2, "A")},
		"it is applied when Run returns")
	eventually(t, "it is finished", func() bool { return c.cluster.get(id).State == "committed" && c.open() == 0 })
	require.Equal(t, "three_phase", c.cluster.get(id).Protocol)

	full := errors.New("no more")
	err = c.client.Run(c.agents[0].within(), func(ctx context.Context, tx *concord.Tx) error {
		for _, ledger := range c.ledgers {
			b, err := ledger.Tx(ctx, tx)
			require.NoError(t, err)
			_, err = b.Execute(ctx, remote.Statement{Text: "add A 1"})
			require.NoError(t, err)
		}
		return full
	}, concord.WithProtocol(concord.ThreePhase))
	require.ErrorIs(t, err, full)
	require.ErrorIs(t, err, concord.ErrAborted)
	require.Equal(t, []int{-10, 5, 5}, []int{c.number(0, "A"), c.number(1, "A"), c.number(2, "A")})
	require.Zero(t, c.open())
}

// Every coordinator is killed under load. The agents finish what they voted for among themselves,
// and the cluster, when it is back, says the same of each transaction.
func TestAgentsFinishWhenEveryCoordinatorIsLost(t *testing.T) {
	c := newCouncil(t, "silence: 3s\n", "east", "west", "north")
	var mu sync.Mutex
	answers := map[concord.ID]error{}
	committed := 0
	ctx, stop := context.WithCancel(context.Background())
	var workers sync.WaitGroup
	for w := range 8 {
		workers.Go(func() {
			for ctx.Err() == nil {
				id, err := c.run(ctx, fmt.Sprintf("A%d", w*10+rand.IntN(10)), 1)
				mu.Lock()
				answers[id] = err
				if err == nil {
					committed++
				}
				mu.Unlock()
			}
		})
	}
	eventually(t, "transfers commit", func() bool { mu.Lock(); defer mu.Unlock(); return committed > 100 })
	for _, n := range c.cluster.nodes {
		c.cluster.kill(n)
	}
	left := c.open()
	began := time.Now()
	stop() // whoever waits hears that the outcome is not known
	workers.Wait()
	eventually(t, "the agents have finished everything", func() bool { return c.open() == 0 })
	t.Logf("%d branches were open at the agents when the last coordinator died; %v later none was", left,
		time.Since(began))
	happened := map[concord.ID]bool{}
	sum := 0
	for id, err := range answers {
		happened[id] = c.happened(id)
		if err == nil {
			require.True(t, happened[id], "%v was called committed", id)
		}
		if errors.Is(err, concord.ErrAborted) {
			require.False(t, happened[id], "%v was called aborted: %v", id, err)
		}
	}
	for account := range 80 {
		for i := range c.ledgers {
			sum += c.number(i, fmt.Sprintf("A%d", account))
		}
	}
	require.Zero(t, sum)

	for _, n := range c.cluster.nodes {
		c.cluster.start(n)
	}
	c.cluster.ready()
	caller := c.cluster.caller()
	for id := range answers {
		if id.IsZero() {
			continue
		}
		r, err := caller.Outcome(c.agents[0].within(), &concordv1.OutcomeRequest{Gid: id.String()})
		require.NoError(t, err)
		require.Equal(t, map[bool]string{true: "committed", false: "aborted"}[happened[id]], r.GetOutcome(), "%v", id)
	}
	require.Zero(t, c.open())
	eventually(t, "the cluster has nothing in doubt", func() bool {
		s, ok := c.cluster.nodes[0].status(t)
		return ok && s.InDoubt != nil && *s.InDoubt == 0
	})
}

// A thousand transactions are voted for and not decided when every coordinator is lost: one agent was
// stopped before it could vote. The others are enough to end all of them.
func TestAThousandTransactionsAreEndedWithoutACoordinator(t *testing.T) {
	const many = 1000
	c := newCouncil(t, "max_open: 4000\n", "east", "west", "north", "south")
	silent := c.agents[3]
	var worked, workers sync.WaitGroup
	vote := make(chan struct{})
	worked.Add(many)
	for w := range many {
		workers.Go(func() {
			var once sync.Once
			defer once.Do(worked.Done)
			err := c.client.Run(c.agents[0].within(), func(ctx context.Context, tx *concord.Tx) error {
				for _, ledger := range c.ledgers {
					b, err := ledger.Tx(ctx, tx)
					if err != nil {
						return err
					}
					if _, err := b.Execute(ctx, remote.Statement{Text: "add ? 1", Args: []any{fmt.Sprintf("A%d",
						w)}}); err != nil {
						return err
					}
				}
				once.Do(worked.Done)
				<-vote
				return nil
			}, concord.WithProtocol(concord.ThreePhase), concord.WithTimeout(40*time.Second))
			if err == nil {
				t.Error("it was called committed, and one agent has never voted")
			}
		})
	}
	worked.Wait()
	require.NoError(t, silent.process.Signal(syscall.SIGSTOP))
	close(vote)
	inDoubt := func() (n int) {
		for _, a := range c.agents[:3] {
			m, err := a.stub.ListBranches(a.within(), &concordv1.ListBranchesRequest{Limit: 10_000})
			require.NoError(t, err)
			for _, b := range m.GetBranches() {
				if b.GetPhase() == "in-doubt" {
					n++
				}
			}
		}
		return n
	}
	eventually(t, "three agents have voted for all of them", func() bool { return inDoubt() == 3*many })
	for _, n := range c.cluster.nodes {
		c.cluster.kill(n)
	}
	began := time.Now()
	eventually(t, "nothing is in doubt", func() bool { return inDoubt() == 0 })
	t.Logf("%d transactions at three agents were ended %v after the last coordinator died", many, time.Since(began))
	require.NoError(t, silent.process.Signal(syscall.SIGCONT))
	workers.Wait()
}

// A journal that was put back from a copy has forgotten what it promised since: nobody counts its votes.
func TestAJournalThatWasPutBackIsRefused(t *testing.T) {
	c := newCouncil(t, "", "east", "west")
	east := c.agents[0]
	data, old := filepath.Join(east.dir, "data"), filepath.Join(t.TempDir(), "copy")
	require.NoError(t, east.process.End(syscall.SIGTERM, patience))
	require.NoError(t, os.CopyFS(old, os.DirFS(data)))
	east.start()
	east.kill()
	east.start()
	_, err := c.run(east.within(), "account", 5)
	require.NoError(t, err)
	require.NoError(t, east.process.End(syscall.SIGTERM, patience))
	require.NoError(t, os.RemoveAll(data))
	require.NoError(t, os.CopyFS(data, os.DirFS(old)))
	east.start()
	_, err = c.run(east.within(), "account", 7)
	require.ErrorIs(t, err, concord.ErrAborted)
	require.ErrorContains(t, err, "its journal was restored from a copy")
	eventually(t, "nothing of it is left", func() bool {
		return c.value(0, "account") == "-5" && c.value(1, "account") == "5"
	})
}
