// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord"
	remote "github.com/concordtx/concord/adapters/agent"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/internal/testdb"
	"github.com/concordtx/concord/txn"
)

// hosted is a PostgreSQL and a MariaDB, each behind an agent, and a client that moves money between
// them in three phases.
type hosted struct {
	*bank
	*cluster
	agents           []*agent
	orders, billing  *remote.Resource
	client           *concord.Client
	mu               sync.Mutex
	answers          map[txn.ID]error
	committed, tried int
}

func newHosted(t testing.TB, s settings) *hosted {
	t.Helper()
	h := &hosted{bank: newBank(t), answers: map[txn.ID]error{}}
	east, west := fmt.Sprintf("127.0.0.1:%d", testdb.FreePort(t)), fmt.Sprintf("127.0.0.1:%d", testdb.FreePort(t))
	s.resources, s.scan = []resource{{"orders", remote.Driver, east}, {"billing", remote.Driver, west}}, time.Second
	h.cluster = newCluster(t, s)
	for _, n := range h.cluster.nodes {
		h.cluster.start(n)
	}
	h.agents = []*agent{
		startAgentAt(t, h.cluster, east, "east", "silence: 3s\n",
			fmt.Sprintf("name: orders, driver: postgres, dsn: %q", h.left.dsn())),
		startAgentAt(t, h.cluster, west, "west", "silence: 3s\n",
			fmt.Sprintf("name: billing, driver: mysql, dsn: %q", h.right.dsn())),
	}
	h.cluster.ready()
	h.cluster.id = h.agents[0].cluster()
	h.orders, h.billing = h.agents[0].resource("orders"), h.agents[1].resource("billing")
	h.client = h.cluster.dial()
	return h
}

// resource is a database of an agent, as an application has it.
func (a *agent) resource(name string) *remote.Resource {
	a.Helper()
	caller, err := remote.Dial(a.addr)
	require.NoError(a, err)
	r := remote.New(name, caller)
	a.Cleanup(func() { require.NoError(a, r.Close()) })
	return r
}

// transfer moves 5 from an account of orders to one of billing.
func (h *hosted) transfer(ctx context.Context) {
	var id txn.ID
	account := rand.IntN(accounts)
	err := h.client.Run(ctx, func(ctx context.Context, tx *concord.Tx) error {
		id = tx.ID()
		for _, w := range []struct {
			r          *remote.Resource
			statements [2]string
		}{
			{h.orders, [2]string{"update account set balance = balance - 5 where id = $1",
				"insert into transfer values ($1, 5)"}},
			{h.billing, [2]string{"update account set balance = balance + 5 where id = ?",
				"insert into transfer values (?, 5)"}},
		} {
			b, err := w.r.Tx(ctx, tx)
			if err != nil {
				return err
			}
			for i, arg := range []any{account, id.String()} {
				if _, err := b.Execute(ctx, remote.Statement{Text: w.statements[i], Args: []any{arg}}); err != nil {
					return err
				}
			}
		}
		return nil
	}, concord.WithProtocol(concord.ThreePhase), concord.WithTimeout(20*time.Second))
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tried++
	if !id.IsZero() {
		h.answers[id] = err
	}
	if err == nil {
		h.committed++
	}
}

func (h *hosted) sofar() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.committed
}

// prepared counts what both databases hold prepared.
func (h *hosted) prepared() int {
	return len(h.left.prepared(h.bank, h.cluster.id)) + len(h.right.prepared(h.bank, h.cluster.id))
}

// inDoubtFrom reports whether an agent holds a branch in doubt that was begun before a moment.
func (h *hosted) inDoubtFrom(moment time.Time) bool {
	for _, a := range h.agents {
		m, err := a.stub.ListBranches(a.within(), &concordv1.ListBranchesRequest{})
		require.NoError(h.bank, err)
		for _, b := range m.GetBranches() {
			id, err := txn.ParseID(b.GetGid())
			require.NoError(h.bank, err)
			if b.GetPhase() == "in-doubt" && id.Time().Before(moment) {
				return true
			}
		}
	}
	return false
}

// Three phases between a PostgreSQL and a MariaDB, while the leader, the agents and at last every
// coordinator are killed. What was called committed is in both databases, everything else in none,
// and the agents end alone what they hold when no coordinator is left.
func TestThreePhasesBetweenDatabasesWhileEverybodyIsKilled(t *testing.T) {
	h := newHosted(t, settings{})
	ctx, stop := context.WithCancel(context.Background())
	var workers sync.WaitGroup
	for range 8 {
		workers.Go(func() {
			for ctx.Err() == nil {
				h.transfer(ctx)
			}
		})
	}
	goesOn := func(what string) {
		before := h.sofar()
		eventually(t, "transfers commit "+what, func() bool { return h.sofar() > before+30 })
	}
	goesOn("at first")
	leader := h.cluster.leader()
	h.cluster.kill(leader)
	goesOn("with another leader")
	h.cluster.start(leader)
	for _, a := range h.agents {
		a.kill()
		a.start()
		goesOn("after an agent was killed")
	}
	// Of what an agent had not voted for when it was killed it knows nothing, so the other one would
	// need the cluster to end that.
	restarted := time.Now()
	eventually(t, "what was begun before is decided", func() bool { return !h.inDoubtFrom(restarted) })
	for _, n := range h.cluster.nodes {
		h.cluster.kill(n)
	}
	left := h.prepared()
	began := time.Now()
	stop()
	workers.Wait()
	eventually(t, "nothing is prepared any more, without a coordinator", func() bool { return h.prepared() == 0 })
	t.Logf("%d branches were prepared when the last coordinator died; %v later none was. %d of %d transfers committed",
		left, time.Since(began), h.committed, h.tried)

	query := "select gid from transfer"
	eventually(t, "open branches are rolled back", func() bool {
		// which a client that does not know the outcome leaves behind
		var open int
		for _, a := range h.agents {
			m, err := a.stub.ListBranches(a.within(), &concordv1.ListBranchesRequest{})
			require.NoError(t, err)
			for _, b := range m.GetBranches() {
				if b.GetPhase() != "ended" {
					open++
				}
			}
		}
		return open == 0
	})
	leftIDs, rightIDs := h.left.texts(t, query), h.right.texts(t, query)
	require.ElementsMatch(t, leftIDs, rightIDs, "what is in one database is in the other")
	happened := map[string]bool{}
	for _, gid := range leftIDs {
		happened[gid] = true
	}
	for id, err := range h.answers {
		if err == nil {
			require.True(t, happened[id.String()], "%v was called committed", id)
		}
		if errors.Is(err, concord.ErrAborted) {
			require.False(t, happened[id.String()], "%v was called aborted: %v", id, err)
		}
	}
	h.bank.sumHolds()

	for _, n := range h.cluster.nodes {
		h.cluster.start(n)
	}
	h.cluster.ready()
	caller := h.cluster.caller()
	for id := range h.answers {
		r, err := caller.Outcome(h.agents[0].within(), &concordv1.OutcomeRequest{Gid: id.String()})
		require.NoError(t, err)
		require.Equal(t, map[bool]string{true: "committed", false: "aborted"}[happened[id.String()]], r.GetOutcome(),
			"%v", id)
	}
	require.Zero(t, h.prepared())
}
