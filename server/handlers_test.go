// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/api/concord/v1/concordv1connect"
	"github.com/concordtx/concord/coordinator"
	"github.com/concordtx/concord/coordinator/commit"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

// ofLeader makes a call of each kind that belongs to the leader. A method that is in neither
// this list nor among those that every node answers is missing from the tests.
var ofLeader = map[string]func(context.Context, concordv1connect.CoordinatorServiceClient) error{
	"Commit": func(ctx context.Context, c concordv1connect.CoordinatorServiceClient) error {
		_, err := c.Commit(ctx, bare())
		return err
	},
	"Finished": func(ctx context.Context, c concordv1connect.CoordinatorServiceClient) error {
		_, err := c.Finished(ctx, &concordv1.FinishedRequest{Branches: []*concordv1.FinishedBranch{{Gid: gid(),
			Finish: "done"}}})
		return err
	},
	"Lease": func(ctx context.Context, c concordv1connect.CoordinatorServiceClient) error {
		_, err := c.Lease(ctx, &concordv1.LeaseRequest{Lease: 1})
		return err
	},
	"Waiting": func(ctx context.Context, c concordv1connect.CoordinatorServiceClient) error {
		_, err := c.Waiting(ctx, &concordv1.WaitingRequest{Heard: 7})
		return err
	},
	"KeyUse": func(ctx context.Context, c concordv1connect.CoordinatorServiceClient) error {
		r, err := c.KeyUse(ctx, &concordv1.KeyUseRequest{Key: "k"})
		if err == nil && (r.GetGid() != known.ID.String() || string(r.GetResult()) != "kept") {
			err = fmt.Errorf("answered %v", r)
		}
		return err
	},
	"Follow": func(ctx context.Context, c concordv1connect.CoordinatorServiceClient) error {
		r, err := c.Follow(ctx, &concordv1.FollowRequest{Gid: known.ID.WithLease(2).String()})
		if err == nil && !r.GetLeaseEnded() {
			err = fmt.Errorf("answered %v", r)
		}
		return err
	},
	"Outcome": func(ctx context.Context, c concordv1connect.CoordinatorServiceClient) error {
		_, err := c.Outcome(ctx, &concordv1.OutcomeRequest{Gid: gid()})
		return err
	},
	"List": func(ctx context.Context, c concordv1connect.CoordinatorServiceClient) error {
		_, err := c.List(ctx, &concordv1.ListRequest{})
		return err
	},
	"Get": func(ctx context.Context, c concordv1connect.CoordinatorServiceClient) error {
		_, err := c.Get(ctx, &concordv1.GetRequest{Gid: known.ID.String()})
		return err
	},
	"Resolve": func(ctx context.Context, c concordv1connect.CoordinatorServiceClient) error {
		_, err := c.Resolve(ctx, &concordv1.ResolveRequest{Gid: gid(), Decision: "abort", Who: "ann", Reason: "why"})
		return err
	},
	"Forget": func(ctx context.Context, c concordv1connect.CoordinatorServiceClient) error {
		_, err := c.Forget(ctx, &concordv1.ForgetRequest{Gid: gid(), Who: "ann", Reason: "why"})
		return err
	},
	"Settle": func(ctx context.Context, c concordv1connect.CoordinatorServiceClient) error {
		_, err := c.Settle(ctx, &concordv1.SettleRequest{Gid: gid(), Action: settleAbandon, Who: "ann", Reason: "why"})
		return err
	},
	"Deliver": func(ctx context.Context, c concordv1connect.CoordinatorServiceClient) error {
		_, err := c.Deliver(ctx, &concordv1.DeliverRequest{Cluster: fakeCluster.String()})
		return err
	},
	"ReplaceMember": func(ctx context.Context, c concordv1connect.CoordinatorServiceClient) error {
		_, err := c.ReplaceMember(ctx, &concordv1.ReplaceMemberRequest{Node: 2, Who: "ann", Reason: "why"})
		return err
	},
	"AddMember": func(ctx context.Context, c concordv1connect.CoordinatorServiceClient) error {
		_, err := c.AddMember(ctx, &concordv1.AddMemberRequest{Node: 4, Role: "voter", Peer: "a:1", Api: "a:2",
			Key: "k", Who: "ann", Reason: "why"})
		return err
	},
	"RemoveMember": func(ctx context.Context, c concordv1connect.CoordinatorServiceClient) error {
		_, err := c.RemoveMember(ctx, &concordv1.RemoveMemberRequest{Node: 2, Key: "k", Who: "ann", Reason: "why"})
		return err
	},
	"TransferLeadership": func(ctx context.Context, c concordv1connect.CoordinatorServiceClient) error {
		_, err := c.TransferLeadership(ctx, &concordv1.TransferLeadershipRequest{Node: 2, Who: "ann", Reason: "why"})
		return err
	},
	"Recover": func(ctx context.Context, c concordv1connect.CoordinatorServiceClient) error {
		return recovers(ctx, c, &concordv1.RecoverRequest{})
	},
	"Retry": func(ctx context.Context, c concordv1connect.CoordinatorServiceClient) error {
		_, err := c.Retry(ctx, &concordv1.RetryRequest{Gid: gid()})
		return err
	},
	"Resources": func(ctx context.Context, c concordv1connect.CoordinatorServiceClient) error {
		_, err := c.Resources(ctx, &concordv1.ResourcesRequest{Name: "orders", Identity: "another"})
		return err
	},
	"ReportResource": func(ctx context.Context, c concordv1connect.CoordinatorServiceClient) error {
		_, err := c.ReportResource(ctx, &concordv1.ReportResourceRequest{Name: "orders"})
		return err
	},
	"AcceptResource": func(ctx context.Context, c concordv1connect.CoordinatorServiceClient) error {
		_, err := c.AcceptResource(ctx, &concordv1.AcceptResourceRequest{Name: "orders", Who: "ann", Reason: "why"})
		return err
	},
	"Audit": func(ctx context.Context, c concordv1connect.CoordinatorServiceClient) error {
		_, err := c.Audit(ctx, &concordv1.AuditRequest{})
		return err
	},
	"CheckResource": func(ctx context.Context, c concordv1connect.CoordinatorServiceClient) error {
		_, err := c.CheckResource(ctx, &concordv1.CheckResourceRequest{})
		return err
	},
}

// recovers reads all of a recovery.
func recovers(ctx context.Context, c concordv1connect.CoordinatorServiceClient, r *concordv1.RecoverRequest) error {
	stream, err := c.Recover(ctx, r)
	if err != nil {
		return err
	}
	for stream.Receive() {
	}
	return errors.Join(stream.Err(), stream.Close())
}

// ofAny are answered by every node, with what the leader told it; Decide is a stream. So are Resources
// unless the client doubts what they say.
var ofAny = []string{"Status", "Watch", "Decide", "ListThrough", "FinishThrough"}

var known = txn.Txn{ID: txn.NewID(time.Now()), Decision: txn.Commit, Branches: []txn.Branch{{Resource: "orders"}},
	Ended: true}

func gid() string { return txn.NewID(time.Now()).String() }

func TestCallsOfTheLeaderAreHandedOnToIt(t *testing.T) {
	for _, m := range procedures() {
		_, leaders := ofLeader[string(m.Name())]
		require.NotEqual(t, leaders, slices.Contains(ofAny, string(m.Name())), "say whose call %s is", m.Name())
	}
	first := newFake()
	first.view = &commit.View{Known: true, Txn: known}
	leads := serve(t, first, nil)
	second := newFake()
	second.follows(1, leads.addr())
	follows := serve(t, second, nil)
	for name, do := range ofLeader {
		t.Run(name, func(t *testing.T) {
			first.calls = nil
			ctx, info := connect.NewClientContext(t.Context())
			require.NoError(t, do(ctx, follows.stub(t)), "%s is not handed on: give it a row in handOns, in relay.go",
				name)
			require.Len(t, first.calls, 1)
			require.Equal(t, "2", info.ResponseHeader().Get(api.HandedOnHeader), "who handed it on")

			ctx, info = connect.NewClientContext(t.Context())
			info.RequestHeader().Set(api.RedirectHeader, "1")
			notLeader := (*txn.NotLeaderError)(nil)
			require.ErrorAs(t, api.FromStatus(do(ctx, follows.stub(t))), &notLeader,
				"who wants to go there himself is told where")
			require.Equal(t, leads.addr(), notLeader.API)

			ctx, info = connect.NewClientContext(t.Context())
			info.RequestHeader().Set(api.HandedOnHeader, "3")
			require.ErrorAs(t, api.FromStatus(do(ctx, follows.stub(t))), &notLeader, "once at most")
			require.Len(t, first.calls, 1)
		})
	}
	answers := decide(t, follows, "", bare(), bare())
	require.Equal(t, "commit", answers[0].GetResponse().GetDecision(), "streams too")
	require.Equal(t, "commit", answers[1].GetResponse().GetDecision())
	require.NotContains(t, second.calls, "Recover", "nobody asks all databases first, to be told then who leads")
	require.NotContains(t, second.calls, "Check")

	leads.Close()
	for name, do := range ofLeader {
		err := api.FromStatus(do(t.Context(), follows.stub(t)))
		require.ErrorIs(t, err, txn.ErrUnavailable, name)
		require.ErrorContains(t, err, "node 1, did not answer", name)
	}
}

// A call of any node that only a leader can serve would be handed on by nobody.
func TestCallsOfAnyNodeAreServedByOneThatDoesNotLead(t *testing.T) {
	n := newFake()
	n.follows(1, "127.0.0.1:1")
	s := serve(t, n, nil)
	for _, m := range procedures() {
		name := string(m.Name())
		// Decide hands on by itself: see above. The others want to know of what.
		if !slices.Contains(ofAny, name) || m.IsStreamingClient() || strings.HasSuffix(name, "Through") {
			continue
		}
		body, kind := "{}", "application/json"
		if m.IsStreamingServer() {
			body, kind = "\x00\x00\x00\x00\x02{}", "application/connect+json"
		}
		res, err := h2(t).Post(s.URL+"/"+string(m.Parent().FullName())+"/"+name, kind, strings.NewReader(body))
		require.NoError(t, err, name)
		first := make([]byte, 1)
		_, err = res.Body.Read(first)
		require.NoError(t, res.Body.Close())
		if res.StatusCode != http.StatusOK || m.IsStreamingServer() && (err != nil || first[0] != 0) {
			t.Errorf("%s is refused by a node that does not lead (%s): give it a row in handOns, in relay.go, and "+
				"one in ofLeader, or let every node serve it", name, res.Status)
		}
	}
}

// What a leader does not reach it asks of those that follow it.
func TestABranchIsFinishedThroughANodeThatDoesNotLead(t *testing.T) {
	n := newFake()
	n.follows(1, "127.0.0.1:1")
	c := serve(t, n, nil).stub(t)
	_, err := c.ListThrough(t.Context(), &concordv1.ListThroughRequest{Cluster: fakeCluster.String(),
		Resource: "orders"})
	require.NoError(t, err)
	asked := &concordv1.FinishThroughRequest{Cluster: fakeCluster.String(), Gid: gid(), Resource: "orders"}
	res, err := c.FinishThrough(t.Context(), asked)
	require.NoError(t, err)
	require.Equal(t, "done", res.GetFinish())
	asked.Cluster = txn.ClusterID(fakeCluster + 1).String()
	_, err = c.FinishThrough(t.Context(), asked)
	require.Error(t, err)
	require.Equal(t, []string{"ListThrough", "FinishThrough"}, n.calls)
}

// Only to look at a database needs no leader.
func TestWithoutALeaderTheCallsOfTheLeaderAreUnavailable(t *testing.T) {
	n := newFake()
	n.snapshot.Leader, n.err = 0, &txn.NotLeaderError{}
	s := serve(t, n, nil)
	for name, do := range ofLeader {
		if err := do(t.Context(), s.stub(t)); name == "CheckResource" || name == "Resources" {
			require.NotErrorIs(t, api.FromStatus(err), txn.ErrInvalid)
		} else {
			require.ErrorIs(t, api.FromStatus(err), txn.ErrUnavailable, name)
		}
	}
	n.err = nil
	res, err := s.stub(t).CheckResource(t.Context(), &concordv1.CheckResourceRequest{})
	require.NoError(t, err)
	require.EqualValues(t, 1, res.GetNode(), "it says who asked")
}

func TestErrorsOfTheNodeKeepTheirKind(t *testing.T) {
	for _, want := range []error{txn.ErrUnavailable, txn.ErrNotFound, txn.ErrDecided, txn.ErrRefused, txn.ErrBusy,
		txn.ErrTooOld} {
		n := newFake()
		n.err = fmt.Errorf("because of the test: %w", want)
		s := serve(t, n, nil)
		for name, do := range ofLeader {
			if name == "Outcome" && want == txn.ErrTooOld || name == "Finished" || name == "Deliver" ||
				name == "Resources" {
				continue // an answer of its own; what the node does about it has no error
			}
			err := api.FromStatus(do(t.Context(), s.stub(t)))
			require.ErrorIs(t, err, want, name)
			require.ErrorContains(t, err, "because of the test", name)
		}
		a := decide(t, s, "", bare())[0].GetError()
		require.Contains(t, a.GetMessage(), "because of the test")
		require.Equal(t, connect.CodeOf(api.ToStatus(want)), connect.Code(a.GetCode()))
	}
	n := newFake()
	n.err = txn.ErrTooOld
	res, err := serve(t, n, nil).stub(t).Outcome(t.Context(), &concordv1.OutcomeRequest{Gid: gid()})
	require.NoError(t, err)
	require.Equal(t, "unknown", res.GetOutcome())
}

func TestMalformedRequestsAreRefusedBeforeTheNodeHearsOfThem(t *testing.T) {
	n := newFake()
	c := serve(t, n, nil).stub(t)
	for what, do := range map[string]func(context.Context) error{
		"gid of Commit": func(ctx context.Context) error {
			_, err := c.Commit(ctx, &concordv1.CommitRequest{Gid: "x"})
			return err
		},
		"lease of Lease": func(ctx context.Context) error {
			_, err := c.Lease(ctx, &concordv1.LeaseRequest{End: true})
			return err
		},
		"gid of Waiting": func(ctx context.Context) error {
			_, err := c.Waiting(ctx, waiting(&concordv1.WaitingTransaction{Gid: "x"}))
			return err
		},
		"gid of Outcome": func(ctx context.Context) error {
			_,
				err := c.Outcome(ctx, &concordv1.OutcomeRequest{})
			return err
		},
		"gid of Get": func(ctx context.Context) error {
			_,
				err := c.Get(ctx, &concordv1.GetRequest{Gid: "x"})
			return err
		},
		"gid of Recover": func(ctx context.Context) error {
			return recovers(ctx, c, &concordv1.RecoverRequest{Gid: "x"})
		},
		"state of List": func(ctx context.Context) error {
			_,
				err := c.List(ctx, &concordv1.ListRequest{State: "x"})
			return err
		},
		"finish of Finished": func(ctx context.Context) error {
			_, err := c.Finished(ctx, &concordv1.FinishedRequest{Branches: []*concordv1.FinishedBranch{{Gid: gid(),
				Finish: "x"}}})
			return err
		},
		"seen of Status": func(ctx context.Context) error {
			_, err := c.Status(ctx, &concordv1.StatusRequest{Seen: "x"})
			return err
		},
		"reason of Resolve": func(ctx context.Context) error {
			_, err := c.Resolve(ctx, &concordv1.ResolveRequest{Gid: gid(), Decision: "abort", Who: "ann"})
			return err
		},
		"who of Forget": func(ctx context.Context) error {
			_, err := c.Forget(ctx, &concordv1.ForgetRequest{Gid: gid(), Who: "a\x1bnn", Reason: "why"})
			return err
		},
		"who of Replace": func(ctx context.Context) error {
			_, err := c.ReplaceMember(ctx, &concordv1.ReplaceMemberRequest{Node: 2, Who: "a\u202enn", Reason: "why"})
			return err
		},
		"label of Commit": func(ctx context.Context) error {
			r := bare()
			r.Label = "zero\u200bwidth"
			_, err := c.Commit(ctx, r)
			return err
		},
	} {
		require.ErrorIs(t, api.FromStatus(do(t.Context())), txn.ErrInvalid, what)
	}
	require.Empty(t, n.calls)
}

// An application that outlived its cluster has seen positions that the new one never reaches. It is told
// what is wrong, and not that this node is behind.
func TestRequestForAnotherClusterIsRefusedAtOnce(t *testing.T) {
	n := newFake()
	n.behind = fmt.Errorf("this node is behind: %w", txn.ErrUnavailable)
	s := serve(t, n, nil)
	r := bare()
	r.Cluster, r.Seen = (fakeCluster + 1).String(), "99.1"
	_, err := s.stub(t).Commit(t.Context(), r)
	require.ErrorIs(t, api.FromStatus(err), txn.ErrInvalid)
	require.ErrorContains(t, err, "set up anew")
	a := decide(t, s, "99.1", r, bare())
	require.EqualValues(t, connect.CodeInvalidArgument, a[0].GetError().GetCode())
	require.Contains(t, a[0].GetError().GetMessage(), fakeCluster.String())
	require.EqualValues(t, connect.CodeUnavailable, a[1].GetError().GetCode())
	require.Empty(t, n.calls)
}

// A leader that has not formed its cluster yet decides nothing, and who asks it asks again: it must
// not be let in by the one who finds no cluster, nor wait for a position of another one.
func TestRequestToAClusterThatIsBeingFormedIsAskedAgain(t *testing.T) {
	n := newFake()
	n.snapshot.Cluster = 0
	n.behind = fmt.Errorf("this node is behind: %w", txn.ErrUnavailable)
	s := serve(t, n, nil)
	r := bare()
	r.Cluster, r.Seen = fakeCluster.String(), "99.1"
	_, err := s.stub(t).Commit(t.Context(), r)
	var notLeader *txn.NotLeaderError
	require.ErrorAs(t, api.FromStatus(err), &notLeader)
	_, err = s.stub(t).Outcome(t.Context(),
		&concordv1.OutcomeRequest{Gid: gid(), Cluster: fakeCluster.String(), Seen: "99.1"})
	require.ErrorAs(t, api.FromStatus(err), &notLeader)
	a := decide(t, s, "99.1", r)
	require.NotNil(t, a[0].GetError().GetNotLeader(), a[0])
	require.Empty(t, n.calls)
}

func TestNotFoundSaysWhatCannotBeKnown(t *testing.T) {
	n := newFake()
	s := serve(t, n, nil)
	get := func(id string) error {
		_, err := s.stub(t).Get(t.Context(), &concordv1.GetRequest{Gid: id})
		require.ErrorIs(t, api.FromStatus(err), txn.ErrNotFound)
		return err
	}
	id := txn.NewID(time.Now())
	require.ErrorContains(t, get(id.String()), "no resource lists a prepared branch of it")
	n.view.Unlisted = []string{"resource orders could not be listed (connection refused)"}
	err := get(id.String())
	require.NotContains(t, err.Error(), "no resource lists")
	require.ErrorContains(t, err, "not known of all resources: resource orders could not be listed")
	res, err := s.stub(t).List(t.Context(), &concordv1.ListRequest{})
	require.NoError(t, err)
	require.Equal(t, n.view.Unlisted, res.GetWarnings())
	n.view.Foreign = []txn.XID{{Cluster: 0xdead, ID: id}}
	require.ErrorContains(t, get(id.String()), "of cluster 0000dead")
}

func TestListPagesThroughWhatIsFinished(t *testing.T) {
	n := newFake()
	for i := range 5 {
		n.finished = append(n.finished, txn.Txn{ID: txn.NewID(time.Now().Add(-time.Duration(i) * time.Hour)),
			Decision: txn.Commit, Ended: true})
	}
	open := txn.Txn{ID: txn.NewID(time.Now().Add(time.Second)), Decision: txn.Commit,
		Branches: []txn.Branch{{Resource: "orders"}}}
	x := txn.XID{Cluster: fakeCluster, ID: open.ID}
	n.view = &commit.View{Open: []txn.Txn{open}, Branches: map[txn.XID]commit.BranchView{x: {Err: "refused"}}}
	c := serve(t, n, nil).stub(t)
	res, err := c.List(t.Context(), &concordv1.ListRequest{Limit: 3})
	require.NoError(t, err)
	require.Len(t, res.GetTransactions(), 3)
	require.Equal(t, "committing", res.GetTransactions()[0].GetState())
	require.Equal(t, "refused", res.GetTransactions()[0].GetBranches()[0].GetError())
	require.Equal(t, n.finished[1].ID.String(), res.GetNext())
	res, err = c.List(t.Context(), &concordv1.ListRequest{State: "in-doubt"})
	require.NoError(t, err)
	require.Len(t, res.GetTransactions(), 1)
}

// figures are those of a leader with one database in trouble, one that is well and one that it has
// not listed yet.
func figures(now time.Time) *commit.Figures {
	return &commit.Figures{At: now, Clock: now.Add(-time.Hour), InDoubt: 3, Heuristic: 1,
		Oldest: now.Add(-time.Hour - time.Minute),
		Resources: []commit.ResourceFigures{
			{Name: "orders", Driver: "postgres", Health: commit.Health{Asked: true, OK: true, Identity: "it"},
				Listed: now.Add(-time.Hour), Foreign: 2},
			{Name: "billing", Driver: "mysql", Health: commit.Health{Asked: true, Err: "refused"}, InDoubt: 2,
				Oldest: now.Add(-time.Hour - time.Minute)}},
		Warnings: []string{"look"}}
}

func follower(now time.Time) *fakeNode {
	n := newFake()
	n.follows(1, "127.0.0.1:1")
	n.snapshot.Present, n.snapshot.Figures = now, figures(now)
	n.snapshot.Resources = []coordinator.ResourceState{
		{Name: "orders", Driver: "postgres", Health: commit.Health{Asked: true, Err: "no route", Identity: "it"}},
		{Name: "billing", Driver: "mysql", Health: commit.Health{Asked: true, OK: true, Identity: "that"}}}
	return n
}

func TestFollowerShowsWhatTheLeaderToldIt(t *testing.T) {
	now := time.Now().Add(time.Minute) // the test may be slow
	n := follower(now)
	m := statusMessage(n.snapshot, now.Add(time.Second))
	require.True(t, m.GetKnown())
	require.EqualValues(t, 3, m.GetInDoubt())
	require.EqualValues(t, 1, m.GetHeuristic())
	require.True(t, m.GetIncomplete())
	require.EqualValues(t, 61_000, m.GetOldestMs(), "by the leader's clock, which need not be ours")
	orders, billing := m.GetResources()[0], m.GetResources()[1]
	require.True(t, orders.GetOk(), "the leader can use it")
	require.Equal(t, "no route", orders.GetOwnError(), "this node cannot")
	require.True(t, orders.GetListed())
	require.EqualValues(t, 1000, orders.GetListedAgeMs())
	require.EqualValues(t, 2, orders.GetForeign())
	require.False(t, billing.GetOk())
	require.Equal(t, "refused", billing.GetError())
	require.Equal(t, "that", billing.GetIdentity(), "which the leader has not learned yet")
	require.False(t, billing.GetListed())
	require.EqualValues(t, 61_000, billing.GetOldestMs())

	s := serve(t, n, nil)
	for series, want := range map[string]float64{
		"concord_leader_view_known": 1, "concord_in_doubt": 3, "concord_heuristic": 1,
		`concord_resource_up{resource="orders"}`: 1, `concord_resource_up{resource="billing"}`: 0,
		`concord_resource_in_doubt{resource="billing"}`: 2, `concord_resource_foreign{resource="orders"}`: 2,
		`concord_resource_reachable{resource="orders"}`: 0,
	} {
		got, ok := s.value(t, series)
		require.True(t, ok, series)
		require.Equal(t, want, got, series)
	}
	_, ok := s.value(t, `concord_resource_foreign{resource="billing"}`)
	require.False(t, ok, "it was not listed")
}

// What a node does not know is unknown, and never zero.
func TestWhatANodeDoesNotKnowIsUnknown(t *testing.T) {
	past := time.Now().Add(-time.Hour)
	for name, spoil := range map[string]func(*coordinator.Snapshot){
		"no leader":         func(s *coordinator.Snapshot) { s.Leader = 0 },
		"cut off":           func(s *coordinator.Snapshot) { s.Present = past },
		"nothing was heard": func(s *coordinator.Snapshot) { s.Figures = nil },
		"long ago":          func(s *coordinator.Snapshot) { s.Figures.At = past },
	} {
		t.Run(name, func(t *testing.T) {
			n := follower(time.Now().Add(time.Minute))
			spoil(n.snapshot)
			s := serve(t, n, nil)
			m, err := s.stub(t).Status(t.Context(), &concordv1.StatusRequest{})
			require.NoError(t, err)
			require.False(t, m.GetKnown())
			for _, r := range m.GetResources() {
				require.False(t, r.GetKnown())
				require.False(t, r.GetListed())
			}
			require.Equal(t, "no route", m.GetResources()[0].GetError(), "what it finds itself")
			known, _ := s.value(t, "concord_leader_view_known")
			require.Zero(t, known)
			_, text := s.get(t, "/metrics")
			for _, d := range fromStatus {
				if d.across == agreed {
					require.NotContains(t, text, "\n"+d.name, "absent")
				}
			}
			require.NotContains(t, text, "NaN")
		})
	}
}

func TestReadySaysWhyNot(t *testing.T) {
	for want, spoil := range map[string]func(*fakeNode){
		"ok":                     func(*fakeNode) {},
		"known no leader for 1h": func(n *fakeNode) { n.snapshot.Present = time.Now().Add(-time.Hour) },
		"knows no leader":        func(n *fakeNode) { n.snapshot.Leader = 0 },
		"being formed":           func(n *fakeNode) { n.snapshot.Cluster = 0 },
		"differs":                func(n *fakeNode) { n.snapshot.Distrusted = "its state differs" },
		"shutting down":          func(n *fakeNode) { close(n.closed) },
	} {
		n := newFake()
		spoil(n)
		s := serve(t, n, nil)
		code, text := s.get(t, "/readyz")
		require.Contains(t, text, want)
		require.Equal(t, want == "ok", code == http.StatusOK, text)
		code, _ = s.get(t, "/livez")
		require.Equal(t, http.StatusOK, code, "it lives")
	}
}

func TestWatchSendsWhatHasChanged(t *testing.T) {
	a := follower(time.Now()).snapshot
	b := *a
	later := *a.Figures
	later.At, later.Clock = later.At.Add(time.Second), later.Clock.Add(time.Second)
	later.Resources = slices.Clone(later.Resources)
	later.Resources[0].Listed = later.Resources[0].Listed.Add(time.Second)
	b.Figures, b.Present = &later, b.Present.Add(time.Second)
	require.True(t, same(&b, a), "only the time went on")
	later.InDoubt++
	require.False(t, same(&b, a))
	b.Figures = nil
	require.False(t, same(&b, a), "unknown is news")
	b = *a
	b.Zxid = zab.Zxid{Epoch: 9}
	require.False(t, same(&b, a))
}

// What a database says of a branch, or that it says nothing, is part of the answer.
func TestGetSaysWhatTheDatabasesSay(t *testing.T) {
	n := newFake()
	x := txn.Txn{ID: txn.NewID(time.Now()), Decision: txn.Commit}
	n.view = &commit.View{Branches: map[txn.XID]commit.BranchView{}}
	failed := time.UnixMilli(1_700_000_000_000)
	for no := range txn.BranchNo(4) {
		x.Branches = append(x.Branches, txn.Branch{No: no, Resource: "orders"})
		n.view.Branches[txn.XID{Cluster: fakeCluster, ID: x.ID, Branch: no}] = commit.BranchView{Err: "refused",
			Tried: commit.Tried{Attempts: 2, Failed: failed}}
	}
	n.view.Open, n.view.Txn, n.view.Known = []txn.Txn{x}, x, true
	n.examined = coordinator.Examined{Expected: []txn.BranchNo{0, 1, 9}, Missing: []txn.BranchNo{9},
		Branches: map[txn.BranchNo]coordinator.Seen{
			0: {Inspection: adapters.Inspection{Prepared: true, Blocked: []adapters.Blocked{{Session: "7"}}}},
			1: {Inspection: adapters.Inspection{Committed: true}}, 2: {}, 3: {Err: errors.New("connection refused")}}}
	r, err := serve(t, n, nil).stub(t).Get(t.Context(), &concordv1.GetRequest{Gid: x.ID.String()})
	require.NoError(t, err)
	require.Equal(t, []uint32{0, 1, 9}, r.GetTransaction().GetExpected())
	require.Equal(t, []uint32{9}, r.GetTransaction().GetMissing())
	var seen []string
	for _, b := range r.GetTransaction().GetBranches() {
		seen = append(seen, b.GetSeen())
		require.Equal(t, failed.UnixMilli(), b.GetErrorMs())
	}
	require.Equal(t, []string{"prepared", "committed", "gone", "unknown"}, seen)
	require.Equal(t, "connection refused", r.GetTransaction().GetBranches()[3].GetUnseen())
	require.Equal(t, "7", r.GetTransaction().GetBranches()[0].GetBlocked()[0].GetSession())
}
