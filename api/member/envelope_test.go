// SPDX-License-Identifier: Apache-2.0

package member

import (
	"go/ast"
	goparser "go/parser"
	"go/token"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/protocol/threepc"
	"github.com/concordtx/concord/txn"
)

const cluster = txn.ClusterID(0xc0ffee01)

var (
	ann     = txn.Party{PartyID: txn.PartyID{Agent: "ann", Journal: txn.JournalID{1}}, Addr: "127.0.0.1:7431"}
	bob     = txn.Party{PartyID: txn.PartyID{Agent: "bob", Journal: txn.JournalID{2}}, Addr: "127.0.0.1:7432"}
	members = []txn.Party{{}, ann, bob}
	second  = txn.Election{N: 2, By: ann.PartyID}
)

// messages has each kind of message, with everything set that it can say.
var messages = []threepc.Message{
	threepc.CanCommit{Members: members, Epoch: 7, Claims: []txn.Claim{{No: 1, Number: 3, Digest: [32]byte{9}}}},
	threepc.Vote{Vote: txn.VoteYes, List: threepc.Digest{1, 2},
		Branches: []txn.Branch{{No: 1, Resource: "orders", Evidence: "e", Holder: "h"}}},
	threepc.Vote{Vote: txn.VoteNo, List: threepc.Digest{1}, Reason: "disk full"},
	threepc.PreCommit{Election: txn.FirstElection, Members: members},
	threepc.PreAbort{Election: second},
	threepc.Ack{Election: second, Kind: txn.Commit},
	threepc.Refused{Election: txn.FirstElection, LastElected: second},
	threepc.Elect{Election: second, List: threepc.List{Members: members, Short: true}},
	threepc.Answer{Election: second, State: threepc.PreCommitted, LastAttempt: txn.FirstElection, Short: members},
	threepc.Answer{Election: second, State: threepc.Wait},
	threepc.Decided{Decision: txn.Abort},
	threepc.Finished{No: 255, Finish: txn.AlreadyDone},
	threepc.Inquire{},
	threepc.Underway{Open: true},
	threepc.NotMember{Election: second},
	threepc.NotMember{},
}

func gid() txn.ID { return txn.NewID(time.Now()).WithClass(txn.ThreePhase) }

func TestMessagesArriveAsTheyWereSent(t *testing.T) {
	var sent []Envelope
	for _, m := range messages {
		sent = append(sent, Envelope{ID: gid(), From: ann, To: bob.PartyID, Message: m})
	}
	sent = append(sent, Envelope{ID: gid(), From: ann, Message: threepc.Inquire{}},
		Envelope{ID: gid(), To: ann.PartyID, Message: threepc.Decided{Decision: txn.Commit}})
	data, err := proto.Marshal(Request(cluster, sent))
	require.NoError(t, err)
	var r concordv1.DeliverRequest
	require.NoError(t, proto.Unmarshal(data, &r))
	to, got, err := Parse(&r)
	require.NoError(t, err)
	require.Equal(t, cluster, to)
	require.Equal(t, sent, got)
}

// A kind of message that is added to the protocol and forgotten here would panic at a member.
func TestEveryKindOfMessageIsAmongThem(t *testing.T) {
	file, err := goparser.ParseFile(token.NewFileSet(), "../../protocol/threepc/message.go", nil, 0)
	require.NoError(t, err)
	tested := map[string]bool{}
	for _, m := range messages {
		tested[reflect.TypeOf(m).Name()] = true
	}
	kinds := 0
	for _, d := range file.Decls {
		if f, ok := d.(*ast.FuncDecl); ok && f.Name.Name == "isMessage" {
			kinds++
			name := f.Recv.List[0].Type.(*ast.Ident).Name
			require.True(t, tested[name], "messages has no %s", name)
		}
	}
	require.Equal(t, len(tested), kinds)
}

func TestWhatNoMemberCanHaveSaidIsRefused(t *testing.T) {
	one := func(m threepc.Message) *concordv1.DeliverRequest {
		return Request(cluster, []Envelope{{ID: gid(), From: ann, To: bob.PartyID, Message: m}})
	}
	first := func(r *concordv1.DeliverRequest) *concordv1.MemberMessage { return r.GetMessages()[0] }
	for name, c := range map[string]struct {
		r    *concordv1.DeliverRequest
		mar  func(r *concordv1.DeliverRequest)
		says string
	}{
		"no cluster": {one(threepc.Inquire{}), func(r *concordv1.DeliverRequest) { r.Cluster = "" },
			`cluster: "" is not a cluster id`},
		"too many": {one(threepc.Inquire{}),
			func(r *concordv1.DeliverRequest) { r.Messages = make([]*concordv1.MemberMessage, MaxMessages+1) },
			"messages: are 1001, at most 1000 are allowed"},
		"no gid": {one(threepc.Inquire{}), func(r *concordv1.DeliverRequest) { first(r).Gid = "" },
			"messages[0].gid: is empty"},
		"another class": {one(threepc.Inquire{}),
			func(r *concordv1.DeliverRequest) { first(r).Gid = txn.NewID(time.Now()).String() },
			"whose transactions have no members"},
		"nothing said": {one(threepc.Inquire{}), func(r *concordv1.DeliverRequest) { first(r).Kind = nil },
			"messages[0]: says nothing that this version knows"},
		"to itself": {one(threepc.Inquire{}), func(r *concordv1.DeliverRequest) { first(r).To = first(r).From },
			"messages[0].to: ann talks to itself"},
		"a journal without an agent": {one(threepc.Inquire{}),
			func(r *concordv1.DeliverRequest) { first(r).From.Agent = "" },
			"messages[0].from.agent: is empty, but the journal or the address is not"},
		"no journal": {one(threepc.Inquire{}),
			func(r *concordv1.DeliverRequest) { first(r).From.Journal = strings.Repeat("0", 32) }, "is not a " +
				"journal id"},
		"no address": {one(threepc.PreCommit{Election: second, Members: members}), func(r *concordv1.DeliverRequest) {
			first(r).GetPreCommit().Members[1].Addr = ""
		}, "messages[0].members[1].addr: is empty"},
		"a strange address": {one(threepc.Inquire{}), func(r *concordv1.DeliverRequest) { first(r).From.Addr = "ann" },
			`messages[0].from.addr: "ann" is not host:port`},
		"no members": {one(threepc.PreCommit{Election: second}), nil,
			"messages[0].members: are 0, want the cluster and at most 64 agents"},
		"the cluster is left out": {one(threepc.PreCommit{Election: second, Members: []txn.Party{ann, bob}}), nil,
			"messages[0].members[0]: the cluster comes first, and once"},
		"a member twice": {one(threepc.PreCommit{Election: second,
			Members: []txn.Party{{}, ann, ann}}), nil,
			`messages[0].members[2].agent: "ann" is out of order, or listed twice`},
		"no election": {one(threepc.PreAbort{}), nil, "messages[0].election: is missing or 0"},
		"an election that nobody came to": {one(threepc.PreAbort{Election: txn.Election{N: MaxElection + 1}}), nil,
			"nobody has got beyond"},
		"no decision":    {one(threepc.Decided{}), nil, "messages[0].decision: is "},
		"no kind of ack": {one(threepc.Ack{Election: second}), nil, "messages[0].kind: is "},
		"decided, as an answer": {one(threepc.Answer{Election: second, State: threepc.Committed}), nil,
			`messages[0].state: is "committed", want wait, pre-committed or pre-aborted`},
		"yes to nothing": {one(threepc.Vote{Vote: txn.VoteYes}), nil,
			"messages[0].branches: are 0 with the vote yes"},
		"no with branches": {one(threepc.Vote{Branches: []txn.Branch{{Resource: "orders"}}}), nil,
			"messages[0].branches: are 1 with the vote no"},
		"a short digest": {one(threepc.Vote{}),
			func(r *concordv1.DeliverRequest) { first(r).GetVote().List = []byte{1} },
			"messages[0].list: has 1 bytes, want 8"},
		"no vote": {one(threepc.Vote{}),
			func(r *concordv1.DeliverRequest) { first(r).GetVote().Vote = "" }, "messages[0].vote: is "},
		"a claim of no work": {one(threepc.CanCommit{Members: members, Claims: []txn.Claim{{}}}), nil,
			"messages[0].claims.number: is 0: a branch without work is not opened"},
		"a claim without digest": {one(threepc.CanCommit{Members: members, Claims: []txn.Claim{{Number: 1}}}),
			func(r *concordv1.DeliverRequest) {
				first(r).GetCanCommit().Claims[0].Digest = nil
			}, "messages[0].claims.digest: has 0 bytes, want the 32 of the last answer"},
		"too many claims": {one(threepc.CanCommit{Members: members,
			Claims: make([]txn.Claim, txn.MaxBranches+1)}), nil,
			"messages[0].claims: are 257, at most 256 are allowed"},
		"a branch that cannot be": {one(threepc.Finished{Finish: txn.Done}),
			func(r *concordv1.DeliverRequest) { first(r).GetFinished().No = 256 }, "messages[0].no: is 256"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.mar != nil {
				_, _, err := Parse(c.r)
				require.NoError(t, err, "it is good before")
				c.mar(c.r)
			}
			_, _, err := Parse(c.r)
			require.ErrorIs(t, err, txn.ErrInvalid)
			require.ErrorContains(t, err, c.says)
		})
	}
}

// What is read is what would be sent for it.
func FuzzParse(f *testing.F) {
	for _, m := range messages {
		data, err := proto.Marshal(Request(cluster, []Envelope{{ID: gid(), From: ann, To: bob.PartyID, Message: m}}))
		require.NoError(f, err)
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var r concordv1.DeliverRequest
		if proto.Unmarshal(data, &r) != nil {
			return
		}
		to, envelopes, err := Parse(&r)
		if err != nil {
			require.ErrorIs(t, err, txn.ErrInvalid)
			return
		}
		_, again, err := Parse(Request(to, envelopes))
		require.NoError(t, err)
		require.Equal(t, envelopes, again)
	})
}
