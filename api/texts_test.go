// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/api/concord/v1/concordv1connect"
	"github.com/concordtx/concord/internal/said"
	"github.com/concordtx/concord/txn"
)

const wantID = `: not a transaction id: want 26 characters of Crockford base 32, of which the last is 0, R, T or M, ` +
	`as printed by "concord tx ls"`

// commit is what a request says of which something is wrong.
func commit(spoil func(*concordv1.CommitRequest)) error {
	r := api.CommitRequest(txn.CommitRequest{ID: txn.NewID(time.Now()), Cluster: 1,
		Branches: []txn.Branch{{Resource: "orders"}, {No: 1, Resource: "billing"}}})
	spoil(r)
	_, err := api.ParseCommit(r)
	return err
}

const threeID = "01KB6V3F7F000000000000000T"

// three is a request for three phases of which something is wrong.
func three(spoil func(*concordv1.CommitRequest)) error {
	r := &concordv1.CommitRequest{Gid: threeID, Cluster: "00000001", Protocol: "three_phase",
		Agents: []*concordv1.AgentBranches{agentBranches("ann", 0)}}
	spoil(r)
	_, err := api.ParseCommit(r)
	return err
}

func agentBranches(name string, no uint32) *concordv1.AgentBranches {
	return &concordv1.AgentBranches{Agent: &concordv1.Party{Agent: name, Journal: journal, Addr: "a:1"}, Epoch: 1,
		Branches: []*concordv1.ClaimedBranch{
			{No: no, Resource: fmt.Sprintf("r%d", no), Number: 1, Digest: make([]byte, 32)}}}
}

func finished(spoil func(*concordv1.FinishedBranch)) error {
	r := api.FinishedRequest([]api.Finished{{ID: txn.NewID(time.Now()), Finish: txn.Done}})
	spoil(r.Branches[0])
	_, err := api.ParseFinished(r)
	return err
}

func second[T any](_ T, err error) error { return err }

const journal = "0102030405060708090a0b0c0d0e0f10"

func members(list ...*concordv1.Party) error { return second(api.ParseParties("members", list)) }

// received is an error as a client has it, that a node answered.
func received(err error) error { return api.FromStatus(api.ToStatus(err)) }

// messages are all texts that this package writes about a request, and about who does not lead.
var messages = []struct {
	name string
	meet func() error
	says string
	is   error
}{
	{"a cluster with a journal", func() error {
		return second(api.ParseParty("from",
			&concordv1.Party{Journal: journal}))
	},
		"from.agent: is empty, but the journal or the address is not: the cluster has neither", txn.ErrInvalid},
	{"no such journal", func() error {
		return second(api.ParseParty("from",
			&concordv1.Party{Agent: "ann", Journal: "12"}))
	},
		`from.journal: "12" is not a journal id, want the 32 hex characters that Describe returns`, txn.ErrInvalid},
	{"no address of an agent", func() error {
		return second(api.ParseParty("from", &concordv1.Party{Agent: "ann", Journal: journal, Addr: "ann"}))
	}, `from.addr: "ann" is not host:port`, txn.ErrInvalid},
	{"no members", func() error { return members() }, "members: are 0, want the cluster and at most 64 agents",
		txn.ErrInvalid},
	{"members without the cluster", func() error {
		return members(&concordv1.Party{Agent: "ann", Journal: journal,
			Addr: "a:1"})
	},
		"members[0]: the cluster comes first, and once", txn.ErrInvalid},
	{"a member at no address", func() error {
		return members(&concordv1.Party{},
			&concordv1.Party{Agent: "ann", Journal: journal})
	},
		"members[1].addr: is empty, want the address of the agent", txn.ErrInvalid},
	{"a member twice", func() error {
		ann := &concordv1.Party{Agent: "ann", Journal: journal, Addr: "a:1"}
		return members(&concordv1.Party{}, ann, ann)
	}, `members[2].agent: "ann" is out of order, or listed twice`, txn.ErrInvalid},
	{"a claim without digest", func() error {
		return second(api.ParseClaim("claims",
			&concordv1.BranchClaim{Number: 1}))
	},
		"claims.digest: has 0 bytes, want the 32 of the last answer", txn.ErrInvalid},
	{"a claim of no work", func() error {
		return second(api.ParseClaim("claims", &concordv1.BranchClaim{Digest: make([]byte, 32)}))
	}, "claims.number: is 0: a branch without work is not opened", txn.ErrInvalid},
	{"no gid", func() error { return commit(func(r *concordv1.CommitRequest) { r.Gid = "" }) },
		"gid: is empty, want a transaction id of 26 characters", txn.ErrInvalid},
	{"no such gid", func() error { return commit(func(r *concordv1.CommitRequest) { r.Gid = "0001" }) },
		`gid: "0001"` + wantID, txn.ErrInvalid},
	{"a gid of zeros", func() error { return commit(func(r *concordv1.CommitRequest) { r.Gid = txn.ID{}.String() }) },
		"gid: is zero, which names no transaction", txn.ErrInvalid},
	{"no such cluster", func() error { return commit(func(r *concordv1.CommitRequest) { r.Cluster = "C0FFEE00" }) },
		`cluster: "C0FFEE00" is not a cluster id, want 8 hex characters as in "concord status"`, txn.ErrInvalid},
	{"a cluster of zeros", func() error { return commit(func(r *concordv1.CommitRequest) { r.Cluster = "00000000" }) },
		"cluster: is zero: the cluster has not been formed yet", txn.ErrInvalid},
	{"no such protocol", func() error { return commit(func(r *concordv1.CommitRequest) { r.Protocol = "paxos" }) },
		`protocol: "paxos" is not a protocol that this version knows, want two_phase or three_phase`, txn.ErrInvalid},
	{"three phases without a gid for it", func() error {
		return commit(func(r *concordv1.CommitRequest) { r.Gid, r.Protocol = threeID[:25]+"0", "three_phase" })
	}, "gid: " + threeID[:25] + "0 is of the class plain: the gid of a three_phase transaction ends with T",
		txn.ErrInvalid},
	{"a gid of three phases in two", func() error {
		return three(
			func(r *concordv1.CommitRequest) { r.Protocol = "two_phase" })
	},
		"protocol: is two_phase, and " + threeID + " is of the class three_phase, which cannot be decided in any " +
			"other way",
		txn.ErrInvalid},
	{"three phases with branches", func() error {
		return three(func(r *concordv1.CommitRequest) { r.Branches = []*concordv1.Branch{{Resource: "orders"}} })
	}, "branches: are 1: in three phases agents hold all branches, and are asked for their votes", txn.ErrInvalid},
	{"two phases with agents", func() error {
		return commit(func(r *concordv1.CommitRequest) {
			r.Agents = []*concordv1.AgentBranches{agentBranches("ann",
				0)}
		})
	}, "agents: are 1, but in two phases whoever asks has the votes already", txn.ErrInvalid},
	{"too many agents", func() error {
		return three(func(r *concordv1.CommitRequest) { r.Agents = make([]*concordv1.AgentBranches, 65) })
	}, "agents: are 65, at most 64 are allowed", txn.ErrInvalid},
	{"an agent that is nowhere", func() error {
		return three(
			func(r *concordv1.CommitRequest) { r.Agents[0].Agent.Addr = "" })
	},
		"agents[0].agent: has no name or no address, want the name and the address of the agent that holds the " +
			"branches",
		txn.ErrInvalid},
	{"an agent twice", func() error {
		return three(func(r *concordv1.CommitRequest) { r.Agents = append(r.Agents, agentBranches("ann", 7)) })
	}, `agents[1].agent: "ann" is listed twice: name all its branches together`, txn.ErrInvalid},
	{"an agent of nothing", func() error {
		return three(
			func(r *concordv1.CommitRequest) { r.Agents[0].Branches = nil })
	},
		"agents[0].branches: are missing: an agent without a branch of the transaction has nothing to vote on",
		txn.ErrInvalid},
	{"too many branches", func() error {
		return commit(func(r *concordv1.CommitRequest) { r.Branches = make([]*concordv1.Branch, 257) })
	}, "branches: holds 257 branches, at most 256 are allowed", txn.ErrInvalid},
	{"no such number", func() error { return commit(func(r *concordv1.CommitRequest) { r.Branches[1].No = 256 }) },
		"branches[1].no: is 256, want 0 to 255", txn.ErrInvalid},
	{"a number twice", func() error { return commit(func(r *concordv1.CommitRequest) { r.Branches[1].No = 0 }) },
		"branches[1].no: branch 0 is listed twice", txn.ErrInvalid},
	{"a resource twice", func() error {
		return commit(
			func(r *concordv1.CommitRequest) { r.Branches[1].Resource = "orders" })
	},
		`branches[1].resource: "orders" is listed twice: a transaction has one branch per resource`, txn.ErrInvalid},
	{"no resource", func() error { return commit(func(r *concordv1.CommitRequest) { r.Branches[0].Resource = "" }) },
		"branches[0].resource: is empty, want the name of a resource", txn.ErrInvalid},
	{"a long name", func() error {
		return commit(func(r *concordv1.CommitRequest) { r.Branches[0].Resource = strings.Repeat("x", 65) })
	}, "branches[0].resource: has 65 bytes, at most 64 are allowed", txn.ErrInvalid},
	{"a long evidence", func() error {
		return commit(func(r *concordv1.CommitRequest) { r.Branches[0].Evidence = strings.Repeat("x", 1025) })
	}, "branches[0].evidence: has 1025 bytes, at most 1024 are allowed", txn.ErrInvalid},
	{"an escape", func() error {
		return commit(
			func(r *concordv1.CommitRequest) { r.Branches[0].Holder = "a\x1b[2J" })
	},
		"branches[0].holder: contains a control or invisible character at byte 1: leave it out", txn.ErrInvalid},
	{"a key that is none", func() error { return api.ParseKey("key", "") },
		"key: is empty, want an idempotency key, such as the number of an order", txn.ErrInvalid},
	{"a long key", func() error {
		return commit(func(r *concordv1.CommitRequest) {
			r.Gid, r.Key = txn.NewID(time.Now()).WithClass(txn.Recorded).String(), strings.Repeat("k", 129)
		})
	}, "key: has 129 bytes, at most 128 are allowed", txn.ErrInvalid},
	{"a key of a plain gid", func() error { return commit(func(r *concordv1.CommitRequest) { r.Key = "k" }) },
		"key: is only for transactions that the cluster alone decides, in every case: mint a gid of class " +
			"R", txn.ErrInvalid},
	{"a result without a key", func() error {
		return commit(func(r *concordv1.CommitRequest) { r.Result = []byte("x") })
	},
		"result: is not empty, but key is: a result is kept only with a key", txn.ErrInvalid},
	{"a long result", func() error {
		return commit(func(r *concordv1.CommitRequest) { r.Key, r.Result = "k", make([]byte, 4097) })
	}, "result: has 4097 bytes, at most 4096 are allowed", txn.ErrInvalid},
	{"bytes", func() error { return commit(func(r *concordv1.CommitRequest) { r.Label = "\xff" }) },
		"label: is not valid UTF-8", txn.ErrInvalid},
	{"too much finished", func() error {
		return second(api.ParseFinished(&concordv1.FinishedRequest{Branches: make([]*concordv1.FinishedBranch, 4097)}))
	}, "branches: holds 4097 branches, at most 4096 are allowed", txn.ErrInvalid},
	{"too much decided", func() error {
		return second(api.ParseDecided(&concordv1.FinishedRequest{Decided: make([]*concordv1.LastDecision, 1025)}))
	}, "decided: holds 1025 transactions, at most 1024 are allowed", txn.ErrInvalid},
	{"decided elsewhere", func() error {
		return second(api.ParseDecided(&concordv1.FinishedRequest{Decided: []*concordv1.LastDecision{{
			Gid: "01ARZ3NDEKTSV4RRFFQ69G5FA0", LastResource: "orders"}}}))
	}, `decided[0].last_resource: "orders" is not that of 01ARZ3NDEKTSV4RRFFQ69G5FA0, as its gid says: name the ` +
		`resource that it was begun with`, txn.ErrInvalid},
	{"finished nowhere", func() error { return finished(func(b *concordv1.FinishedBranch) { b.No = 1000 }) },
		"branches[0].no: is 1000, want 0 to 255", txn.ErrInvalid},
	{"finished nothing", func() error { return finished(func(b *concordv1.FinishedBranch) { b.Gid = "x" }) },
		`branches[0].gid: "x"` + wantID, txn.ErrInvalid},
	{"finished otherwise", func() error { return finished(func(b *concordv1.FinishedBranch) { b.Finish = "gone" }) },
		`branches[0].finish: is "gone", want done, already-done, contradicted, lost`, txn.ErrInvalid},
	{"no such decision", func() error { return second(api.ParseDecision("decision", "maybe")) },
		`decision: is "maybe", want commit, abort`, txn.ErrInvalid},
	{"no such outcome", func() error { return second(api.ParseOutcome("outcome", "maybe")) },
		`outcome: is "maybe", want unknown, committed, aborted, unrecorded, pending, heuristic-mixed, heuristic-hazard`,
		txn.ErrInvalid},
	{"no such zxid", func() error { return second(api.ParseZxid("seen", "3,1")) },
		`seen: "3,1" is not a zxid, want epoch.counter as in an answer`, txn.ErrInvalid},

	{"header that is too long to be sent", func() error {
		_, err := api.Text(&concordv1.Participation{Failed: strings.Repeat("x", api.MaxPropagated)})
		return err
	}, fmt.Sprintf("header: has %d bytes, at most 65536 are sent", api.MaxPropagated+len(`{"failed":""}`)),
		txn.ErrInvalid},
	{"header that is too long to be read", func() error {
		return second(api.ParsePropagation(strings.Repeat("x", api.MaxPropagated+1)))
	}, "concord-transaction: has 65537 bytes, at most 65536 are read", txn.ErrInvalid},
	{"header that is no JSON", func() error { return second(api.ParsePropagation("x")) },
		"concord-transaction: is not JSON of this message", txn.ErrInvalid},
	{"too many numbers for a call", func() error {
		return joins(func(m *concordv1.Propagation) { m.FirstBranch, m.Branches = 250, 8 })
	}, "branches: 8 from 250 on: the last number is 255", txn.ErrInvalid},
	{"call without a name", func() error { return joins(func(m *concordv1.Propagation) { m.Call = "AB" }) },
		`call: "AB" names no call, want 16 hex characters`, txn.ErrInvalid},
	{"path without an end", func() error {
		return joins(func(m *concordv1.Propagation) { m.Path = make([]string, api.MaxPath+1) })
	}, "path: has 17 services, at most 16 may hand a transaction on", txn.ErrInvalid},
	{"answer of no process", func() error {
		return answers(&concordv1.Participation{Call: "000000000000000a", Instance: "b"})
	}, `instance: "b" names no process, want 32 hex characters`, txn.ErrInvalid},
	{"branch nowhere", func() error {
		return answers(&concordv1.Participation{Call: "000000000000000a", Instance: strings.Repeat("0a", 16),
			Branches: []*concordv1.OpenedBranch{{No: 1}}})
	}, "branches[0].resource: is empty", txn.ErrInvalid},
	{"vote of another branch", func() error {
		return second(api.ParseVotes([]*concordv1.JoinedVote{{No: 1, Vote: "yes",
			Branch: &concordv1.Branch{No: 2, Resource: "r"}}}))
	}, "votes[0].branch: is number 2, but the vote is for 1", txn.ErrInvalid},
	{"votes of too many", func() error { return second(api.ParseNumbers("numbers", make([]uint32, 257))) },
		"numbers: are 257, and a transaction has at most 256 branches", txn.ErrInvalid},

	{"dial nobody", func() error { return second(api.Dial(nil, api.ClientOptions{})) },
		"addrs: is empty, want the address of at least one coordinator node, such as 127.0.0.1:7420", txn.ErrInvalid},
	{"dial too many", func() error { return second(api.Dial(make([]string, 1000), api.ClientOptions{})) },
		"addrs: holds 1000 addresses, at most 64 are allowed", txn.ErrInvalid},
	{"dial a name", func() error { return second(api.Dial([]string{"localhost"}, api.ClientOptions{})) },
		`addrs[0]: "localhost" is not host:port, such as 127.0.0.1:7420`, txn.ErrInvalid},

	{"nobody leads", func() error { return received(&txn.NotLeaderError{}) },
		`this node is not the leader and does not know who is: ask again, or run "concord status"`,
		txn.ErrUnavailable},
	{"another leads", func() error { return received(&txn.NotLeaderError{Leader: 3, API: "10.0.0.3:7420"}) },
		"this node is not the leader: ask node 3 at 10.0.0.3:7420", nil},
	{"what a node says", func() error {
		return received(fmt.Errorf("GID has no branch 7: see %q: %w", "concord tx get", txn.ErrNotFound))
	},
		`GID has no branch 7: see "concord tx get": not found`, txn.ErrNotFound},
	{"what is not done now", func() error { return received(txn.ErrUnavailable) }, "unavailable", txn.ErrUnavailable},
	{"a cluster that wants TLS", func() error {
		server := httptest.NewUnstartedServer(http.NotFoundHandler())
		server.Config.ErrorLog = log.New(io.Discard, "", 0)
		server.StartTLS()
		defer server.Close()
		c, err := api.Dial([]string{server.Listener.Addr().String()}, api.ClientOptions{})
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Status(context.Background(), &concordv1.StatusRequest{})
		return err
	}, "get the status: unauthenticated: this cluster wants a client certificate or a token: --certs-dir, --token-file",
		txn.ErrUnauthenticated},
	{"a leader that falls silent", func() error {
		mux := http.NewServeMux()
		mux.Handle(concordv1connect.NewCoordinatorServiceHandler(silent{}))
		server := httptest.NewServer(mux)
		defer server.Close()
		c, err := api.Dial([]string{server.Listener.Addr().String()},
			api.ClientOptions{Patience: 300 * time.Millisecond})
		if err != nil {
			return err
		}
		defer c.Close()
		return c.Recover(context.Background(), &concordv1.RecoverRequest{},
			func(*concordv1.RecoverResponse) error { return nil })
	}, "recover: the leader fell silent, and what is not shown may have been done: run \"concord recover\" again",
		txn.ErrUnavailable},
	{"what nobody expected", func() error { return received(errors.New("internal error: the node's log says more")) },
		"internal: internal error: the node's log says more", nil},
}

// silent is a leader that says one thing about a recovery, and no more.
type silent struct {
	concordv1connect.UnimplementedCoordinatorServiceHandler
}

func (silent) Recover(ctx context.Context, _ *concordv1.RecoverRequest,
	stream *connect.ServerStream[concordv1.RecoverResponse]) error {
	err := stream.Send(&concordv1.RecoverResponse{})
	<-ctx.Done()
	return err
}

// joins parses the header of a call, after a change.
func joins(change func(*concordv1.Propagation)) error {
	m := api.Propagation{Cluster: 1, ID: txn.NewID(time.Now()), Call: 10, First: 8, Branches: 8}.Message()
	change(m)
	text, err := api.Text(m)
	if err != nil {
		return err
	}
	return second(api.ParsePropagation(text))
}

// answers parses the header of an answer.
func answers(m *concordv1.Participation) error {
	text, err := api.Text(m)
	if err != nil {
		return err
	}
	return second(api.ParseParticipation(text))
}

func TestWhatErrorsSay(t *testing.T) {
	for _, m := range messages {
		t.Run(m.name, func(t *testing.T) {
			err := m.meet()
			require.EqualError(t, err, m.says)
			if m.is != nil {
				require.ErrorIs(t, err, m.is)
			}
		})
	}
}

// written joins the literals of a text.
func written(t *testing.T, e ast.Expr) string {
	if sum, ok := e.(*ast.BinaryExpr); ok {
		return written(t, sum.X) + written(t, sum.Y)
	}
	text, err := strconv.Unquote(e.(*ast.BasicLit).Value)
	require.NoError(t, err)
	return text
}

// Who writes another error finds out here that its text has to be looked at by everybody.
func TestEveryErrorHasARow(t *testing.T) {
	var rows []string
	for _, m := range messages {
		rows = append(rows, m.says)
	}
	said.Check(t, rows, withoutRow)
}

// Why a text has no row.
const (
	elsewhere = "the request is sent again, to this node or another one: whoever asked hears of it only when none " +
		"answers"
)

// withoutRow are the texts that no row of the table has.
var withoutRow = map[string]string{
	"api: %T is not a message":                          "cannot be met: Connect hands over messages only",
	"ended the stream":                                  elsewhere,
	"the stream has ended: another one takes its place": elsewhere,
	"the request was not sent":                          elsewhere,
	"the stream broke":                                  elsewhere,
}

// Each text about a field is made by one function, so that none can be forgotten here.
func TestEveryFieldErrorHasARow(t *testing.T) {
	files, err := os.ReadDir(".")
	require.NoError(t, err)
	found := 0
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".go") || strings.HasSuffix(f.Name(), "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), f.Name(), nil, parser.SkipObjectResolution)
		require.NoError(t, err)
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			if name, ok := call.Fun.(*ast.Ident); !ok || name.Name != "invalid" {
				return true
			}
			found++
			format := written(t, call.Args[1])
			words := regexp.MustCompile(`%[-+#0-9.]*[a-z]`).Split(format, -1)
			for i := range words {
				words[i] = regexp.QuoteMeta(words[i])
			}
			like := regexp.MustCompile(": " + strings.Join(words, ".*") + "$")
			for _, m := range messages {
				if like.MatchString(m.says) {
					return true
				}
			}
			t.Errorf("no row of messages, in texts_test.go, shows this error: %q: add what one parses to meet it, "+
				"and all that it says then", format)
			return true
		})
	}
	require.Greater(t, found, 15, "the errors were not found")
}
