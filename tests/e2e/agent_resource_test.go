// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	otlpcollector "go.opentelemetry.io/proto/slim/otlp/collector/trace/v1"
	otlp "go.opentelemetry.io/proto/slim/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/concordtx/concord"
	remote "github.com/concordtx/concord/adapters/agent"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/concordotel"
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
	h.client = h.cluster.dial() // for one that has noticed nothing goes on by the old agent
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

// collector takes spans as a collector of OpenTelemetry does, and keeps them with the service that sent them.
func collector(t testing.TB) (url string, spans func() map[string][]*otlp.Span) {
	var mu sync.Mutex
	got := map[string][]*otlp.Span{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var m otlpcollector.ExportTraceServiceRequest
		if err = errors.Join(err, proto.Unmarshal(body, &m)); err != nil || r.URL.Path != "/v1/traces" {
			http.Error(w, fmt.Sprint(r.URL, err), http.StatusBadRequest)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		for _, of := range m.GetResourceSpans() {
			service := ""
			for _, a := range of.GetResource().GetAttributes() {
				service += "/" + a.GetValue().GetStringValue()
			}
			got[service] = append(got[service], of.GetScopeSpans()[0].GetSpans()...)
		}
	}))
	t.Cleanup(s.Close)
	return s.URL, func() map[string][]*otlp.Span {
		mu.Lock()
		defer mu.Unlock()
		all := map[string][]*otlp.Span{}
		for service, list := range got {
			all[service] = slices.Clone(list)
		}
		return all
	}
}

// Whoever is told where the collector is sends it what a transaction meets: the decision within the span of the
// transaction, what agents are asked within those of who asks, and what the cluster ends in the place of a client in a
// trace of its own, with a link. What people wrote is in none of them.
func TestNodesAndAgentsExportSpans(t *testing.T) {
	url, spans := collector(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
	m := newMixed(t, settings{nodes: 1, grace: 100 * time.Millisecond})
	d := drive(t, m.cluster)
	b := d.branch(m.agent, "ledger")
	b.do(d, "add ? ?", text("A"), &concordv1.Value{Kind: &concordv1.Value_Int{Int: 9}})
	d.vote()
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	_, err := m.cluster.caller().Commit(m.agent.within(),
		&concordv1.CommitRequest{Gid: d.id.String(), Cluster: m.cluster.id.String(), Traceparent: parent,
			Branches: []*concordv1.Branch{b.yes}})
	require.NoError(t, err)

	traces := tracetest.NewInMemoryExporter()
	c, err := concord.Dial(m.agent.within(), m.cluster.addrs(), concord.WithHook(concordotel.Hook(
		concordotel.WithTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSyncer(traces))))))
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close()) }()
	require.NoError(t, c.Run(m.agent.within(), func(ctx context.Context, tx *concord.Tx) error {
		return m.add(ctx, tx, 5)
	}))
	var transaction string
	for _, s := range traces.GetSpans() {
		if s.Name == "concord.transaction" {
			transaction = s.SpanContext.TraceID().String()
		}
	}
	// A program without an SDK sends its span with the request, to the node that drives its transaction.
	other := strings.Replace(parent, "0af7", "f00d", 1)
	m.cluster.switchedOn()
	run, err := http.NewRequestWithContext(m.agent.within(), http.MethodPost,
		"http://"+m.cluster.addrs()[0]+"/concord.v1.TransactionService/Run",
		strings.NewReader(`{"key": "k", "statements": [{"resource": "ledger", "statement": "add A 1"}]}`))
	require.NoError(t, err)
	run.Header.Set("Content-Type", "application/json")
	run.Header.Set("Traceparent", other)
	res, err := http.DefaultClient.Do(run)
	require.NoError(t, err)
	answer, err := io.ReadAll(res.Body)
	require.NoError(t, errors.Join(err, res.Body.Close()))
	require.Contains(t, string(answer), `"outcome":"committed"`)

	gid := recordedID()
	said := m.cluster.command("tx", "resolve", gid.String(), "--abort", "--reason", "canary of the reason", "--yes")
	require.Equal(t, 3, said.code, said.stderr)

	find := func(service, name, id string) (found *otlp.Span) {
		for _, s := range spans()[service] {
			if s.GetName() == name && strings.Contains(fmt.Sprint(s.GetAttributes()), id) {
				found = s
			}
		}
		return found
	}
	const node, agent, finish = "/concord/1", "/concord-agent/west", "concord.v1.ParticipantService/Finish"
	of := func(service, trace, name string) bool {
		return slices.ContainsFunc(spans()[service], func(s *otlp.Span) bool {
			return fmt.Sprintf("%x", s.GetTraceId()) == trace && strings.HasSuffix(s.GetName(), name)
		})
	}
	eventually(t, "all spans are there", func() bool {
		return find(node, "concord.decide", d.id.String()) != nil &&
			find(node, "concord.commit", d.id.String()) != nil &&
			find(agent, finish, d.id.String()) != nil && find(node, "concord.act", gid.String()) != nil &&
			of(agent, transaction, "/Prepare") && of(agent, other[3:35], "/Execute") &&
			of(agent, other[3:35], "/Prepare") && of(node, other[3:35], "concord.decide")
	})
	decide, commit := find(node, "concord.decide", d.id.String()), find(node, "concord.commit", d.id.String())
	require.Equal(t, parent[3:35], fmt.Sprintf("%x", decide.GetTraceId()))
	require.Equal(t, parent[36:52], fmt.Sprintf("%x", decide.GetParentSpanId()))
	require.NotEqual(t, decide.GetTraceId(), commit.GetTraceId())
	require.Equal(t, parent[3:35], fmt.Sprintf("%x", commit.GetLinks()[0].GetTraceId()))
	require.Equal(t, parent[36:52], fmt.Sprintf("%x", commit.GetLinks()[0].GetSpanId()))
	require.Equal(t, commit.GetSpanId(), find(agent, finish, d.id.String()).GetParentSpanId())
	require.Contains(t, fmt.Sprint(find(node, "concord.act", gid.String()).GetAttributes()), "not_found")
	require.NotContains(t, fmt.Sprint(spans()), "canary")
}
