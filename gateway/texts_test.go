// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/agent"
	"github.com/concordtx/concord/adapters/memory"
	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/internal/said"
	"github.com/concordtx/concord/txn"
)

// message is an error that whoever drives transactions by JSON can meet: how to get it, what it says,
// with GID for the transaction, and what it wraps.
type message struct {
	name string
	meet func(*testing.T, *Gateway) error
	says string
	is   error
}

// aSession is one that is idle after request 1.
func aSession() *session {
	idle := make(chan struct{})
	close(idle)
	return &session{id: txn.NewID(time.Now()), number: 1, running: idle}
}

// taking is what a session says of a request, after somebody has changed it.
func taking(number uint64, change func(*session)) func(*testing.T, *Gateway) error {
	return func(*testing.T, *Gateway) error {
		s := aSession()
		change(s)
		_, err := s.take(number, sum{1}, nil)
		return err
	}
}

// hosting is a gateway of node 1 whose only resources are these.
func hosting(resources ...adapters.Resource) *Gateway {
	return New(Config{Node: 1, Resources: resources, Address: func(node uint64) string {
		if node == 2 {
			return "10.0.0.2:7420"
		}
		return ""
	}})
}

// handedOn is what node 1 says of a request that node 2 answers like this.
func handedOn(there func(cancel func()) error) func(*testing.T, *Gateway) error {
	return func(t *testing.T, _ *Gateway) error {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		_, err := forward(ctx, &handlers{hosting()}, place{node: 2}, &concordv1.TransactionServiceExecuteRequest{},
			func(stub, context.Context, *concordv1.TransactionServiceExecuteRequest) (
				*concordv1.TransactionServiceExecuteResponse, error) {
				return nil, there(cancel)
			})
		return err
	}
}

var messages = []message{
	{name: "another request while one is under way", is: txn.ErrRefused,
		meet: taking(2, func(s *session) { s.running = make(chan struct{}) }),
		says: "request 1 of this transaction is still under way: wait for its answer before you send the next one"},
	{name: "a gap", is: txn.ErrRefused, meet: taking(3, func(*session) {}),
		says: "the next request of this transaction has number 2, not 3: number them from 1 without a gap"},
	{name: "a request while the transaction is ended", is: txn.ErrRefused,
		meet: taking(2, func(s *session) { s.ending = make(chan struct{}) }),
		says: "transaction GID is being ended: ask Commit or Rollback what became of it"},
	{name: "a request after the end", is: txn.ErrRefused,
		meet: taking(2, func(s *session) { s.over = &ended{outcome: outcomeCommitted} }),
		says: "transaction GID accepts no more requests: it is committed: begin a new one"},
	{name: "a caller who leaves", is: context.Canceled, meet: func(t *testing.T, _ *Gateway) error {
		s := aSession()
		asked := &concordv1.TransactionServiceExecuteRequest{}
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(asked)
		require.NoError(t, err)
		s.asked, s.running = sha256.Sum256(b), make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = s.do(ctx, 1, asked, nil)
		return err
	}, says: "request 1 of this transaction is under way: send it again to get its answer: context canceled"},
	{name: "a caller who leaves while the transaction is ended", is: context.Canceled,
		meet: func(t *testing.T, _ *Gateway) error {
			s := aSession()
			s.ending = make(chan struct{})
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			_, err := s.wait(ctx)
			return err
		}, says: "transaction GID is being ended: ask again to hear what became of it: context canceled"},
	{name: "a session that the node does not hold", is: txn.ErrNotFound, meet: func(t *testing.T, g *Gateway) error {
		id := txn.NewID(time.Now())
		g.sessions[id] = aSession()
		return (&handlers{g}).maySettle(id)
	}, says: "this node does not hold the transaction: it has restarted since, or the transaction ended long ago; " +
		"ask Commit or Rollback what became of it, and begin a new one"},

	{name: "a node with the address of another one", meet: func(t *testing.T, _ *Gateway) error {
		_, handler := hosting().Service().New()
		r := httptest.NewRequest(http.MethodPost, "/concord.v1.TransactionService/Execute", strings.NewReader(
			`{"session": "`+txn.NewID(time.Now()).WithClass(txn.Recorded).String()+`@2", "number": "1", "resource": `+
				`"ledger"}`))
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set(api.HandedOnHeader, "3")
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		var m struct{ Message string }
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &m))
		return errors.New(m.Message)
	}, says: `node 3 passes calls for node 2 on to node 1: give each node its own address in "members"`},
	{name: "a node that takes its time", is: context.Canceled,
		meet: handedOn(func(cancel func()) error { cancel(); return context.Canceled }),
		says: "node 2, which holds the transaction, is still working on it: send the request again: context canceled"},
	{name: "a node that does not answer", is: txn.ErrUnavailable,
		meet: handedOn(func(func()) error { return errors.New("connection refused") }),
		says: "node 2, which holds the transaction, did not answer at 10.0.0.2:7420 (connection refused): send the " +
			"request again; if it does not come back, Commit and Rollback say what became of the transaction"},
	{name: "a node that is no member", is: txn.ErrNotFound, meet: func(t *testing.T, _ *Gateway) error {
		_, err := forward[concordv1.TransactionServiceExecuteRequest, concordv1.TransactionServiceExecuteResponse](
			t.Context(), &handlers{hosting()}, place{node: 7}, nil, nil)
		return err
	}, says: "session: node 7, which held the transaction, is no longer a member of this cluster: begin a new one"},
	{name: "a node that shuts down", is: txn.ErrUnavailable, meet: func(_ *testing.T, g *Gateway) error {
		g.closing = true
		return g.room("")
	}, says: "this node is shutting down: ask another node"},

	{name: "a resource without an agent", is: txn.ErrRefused, meet: func(*testing.T, *Gateway) error {
		_, err := hosting(memory.New("plain", memory.NewDisk())).resource("plain")
		return err
	}, says: `resource: plain is a memory database that the nodes reach without an agent, and only agents hold ` +
		`sessions for others: run "concord agent" beside it, and give it driver: agent in the nodes' configuration`},
	{name: "no agents at all", is: txn.ErrNotFound, meet: func(_ *testing.T, g *Gateway) error {
		_, err := g.resource("nowhere")
		return err
	}, says: `resource: there is no "nowhere", and none at all that an agent holds: run "concord agent" beside a ` +
		`database, and add it to the nodes' configuration with driver: agent`},
	{name: "no such resource", is: txn.ErrNotFound, meet: func(t *testing.T, _ *Gateway) error {
		client, err := agent.Dial("127.0.0.1:1")
		require.NoError(t, err)
		ledger := agent.New("ledger", client)
		defer ledger.Close()
		_, err = hosting(ledger).resource("nowhere")
		return err
	}, says: `resource: there is no "nowhere", only ledger: correct the name, or add it to the nodes' ` +
		`configuration`},
	{name: "no such resource in a run", is: txn.ErrNotFound, meet: func(t *testing.T, g *Gateway) error {
		_, _, err := (&handlers{g}).parseRun(t.Context(), &concordv1.TransactionServiceRunRequest{Key: "k",
			Statements: []*concordv1.RunStatement{{Resource: "nowhere"}}})
		return err
	}, says: `statements[0].resource: there is no "nowhere", and none at all that an agent holds: run "concord ` +
		`agent" beside a database, and add it to the nodes' configuration with driver: agent`},
	{name: "too many transactions", is: txn.ErrBusy, meet: func(_ *testing.T, g *Gateway) error {
		g.open = maxOpen
		return g.room("ann")
	}, says: "1024 transactions are open at this node, which is the limit: end some, or begin it at another node"},
	{name: "too many transactions of one", is: txn.ErrBusy, meet: func(_ *testing.T, g *Gateway) error {
		g.openOf["ann"] = g.conf.MaxOpenOf
		return g.room("ann")
	}, says: `256 transactions of "ann" are open at this node, which is the limit: end some, or begin it at another ` +
		`node`},
	{name: "a key of another request", is: txn.ErrRefused, meet: func(_ *testing.T, g *Gateway) error {
		g.runs["k"] = &run{asked: sum{1}}
		_, err := g.share("", "k", sum{2}, nil)
		return err
	}, says: "the key belongs to another request: send that word for word, or use another key"},
	{name: "a result of a later version", meet: func(*testing.T, *Gateway) error {
		asked := sum{1}
		_, err := replay(asked, append(asked[:], 0xff))
		return err
	}, says: "what is kept with the key cannot be read: run the newest version of concord on all nodes: proto: " +
		"cannot parse invalid wire-format data"},
}

var anID = regexp.MustCompile(`\b[0-7][0-9A-HJKMNP-TV-Z]{25}\b`)

func TestWhatErrorsSay(t *testing.T) {
	for _, m := range messages {
		t.Run(m.name, func(t *testing.T) {
			err := m.meet(t, hosting())
			require.Error(t, err)
			says := strings.ReplaceAll(err.Error(), "\u00a0", " ") // as protobuf writes, at random
			require.Equal(t, m.says, anID.ReplaceAllString(says, "GID"))
			require.True(t, m.is == nil || errors.Is(err, m.is))
		})
	}
}

// Who writes another error finds out here that its text has to be looked at by everybody.
func TestEveryErrorHasARow(t *testing.T) {
	var rows []string
	for _, m := range messages {
		rows = append(rows, m.says)
	}
	said.Check(t, rows, withoutRow)
}

// withoutRow are the texts that no row of the table has.
var withoutRow = map[string]string{
	"%s; and what became of transaction %v could not be learned: ask again: %w": "wants a cluster that is lost " +
		"after the session was",
	"this node has not reached its cluster since it started: ask another node, or run \"concord status\"": "takes as " +
		"long as a call waits for that",
	"gateway: the answer to a %T is a %T": "cannot be met: a mistake in this package",
	"the transaction is under way: send the request again to get its answer: %w": "wants a caller who leaves while " +
		"an agent works",
	"statement %d: %w":                  "TestRunsThatFailLeaveNothing has it, with databases",
	"%s: %d rows, and %d were expected": "TestRunCommitsOnceForAKey has it, with databases",
	"request %d of this transaction has been followed by another one, so its answer is gone: wait for each answer " +
		"before the next request, or begin a new transaction": "wants a caller who sends " +
		"the next request before it has the answer, at one moment",
	"savepoint %s: %w": "names where another error comes from",
}
