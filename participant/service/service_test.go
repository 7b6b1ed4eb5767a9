// SPDX-License-Identifier: Apache-2.0

package service_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/concordtx/concord/adapters/pebble"
	"github.com/concordtx/concord/participant"
	"github.com/concordtx/concord/participant/service"
	"github.com/concordtx/concord/participant/statement"
	"github.com/concordtx/concord/txn"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// coordinators is a cluster that says what a test wants.
type coordinators struct {
	mu       sync.Mutex
	id       txn.ClusterID // 0: not reached
	decision map[txn.ID]txn.Decision
	settled  []txn.ID
	finished map[txn.XID]txn.Finish
}

func (c *coordinators) Identify(context.Context) (txn.ClusterID, time.Duration, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.id == 0 {
		return 0, 0, errors.New("nobody answers")
	}
	return c.id, time.Minute, nil
}

func (c *coordinators) Decision(_ context.Context, _ txn.ClusterID, id txn.ID, settle bool) (txn.Decision, []txn.Branch,
	error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if settle && c.decision[id] == txn.Undecided {
		c.decision[id] = txn.Abort
		c.settled = append(c.settled, id)
	}
	return c.decision[id], nil, nil
}

func (c *coordinators) Finished(_ context.Context, x txn.XID, f txn.Finish) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.finished[x] = f
	return nil
}

// served is an agent with a store, behind HTTP.
type served struct {
	testing.TB
	cluster *coordinators
	agent   *participant.Agent
	http    *httptest.Server
	journal string
	stop    func() error // ends the agent; more than once
}

func serve(t *testing.T, rules participant.Rules, cluster txn.ClusterID) *served {
	t.Helper()
	return serveWith(t, rules, cluster, slog.New(slog.DiscardHandler))
}

func serveWith(t *testing.T, rules participant.Rules, cluster txn.ClusterID, log *slog.Logger) *served {
	t.Helper()
	return serveOn(t, rules, cluster, log, func(ledger statement.Database) statement.Database { return ledger })
}

// serveOn is serve with something in front of the store.
func serveOn(t *testing.T, rules participant.Rules, cluster txn.ClusterID, log *slog.Logger,
	front func(statement.Database) statement.Database) *served {
	t.Helper()
	store, err := pebble.Open("ledger", filepath.Join(t.TempDir(), "ledger"))
	require.NoError(t, err)
	s := &served{TB: t, cluster: &coordinators{id: cluster, decision: map[txn.ID]txn.Decision{},
		finished: map[txn.XID]txn.Finish{}}}
	s.agent, err = participant.Open(participant.Config{Name: "east", DataDir: filepath.Join(t.TempDir(), "data"),
		Databases: []statement.Database{front(statement.Pebble(store))}, Cluster: s.cluster, Rules: rules,
		Scan: 20 * time.Millisecond, Logger: log})
	require.NoError(t, err)
	s.journal = s.agent.Life().Journal.String()
	s.http = httptest.NewServer(service.Handler(s.agent, nil, log))
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.agent.Run(ctx) }()
	s.stop = sync.OnceValue(func() error { stop(); return <-ended })
	t.Cleanup(func() {
		require.NoError(t, s.stop())
		s.http.Close()
		require.NoError(t, store.Close())
	})
	if cluster != 0 {
		require.Eventually(t, func() bool {
			code, _ := s.get("/readyz")
			return code == http.StatusOK
		}, 10*time.Second, 5*time.Millisecond)
	}
	return s
}

func (s *served) get(path string) (int, string) {
	s.Helper()
	r, err := s.http.Client().Get(s.http.URL + path)
	require.NoError(s, err)
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	require.NoError(s, err)
	return r.StatusCode, string(b)
}

// post sends what curl would send.
func (s *served) post(method, body string) map[string]any {
	s.Helper()
	r, err := s.http.Client().Post(s.http.URL+"/concord.v1.ParticipantService/"+method, "application/json",
		bytes.NewBufferString(body))
	require.NoError(s, err)
	defer r.Body.Close()
	var m map[string]any
	require.NoError(s, json.NewDecoder(r.Body).Decode(&m), "%s %s", method, body)
	return m
}

func newID() txn.ID { return txn.NewID(time.Now()).WithClass(txn.Recorded) }

// address is the JSON of a branch; changes are pairs of texts in it.
func (s *served) address(id txn.ID, changes ...string) string {
	text := fmt.Sprintf(`{"cluster": "00000007", "gid": "%s", "no": 0, "resource": "ledger", "journal": "%s", `+
		`"epoch": 1}`, id, s.journal)
	return strings.NewReplacer(changes...).Replace(text)
}

func TestJSONOfATransaction(t *testing.T) {
	s := serve(t, participant.Rules{}, 7)
	who := s.post("Describe", "{}")
	require.Equal(t, "east", who["name"])
	require.Equal(t, "00000007", who["cluster"])
	require.EqualValues(t, 1, who["epoch"])
	id := newID()
	at := s.address(id)
	r := s.post("Execute", `{"branch": `+at+
		`, "number": 1, "statement": "add alice ?", "arguments": [{"int": "9007199254740993"}]}`)
	require.Equal(t, []any{map[string]any{"values": []any{map[string]any{"int": "9007199254740993"}}}}, r["rows"])
	again := s.post("Execute", `{"branch": `+at+
		`, "number": 1, "statement": "add alice ?", "arguments": [{"int": "9007199254740993"}]}`)
	require.Equal(t, r, again, "the same number gets the same answer")
	r = s.post("Savepoint", `{"branch": `+at+`, "number": 2, "name": "a"}`)
	require.Equal(t, "2", r["number"])
	s.post("Execute", `{"branch": `+at+`, "number": 3, "statement": "set blob ?", "arguments": [{"bytes": "AP8="}]}`)
	r = s.post("Execute", `{"branch": `+at+`, "number": 4, "statement": "get blob"}`)
	require.Equal(t, []any{map[string]any{"values": []any{map[string]any{"bytes": "AP8="}}}}, r["rows"])
	r = s.post("RollbackTo", `{"branch": `+at+`, "number": 5, "name": "a"}`)
	require.Nil(t, r["error"])
	prepare := fmt.Sprintf(`{"branch": %s, "number": 5, "digest": "%s"}`, at, r["digest"])
	vote := s.post("Prepare", prepare)
	require.Equal(t, "yes", vote["vote"])
	require.Equal(t, vote, s.post("Prepare", prepare), "the same vote again")
	record, err := json.Marshal(vote["branch"])
	require.NoError(t, err)
	require.Equal(t, "done", s.post("Finish",
		`{"branch": `+at+`, "decision": "commit", "record": `+string(record)+`}`)["finish"])
	list := s.post("ListBranches", `{"gid": "`+id.String()+`"}`)["branches"].([]any)
	require.Len(t, list, 1)
	require.Equal(t, "ended", list[0].(map[string]any)["phase"])

	id = newID()
	at = s.address(id)
	r = s.post("Execute", `{"branch": `+at+`, "number": 1, "statement": "get blob"}`)
	require.Nil(t, r["rows"])
	require.Equal(t, "read-only", s.post("Prepare",
		fmt.Sprintf(`{"branch": %s, "number": 1, "digest": "%s"}`, at, r["digest"]))["vote"])
}

// What is wrong with a request is said in words that end with a next step, and changes nothing.
func TestBadRequests(t *testing.T) {
	s := serve(t, participant.Rules{MaxOpen: 2}, 7)
	taken, full := newID(), newID()
	for _, id := range []txn.ID{taken, full} {
		require.Nil(t, s.post("Execute",
			`{"branch": `+s.address(id)+`, "number": 1, "statement": "get `+id.String()+`"}`)["error"])
	}
	other := strings.Repeat("0", 32)
	execute := func(at string, rest string) string { return `{"branch": ` + at + rest + `}` }
	one := `, "number": 1, "statement": "get bob"`
	for _, c := range []struct{ name, method, body, code, says string }{
		{"no branch", "Execute", `{"number": 1}`, "invalid_argument",
			"branch: is missing: say which branch of which transaction is meant"},
		{"another cluster", "Execute", execute(s.address(newID(), "00000007", "00000008"), one), "invalid_argument",
			"the transaction belongs to cluster 00000008, but this agent belongs to cluster 00000007: send it to an " +
				"agent of its own cluster"},
		{"a resource of somebody else", "Execute", execute(s.address(newID(), "ledger", "orders"), one), "not_found",
			`this agent hosts no resource "orders": it has ["ledger"]; ask the agent that hosts it`},
		{"another journal", "Execute", execute(s.address(newID(), s.journal, other), one), "failed_precondition",
			"the request is for journal " + other +
				", but this agent has JOURNAL: it is a different agent, or it has lost its journal; roll the " +
				"transaction back and begin a new one"},
		{"another epoch", "Execute", execute(s.address(newID(), `"epoch": 1`, `"epoch": 9`), one),
			"failed_precondition",
			"this agent has restarted since: its epoch is 1, the request is for 9, and what was open then is " +
				"rolled back; roll the transaction back and begin a new one"},
		{"no epoch", "Execute", execute(s.address(newID(), `, "epoch": 1`, ``), one), "invalid_argument",
			"branch.epoch: is 0, want what Describe returns"},
		{"no journal", "Execute", execute(s.address(newID(), `"journal": "`+s.journal+`", `, ``), one),
			"invalid_argument", "branch.journal: is empty, want what Describe returns"},
		{"a journal that is none", "Execute", execute(s.address(newID(), s.journal, "x"), one), "invalid_argument",
			`branch.journal: "x" is not a journal id, want the 32 hex characters that Describe returns`},
		{"no resource", "Execute", execute(s.address(newID(), "ledger", ""), one), "invalid_argument",
			"branch.resource: is empty, want the name of a resource that the agent hosts"},
		{"a last resource", "Execute", execute(s.address(newID().WithClass(txn.LastResource)), one), "invalid_argument",
			"the transaction is of class last_resource, whose branches this agent cannot hold: begin it as " +
				"two_phase or three_phase"},
		{"number 0", "Execute", execute(s.address(newID()), `, "statement": "get bob"`), "invalid_argument",
			"number: is 0: the requests of a branch are numbered from 1"},
		{"not the first", "Execute", execute(s.address(newID()), `, "number": 2, "statement": "get bob"`),
			"failed_precondition",
			"request 2 is for a branch that is not open here: roll the transaction back and begin a new one"},
		{"too many open", "Execute", execute(s.address(newID()), one), "resource_exhausted",
			"2 branches are open at this agent, which is the limit: end some, or raise max_open in its configuration"},
		{"a gap", "Execute", execute(s.address(taken), `, "number": 3, "statement": "get bob"`), "failed_precondition",
			"the next request of this branch has number 2, not 3: number them from 1 without a gap"},
		{"another request of that number", "Execute", execute(s.address(taken), one), "invalid_argument",
			"request 1 of this branch was a different one: a repeated request must be identical"},
		{"a value of no kind", "Execute",
			execute(s.address(taken), `, "number": 2, "statement": "set a ?", "arguments": [{"decimal": "1,5"}]`),
			"invalid_argument",
			`arguments[0]: "1,5" is not a valid decimal: want digits such as -12.50`},
		{"a time that takes too long", "Execute", execute(s.address(taken), `, "number": 2, "timeout_ms": 400000`),
			"invalid_argument", "timeout_ms: is 400000, want 0 to 300000"},
		{"a digest that is none", "Prepare", execute(s.address(taken), `, "number": 1, "digest": "AAAA"`),
			"invalid_argument", "digest: has 3 bytes, want the 32 of the last answer"},
		{"votes for too long", "Prepare", execute(s.address(taken), `, "number": 1, "decide_by_ms": 60000`),
			"invalid_argument", "decide_by_ms: is 60000, want 0 to 10000"},
		{"no decision", "Finish", execute(s.address(taken), `, "decision": "maybe"`), "invalid_argument",
			`decision: is "maybe", want commit, abort`},
		{"the record of another branch", "Finish",
			execute(s.address(taken), `, "decision": "abort", "record": {"no": 1, "resource": "ledger"}`),
			"invalid_argument",
			`record: is of branch 1 in "ledger", but the request is about branch 0 in "ledger": send the record of ` +
				`that branch`},
		{"a record that is made up", "Finish",
			execute(s.address(taken), `, "decision": "abort", "record": {"no": 0, "resource": "ledger", `+
				`"evidence": "x"}`), "invalid_argument",
			"record: the evidence or the holder is not that of a Pebble store: run the newest version of concord " +
				"on all nodes"},
		{"too long a list", "ListBranches", `{"limit": 20000}`, "invalid_argument",
			"limit: is 20000, at most 10000 are allowed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := s.post(c.method, c.body)
			text, _ := r["message"].(string)
			require.Equal(t, c.says, strings.ReplaceAll(text, s.journal, "JOURNAL"), "%v", r)
			require.Equal(t, c.code, r["code"])
		})
	}
	for _, rest := range []string{`, "number": 2, "statement": "set a ?", "arguments": [{"money": "1"}]`,
		`, "number": 2, "statement": "get bob", "maxRow": 1`} {
		r := s.post("Execute", execute(s.address(taken), rest))
		require.Equal(t, "invalid_argument", r["code"], "a field that nobody knows: %v", r)
		require.Contains(t, r["message"], "unknown field")
	}
	// What the database is not sent is an answer: the branch goes on.
	r := s.post("Execute", execute(s.address(taken), `, "number": 2, "statement": "commit"`))
	require.Contains(t, r["error"], `"commit" is not a command of this store: it was not carried out`)
	require.Equal(t, true, r["notSent"])
	r = s.post("Execute", execute(s.address(taken), `, "number": 3, "statement": "add bob 1"`))
	require.Nil(t, r["error"])
	require.Nil(t, r["notSent"])
	// And nothing of all this has ended it, or was prepared.
	require.Equal(t, "yes", s.post("Prepare",
		execute(s.address(taken), fmt.Sprintf(`, "number": 3, "digest": "%s"`, r["digest"])))["vote"])
	require.Equal(t, "done", s.post("Finish", execute(s.address(taken), `, "decision": "abort"`))["finish"])
	require.Nil(t, s.post("ListBranches", `{"fresh": true, "gid": "`+newID().String()+`"}`)["branches"])
}

func TestRequestsThatAreTooLarge(t *testing.T) {
	s := serve(t, participant.Rules{}, 7)
	r := s.post("Execute", `{"branch": `+s.address(newID())+`, "number": 1, "statement": "`+strings.Repeat("x", 2<<20)+
		`"}`)
	require.Equal(t, "resource_exhausted", r["code"])
}

func TestAnAgentWithoutItsClusterIsNotReady(t *testing.T) {
	s := serve(t, participant.Rules{}, 0)
	code, text := s.get("/readyz")
	require.Equal(t, http.StatusServiceUnavailable, code)
	require.Equal(t, "the agent has not reached its cluster yet\n", text)
	code, _ = s.get("/livez")
	require.Equal(t, http.StatusOK, code)
	r := s.post("Execute", `{"branch": `+s.address(newID())+`, "number": 1, "statement": "get a"}`)
	require.Equal(t, "unavailable", r["code"])
	require.Contains(t, r["message"], "start the coordinator nodes")
}

// Two requests of one session at once: the second is refused, and the repetition of the first waits
// for its answer. The first waits for a lock that another branch has.
func TestOneRequestAtATime(t *testing.T) {
	s := serve(t, participant.Rules{}, 7)
	holder, waiter := newID(), newID()
	s.post("Execute", `{"branch": `+s.address(holder)+`, "number": 1, "statement": "add key 1"}`)
	first := `{"branch": ` + s.address(waiter) + `, "number": 1, "statement": "add key 1"}`
	answers := make(chan map[string]any, 2)
	ask := func() {
		r, err := http.Post(s.http.URL+"/concord.v1.ParticipantService/Execute", "application/json",
			strings.NewReader(first))
		var m map[string]any
		if err == nil {
			err = errors.Join(json.NewDecoder(r.Body).Decode(&m), r.Body.Close())
		}
		if err != nil {
			m = map[string]any{"error": err.Error()}
		}
		answers <- m
	}
	go ask()
	var refused map[string]any
	require.Eventually(t, func() bool {
		refused = s.post("Execute", `{"branch": `+s.address(waiter)+`, "number": 2, "statement": "add key 1"}`)
		return strings.Contains(fmt.Sprint(refused["message"]), "still running")
	}, 10*time.Second, time.Millisecond)
	require.Equal(t, "request 1 of this branch is still running: wait for its answer before you send the next one",
		refused["message"])
	require.Equal(t, "failed_precondition", refused["code"])
	go ask()
	r := s.post("Prepare", `{"branch": `+s.address(waiter)+`, "number": 1}`)
	require.Equal(t, "request 1 of this branch is still running: wait for its answer before you ask for the vote",
		r["message"])
	require.Equal(t, "done", s.post("Finish", `{"branch": `+s.address(holder)+`, "decision": "abort"}`)["finish"])
	a, b := <-answers, <-answers
	require.Equal(t, a, b)
	require.Nil(t, a["error"], "%v", a)
	require.Equal(t, []any{map[string]any{"values": []any{map[string]any{"int": "1"}}}}, a["rows"])
}

// Nobody says what became of a prepared branch: the agent asks, and only when votes are collected no
// more it asks in a way that settles it.
func TestInDoubtBranchesAreAskedFor(t *testing.T) {
	s := serve(t, participant.Rules{InquireAfter: 10 * time.Millisecond, InquireMost: 20 * time.Millisecond}, 7)
	told, settled := newID(), newID()
	for _, id := range []txn.ID{told, settled} {
		r := s.post("Execute", `{"branch": `+s.address(id)+`, "number": 1, "statement": "set `+id.String()+` x"}`)
		require.Equal(t, "yes", s.post("Prepare",
			fmt.Sprintf(`{"branch": %s, "number": 1, "digest": "%s", "decide_by_ms": 300}`, s.address(id),
				r["digest"]))["vote"])
	}
	s.cluster.mu.Lock()
	s.cluster.decision[told] = txn.Commit
	s.cluster.mu.Unlock()
	reported := func(id txn.ID) txn.Finish {
		s.cluster.mu.Lock()
		defer s.cluster.mu.Unlock()
		return s.cluster.finished[txn.XID{Cluster: 7, ID: id}]
	}
	require.Eventually(t, func() bool { return reported(told) == txn.Done && reported(settled) == txn.Done },
		10*time.Second, 5*time.Millisecond)
	s.cluster.mu.Lock()
	defer s.cluster.mu.Unlock()
	require.Equal(t, []txn.ID{settled}, s.cluster.settled)
}

// Whoever reads the log of an agent learns no statement of an application, and no argument at any level.
func TestTheLogHasNoStatements(t *testing.T) {
	const statement, argument = "canary-of-a-statement", "canary-of-an-argument"
	text := base64.StdEncoding.EncodeToString([]byte(argument))
	var said lines
	s := serveWith(t, participant.Rules{}, 7, slog.New(slog.NewJSONHandler(&said,
		&slog.HandlerOptions{Level: slog.LevelDebug})))
	for _, body := range []string{
		`"statement": "set ` + statement + ` ?", "arguments": [{"bytes": "` + text + `"}]`,
		`"statement": "set ` + statement + ` ? ?", "arguments": [{"bytes": "` + text + `"}]`,
		`"statement": "` + statement + ` ?", "arguments": [{"bytes": "` + text + `"}]`,
		`"statement": "add ` + statement + ` ?", "arguments": [{"text": "` + argument + `"}]`,
		`"statement": "set ` + statement + ` ?", "arguments": [{"strange": "` + argument + `"}]`,
	} {
		id := newID()
		at := s.address(id)
		r := s.post("Execute", `{"branch": `+at+`, "number": 1, `+body+`}`)
		digest, _ := r["digest"].(string)
		vote := s.post("Prepare", fmt.Sprintf(`{"branch": %s, "number": 1, "digest": "%s"}`, at, digest))
		record, err := json.Marshal(vote["branch"])
		require.NoError(t, err)
		s.post("Finish", `{"branch": `+at+`, "decision": "commit", "record": `+string(record)+`}`)
	}
	all := said.text()
	require.Contains(t, all, `"method":"Execute"`, "calls are logged")
	require.NotContains(t, all, argument)
	require.NotContains(t, all, text)
	for line := range strings.Lines(all) {
		if !strings.Contains(line, `"level":"DEBUG"`) {
			require.NotContains(t, line, statement)
		}
	}
}

// lines are what a log has written.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements io.Writer.
func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lines) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// hanging is a database whose votes do not come back by themselves.
type hanging struct {
	statement.Database
	voting, rolledBack chan struct{}
}

func (d hanging) Begin(ctx context.Context, x txn.XID) (statement.Session, error) {
	s, err := d.Database.Begin(ctx, x)
	return hangingSession{s, d}, err
}

type hangingSession struct {
	statement.Session
	of hanging
}

func (s hangingSession) Prepare(ctx context.Context) (txn.Vote, txn.Branch, error) {
	close(s.of.voting)
	<-ctx.Done()
	return txn.VoteNo, txn.Branch{}, ctx.Err()
}

func (s hangingSession) Rollback(ctx context.Context) error {
	defer close(s.of.rolledBack)
	return s.Session.Rollback(ctx)
}

// A session that is not let go of keeps its connection, and the pool of a database waits for that when it is closed.
func TestAnAgentThatEndsLetsGoOfASessionWhoseVoteHangs(t *testing.T) {
	t.Parallel()
	d := hanging{voting: make(chan struct{}), rolledBack: make(chan struct{})}
	s := serveOn(t, participant.Rules{}, 7, slog.New(slog.DiscardHandler),
		func(ledger statement.Database) statement.Database {
			d.Database = ledger
			return d
		})
	at := s.address(newID())
	r := s.post("Execute", `{"branch": `+at+`, "number": 1, "statement": "add alice 1"}`)
	prepare := fmt.Sprintf(`{"branch": %s, "number": 1, "digest": "%s"}`, at, r["digest"])
	go func() {
		r, err := s.http.Client().Post(s.http.URL+"/concord.v1.ParticipantService/Prepare", "application/json",
			strings.NewReader(prepare))
		if err == nil {
			_ = r.Body.Close() // nobody waits for the vote
		}
	}()
	<-d.voting
	require.NoError(t, s.stop())
	select {
	case <-d.rolledBack:
	default:
		t.Fatal("the session is still there")
	}
}
