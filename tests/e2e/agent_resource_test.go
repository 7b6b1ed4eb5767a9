// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
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

// mixed is a cluster, an agent with a ledger that nobody else reaches, and an application that has
// PostgreSQL by sessions of its own.
type mixed struct {
	testing.TB
	*cluster
	*bank
	agent  *agent
	ledger *remote.Resource
	client *concord.Client
}

func newMixed(t testing.TB, s settings) *mixed {
	t.Helper()
	m := &mixed{TB: t, bank: newBank(t)}
	addr := fmt.Sprintf("127.0.0.1:%d", testdb.FreePort(t))
	s.resources = []resource{{"ledger", remote.Driver, addr}, m.bank.resources()[0]}
	m.cluster = newCluster(t, s)
	for _, n := range m.cluster.nodes {
		m.cluster.start(n)
	}
	m.agent = startAgentAt(t, m.cluster, addr, "west", "",
		"name: ledger, driver: pebble, dir: "+filepath.Join(t.TempDir(), "ledger"))
	m.cluster.ready()
	m.cluster.id = m.agent.cluster()
	caller, err := remote.Dial(addr)
	require.NoError(t, err)
	m.ledger = remote.New("ledger", caller)
	t.Cleanup(func() { require.NoError(t, m.ledger.Close()) })
	m.client, err = concord.Dial(m.agent.within(), m.cluster.addrs())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.client.Close()) })
	return m
}

// cluster is the one that the agent belongs to.
func (a *agent) cluster() (id txn.ClusterID) {
	_, err := fmt.Sscanf(a.who.Load().GetCluster(), "%x", (*uint32)(&id))
	require.NoError(a, err)
	return id
}

// add changes the ledger by n and an account of PostgreSQL against it.
func (m *mixed) add(ctx context.Context, tx *concord.Tx, n int) error {
	branch, err := m.ledger.Tx(ctx, tx)
	if err != nil {
		return err
	}
	if _, err := branch.Execute(ctx, remote.Statement{Text: "add ? ?", Args: []any{"A", n}}); err != nil {
		return err
	}
	pg, err := m.orders.Tx(ctx, tx)
	if err != nil {
		return err
	}
	_, err = pg.Exec(ctx, "update account set balance = balance - $1 where id = 1", n)
	return err
}

// sums are the ledger's A and what the account of PostgreSQL has lost.
func (m *mixed) sums() (ledger, lost int64) {
	m.Helper()
	require.NoError(m, m.client.Run(m.agent.within(), func(ctx context.Context, tx *concord.Tx) error {
		branch, err := m.ledger.Tx(ctx, tx)
		if err != nil {
			return err
		}
		r, err := branch.Execute(ctx, remote.Statement{Text: "get A"})
		if err == nil && len(r.Rows) == 1 {
			ledger, err = strconv.ParseInt(string(r.Rows[0][0].([]byte)), 10, 64)
		}
		return err
	}))
	return ledger, int64(opening - m.left.number(m, "select balance from account where id = 1"))
}

// settled waits until nobody holds anything.
func (m *mixed) settled(id txn.ID) {
	m.Helper()
	eventually(m, "nothing is left prepared", func() bool {
		phases := m.agent.phases(id)
		return phases["in-doubt"]+phases["listed"]+phases["open"]+phases["voting"]+phases["finishing"] == 0 &&
			len(m.left.prepared(m, m.cluster.id)) == 0
	})
}

func TestApplicationWithAnAgentAndASessionOfItsOwn(t *testing.T) {
	m := newMixed(t, settings{})
	var id concord.ID
	require.NoError(t, m.client.Run(m.agent.within(), func(ctx context.Context, tx *concord.Tx) error {
		id = tx.ID()
		return m.add(ctx, tx, 5)
	}))
	m.settled(id)
	ledger, lost := m.sums()
	require.EqualValues(t, 5, ledger)
	require.EqualValues(t, 5, lost)

	full := errors.New("no more")
	err := m.client.Run(m.agent.within(), func(ctx context.Context, tx *concord.Tx) error {
		id = tx.ID()
		return errors.Join(m.add(ctx, tx, 7), full)
	})
	require.ErrorIs(t, err, concord.ErrAborted)
	require.ErrorIs(t, err, full)
	m.settled(id)

	err = m.client.Run(m.agent.within(), func(ctx context.Context, tx *concord.Tx) error {
		id = tx.ID()
		branch, err := m.ledger.Tx(ctx, tx)
		if err != nil {
			return err
		}
		_, err = branch.Execute(ctx, remote.Statement{Text: "add A"})
		return err
	})
	var aborted *concord.AbortedError
	require.ErrorAs(t, err, &aborted)
	require.Equal(t, "ledger", aborted.Resource)
	m.settled(id)
	ledger, lost = m.sums()
	require.EqualValues(t, 5, ledger)
	require.EqualValues(t, 5, lost)
}

// The agent would ask for a decision that nobody has recorded.
func TestTransactionOfAnAgentAloneIsDecidedByTheCluster(t *testing.T) {
	m := newMixed(t, settings{nodes: 1})
	var id concord.ID
	require.NoError(t, m.client.Run(m.agent.within(), func(ctx context.Context, tx *concord.Tx) error {
		id = tx.ID()
		branch, err := m.ledger.Tx(ctx, tx)
		if err != nil {
			return err
		}
		_, err = branch.Execute(ctx, remote.Statement{Text: "add ? ?", Args: []any{"A", 3}})
		return err
	}))
	outcome, err := m.client.Outcome(m.agent.within(), id)
	require.NoError(t, err)
	require.Equal(t, concord.Committed, outcome)
	ledger, _ := m.sums()
	require.EqualValues(t, 3, ledger)
}

func TestAgentThatDiedBeforeTheVoteAbortsTheTransaction(t *testing.T) {
	m := newMixed(t, settings{nodes: 1})
	tx, err := m.client.Begin(m.agent.within())
	require.NoError(t, err)
	require.NoError(t, m.add(m.agent.within(), tx, 5))
	m.agent.kill()
	m.agent.start()
	err = tx.Commit(m.agent.within())
	var aborted *concord.AbortedError
	require.ErrorAs(t, err, &aborted)
	require.Equal(t, "ledger", aborted.Resource)
	m.settled(tx.ID())
	ledger, lost := m.sums()
	require.Zero(t, ledger)
	require.Zero(t, lost)
}

// The cluster finishes a branch at an agent like one of any database, and it is the agent's record that
// says what was found.
func TestBranchesAtAnAgentAreFinishedByTheCluster(t *testing.T) {
	m := newMixed(t, settings{nodes: 1, grace: 100 * time.Millisecond})
	d := drive(t, m.cluster)
	b := d.branch(m.agent, "ledger")
	b.do(d, "add ? ?", text("A"), &concordv1.Value{Kind: &concordv1.Value_Int{Int: 9}})
	d.vote()
	m.agent.kill()
	res, err := m.cluster.caller().Commit(m.agent.within(),
		&concordv1.CommitRequest{Gid: d.id.String(), Cluster: m.cluster.id.String(),
			Branches: []*concordv1.Branch{b.yes}})
	require.NoError(t, err)
	require.Equal(t, "commit", res.GetDecision(), res.GetReason())
	m.agent.start()
	eventually(t, "the cluster has heard that it is finished", func() bool {
		res, err := m.cluster.caller().Get(m.agent.within(), &concordv1.GetRequest{Gid: d.id.String()})
		return err == nil && res.GetTransaction().GetState() == "committed"
	})
	ledger, _ := m.sums()
	require.EqualValues(t, 9, ledger)
}

// An agent is lost for good in the middle of everything, and another one is given its database. What it had prepared
// is finished as it was decided, or rolled back; and when it comes back after all, it ends nothing differently, and
// nobody commits by it any more.
func TestADatabaseIsGivenToAnotherAgent(t *testing.T) {
	h := newHosted(t, settings{maxAge: 20 * time.Second})
	east, west := h.agents[0], h.agents[1]
	prepared := func() *driven {
		d := drive(t, h.cluster)
		left, right := d.branch(east, "orders"), d.branch(west, "billing")
		left.do(t, "insert into transfer values ($1, 5)", text(d.id.String()))
		right.do(t, "insert into transfer values (?, 5)", text(d.id.String()))
		d.vote()
		return d
	}
	ctx, stop := context.WithCancel(t.Context())
	var workers sync.WaitGroup
	for range 8 {
		workers.Go(func() {
			for ctx.Err() == nil {
				h.transfer(ctx)
			}
		})
	}
	eventually(t, "transfers commit", func() bool { return h.sofar() > 20 })
	forgotten, decided := prepared(), prepared()
	east.kill()
	decided.decide(h.cluster.caller()) // within the 10 seconds that votes may take
	stop()
	workers.Wait()
	require.GreaterOrEqual(t, len(h.left.prepared(t, h.cluster.id)), 2)

	heir := startAgent(t, h.cluster, "heir", "silence: 3s\n",
		fmt.Sprintf("name: orders, driver: postgres, dsn: %q", h.left.dsn()))
	for _, n := range h.cluster.nodes {
		h.cluster.kill(n)
		conf, err := os.ReadFile(n.config)
		require.NoError(t, err)
		conf = bytes.ReplaceAll(conf, []byte(east.addr), []byte(heir.addr))
		require.NoError(t, os.WriteFile(n.config, conf, 0o600))
		h.cluster.start(n)
	}
	h.cluster.ready()
	eventually(t, "nothing is prepared any more", func() bool { return h.prepared() == 0 })
	ended := func() {
		t.Helper()
		require.Equal(t, concord.Committed, h.shows(decided.id))
		require.Equal(t, concord.Aborted, h.shows(forgotten.id))
		for id, err := range h.answers {
			outcome := h.shows(id)
			require.False(t, err == nil && outcome != concord.Committed, "%v was called committed", id)
			require.False(t, errors.Is(err, concord.ErrAborted) && outcome != concord.Aborted, "%v: %v", id, err)
		}
		h.bank.sumHolds()
	}
	ended()

	east.start()
	eventually(t, "the agent that came back holds nothing any more", func() bool {
		m, err := east.stub.ListBranches(east.within(), &concordv1.ListBranchesRequest{})
		require.NoError(t, err)
		return !slices.ContainsFunc(m.GetBranches(),
			func(b *concordv1.AgentBranch) bool { return b.GetPhase() != "ended" })
	})
	ended()
	clear(h.answers)
	h.transfer(t.Context())
	for id, err := range h.answers {
		require.ErrorIs(t, err, concord.ErrAborted, "%v", id)
		require.ErrorContains(t, err, `"orders"`)
	}
	h.orders = heir.resource("orders")
	before := h.sofar()
	h.transfer(t.Context())
	require.Equal(t, before+1, h.sofar(), "%v", h.answers)
	ended()
}
