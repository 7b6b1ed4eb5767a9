// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"regexp"
	"testing"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/api/concord/v1/concordv1connect"
	"github.com/concordtx/concord/internal/said"
	"github.com/concordtx/concord/txn"
)

// message is what a call is answered: to which node it is made, and what the client then reads
// over the network, with GID for the id of a transaction and ADDR for an address.
type message struct {
	name string
	node func(*testing.T, *fakeNode) // nil: all is well
	call func(context.Context, client) error
	says string
	is   error
	wrap func(int, layer) layer
}

type client = concordv1connect.CoordinatorServiceClient

// adds asks for a member of which something is wrong.
func adds(spoil func(*concordv1.AddMemberRequest)) func(context.Context, client) error {
	return func(ctx context.Context, c client) error {
		r := &concordv1.AddMemberRequest{Node: 4, Role: "voter", Peer: "a:1", Api: "a:2", Key: "k", Who: "ann",
			Reason: "why"}
		spoil(r)
		_, err := c.AddMember(ctx, r)
		return err
	}
}

func gets(ctx context.Context, c client) error {
	_, err := c.Get(ctx, &concordv1.GetRequest{Gid: known.ID.String()})
	return err
}

func resources(ctx context.Context, c client) error {
	_, err := c.Resources(ctx, &concordv1.ResourcesRequest{})
	return err
}

func waiting(all ...*concordv1.WaitingTransaction) *concordv1.WaitingRequest {
	return &concordv1.WaitingRequest{Heard: 7, Transactions: all}
}

var messages = []message{
	{name: "another cluster", is: txn.ErrInvalid, call: func(ctx context.Context, c client) error {
		r := bare()
		r.Cluster = (fakeCluster + 1).String()
		_, err := c.Commit(ctx, r)
		return err
	}, says: "the transaction belongs to cluster c0ffee02, but this is cluster c0ffee01: connect to the right " +
		"nodes; if cluster c0ffee02 was set up anew, restart the application"},
	{name: "end no lease", is: txn.ErrInvalid, call: func(ctx context.Context, c client) error {
		_, err := c.Lease(ctx, &concordv1.LeaseRequest{End: true})
		return err
	}, says: "lease: is zero, which is not a lease"},
	{name: "too many wait", is: txn.ErrInvalid, call: func(ctx context.Context, c client) error {
		_, err := c.Waiting(ctx, waiting(make([]*concordv1.WaitingTransaction, api.MaxWaiting+1)...))
		return err
	}, says: "transactions: are 257, report at most 256 at a time"},
	{name: "one that waits has too many branches", is: txn.ErrInvalid, call: func(ctx context.Context, c client) error {
		_, err := c.Waiting(ctx, waiting(&concordv1.WaitingTransaction{Gid: gid(),
			Branches: make([]*concordv1.WaitingBranch, txn.MaxBranches+1)}))
		return err
	}, says: "transactions[0].branches: are 257: a transaction has at most 256"},
	{name: "one that waits in no session", is: txn.ErrInvalid, call: func(ctx context.Context, c client) error {
		_, err := c.Waiting(ctx, waiting(&concordv1.WaitingTransaction{Gid: gid(),
			Branches: []*concordv1.WaitingBranch{{Resource: "orders"}}}))
		return err
	}, says: "transactions[0].branches[0]: resource or session is empty: leave out a branch whose session has no " +
		"name"},
	{name: "settle by another action", is: txn.ErrInvalid, call: func(ctx context.Context, c client) error {
		_, err := c.Settle(ctx, &concordv1.SettleRequest{Gid: gid(), Action: "undo", Who: "ann", Reason: "why"})
		return err
	}, says: `action: "undo" is not abandon, abort or commit, the only actions that this version knows`},
	{name: "no reason", is: txn.ErrInvalid, call: func(ctx context.Context, c client) error {
		_, err := c.Resolve(ctx, &concordv1.ResolveRequest{Gid: gid(), Decision: "abort", Who: "ann"})
		return err
	}, says: "reason: say why, it is kept with the transaction"},
	{name: "resolve for too many resources", is: txn.ErrInvalid, call: func(ctx context.Context, c client) error {
		_, err := c.Resolve(ctx, &concordv1.ResolveRequest{Gid: gid(), Decision: "commit", Who: "ann", Reason: "why",
			Resources: make([]string, txn.MaxBranches+1)})
		return err
	}, says: "resources: 257 of them: a transaction has at most 256 branches"},
	{name: "no reason to move leadership", is: txn.ErrInvalid, call: func(ctx context.Context, c client) error {
		_, err := c.TransferLeadership(ctx, &concordv1.TransferLeadershipRequest{Node: 2, Who: "ann"})
		return err
	}, says: "reason: say why, it is kept with the transaction"},
	{name: "add nobody", is: txn.ErrInvalid, call: adds(func(r *concordv1.AddMemberRequest) { r.Node = 0 }),
		says: "node: is missing or 0: ids start at 1"},
	{name: "add in no role", is: txn.ErrInvalid, call: adds(func(r *concordv1.AddMemberRequest) { r.Role = "learner" }),
		says: `role: "learner" is neither voter nor observer`},
	{name: "add at one address", is: txn.ErrInvalid,
		call: adds(func(r *concordv1.AddMemberRequest) { r.Api = r.GetPeer() }), says: `peer, api: both are "a:1": ` +
			`give two addresses`},
	{name: "add at no address", is: txn.ErrInvalid,
		call: adds(func(r *concordv1.AddMemberRequest) { r.Api = ":7420" }), says: `api: ":7420" is not host:port`},
	{name: "list what there is not", is: txn.ErrInvalid, call: func(ctx context.Context, c client) error {
		_, err := c.List(ctx, &concordv1.ListRequest{State: "lost"})
		return err
	}, says: `state: "lost" is not one of in-doubt, committing, aborting, committed, aborted, unrecorded, ` +
		`heuristic`},
	{name: "ask while the cluster is being formed", is: txn.ErrUnavailable, node: func(_ *testing.T,
		n *fakeNode) {
		n.snapshot.Cluster = 0
	}, call: resources, says: "the cluster is being formed: ask again in a moment"},

	{name: "get what nobody knows", is: txn.ErrNotFound, call: gets,
		says: `transaction GID is not known: no decision, and no resource lists a prepared branch of it; compare ` +
			`the gid with "concord tx ls"`},
	{name: "get what nobody knows for sure", is: txn.ErrNotFound, call: gets, node: func(_ *testing.T, n *fakeNode) {
		n.view.Unlisted = []string{"resource orders could not be listed (connection refused)",
			"resource billing has not been listed yet"}
	}, says: "transaction GID is not known: no decision, and whether a branch of it is prepared is not known of all " +
		"resources: " +
		`resource orders could not be listed (connection refused); resource billing has not been listed yet; run ` +
		`"concord resource check"`},
	{name: "get what is too old", is: txn.ErrTooOld, call: gets, node: func(_ *testing.T,
		n *fakeNode) {
		n.view.TooOld = true
	}, says: "transaction GID is older than what the cluster remembers, and no resource lists a prepared branch of " +
		"it: look into the databases"},
	{name: "follow what is too old", is: txn.ErrTooOld, call: func(ctx context.Context, c client) error {
		_, err := c.Follow(ctx, &concordv1.FollowRequest{Gid: gid()})
		return err
	}, node: func(_ *testing.T, n *fakeNode) { n.view.TooOld = true },
		says: "transaction GID is older than what the cluster remembers: look into the databases"},
	{name: "get what belongs to another cluster", is: txn.ErrNotFound, call: gets, node: func(_ *testing.T,
		n *fakeNode) {
		n.view.Foreign = []txn.XID{{Cluster: 0xdead, ID: known.ID}}
	}, says: "transaction GID does not belong to this cluster: a resource lists concord-0000dead-GID-00, of cluster " +
		"0000dead; " +
		`"concord recover GID" says what to do`},

	{name: "ask a node that knows no leader", is: txn.ErrUnavailable, call: gets, node: func(_ *testing.T,
		n *fakeNode) {
		n.err = &txn.NotLeaderError{}
	}, says: `this node is not the leader and does not know who is: ask again, or run "concord status"`},
	{name: "ask a node whose leader does not answer", is: txn.ErrUnavailable, call: gets, node: func(t *testing.T,
		n *fakeNode) {
		gone := serve(t, newFake(), nil)
		gone.Close()
		n.follows(1, gone.addr())
	}, says: "the leader, node 1, did not answer at ADDR (dial tcp ADDR: connect: connection refused): ask again, " +
		"or run \"concord status\""},
	{name: "a panic", call: gets, node: func(_ *testing.T, n *fakeNode) { n.panics = true },
		says: "internal: internal error: the node's log says more"},
	{name: "too many calls", is: txn.ErrBusy, call: resources, wrap: func(i int, l layer) layer {
		if i == 3 {
			return limited(0, 0)
		}
		return l
	}, says: "0 calls are under way at this node: ask again in a moment, or another node"},
}

var (
	anID   = regexp.MustCompile(`\b[0-7][0-9A-HJKMNP-TV-Z]{25}\b`)
	anAddr = regexp.MustCompile(`127\.0\.0\.1:[0-9]{4,5}`)
)

func TestWhatErrorsSay(t *testing.T) {
	for _, m := range messages {
		t.Run(m.name, func(t *testing.T) {
			n := newFake()
			if m.node != nil {
				m.node(t, n)
			}
			err := api.FromStatus(m.call(t.Context(), serve(t, n, m.wrap).stub(t)))
			require.Error(t, err)
			require.Equal(t, m.says, anAddr.ReplaceAllString(anID.ReplaceAllString(err.Error(), "GID"), "ADDR"))
			if m.is != nil {
				require.ErrorIs(t, err, m.is)
			} else {
				require.Equal(t, connect.CodeInternal, connect.CodeOf(err))
			}
		})
	}
}

// withoutRow are the texts that no row of the table has.
var withoutRow = map[string]string{
	"another application's transaction is committed under the key: begin keys with a name of your own": "in " +
		"TestAKeyOfAnotherApplication",
	"%d watch this node, which is the limit: ask again in a moment, or watch another node": "in " +
		"TestSoManyWatchANode",
	"%d clients of %q have leases, which is the limit: have them share one client": "in " +
		"TestASubjectHasSoManyLeases",
	"server: %T is no request of %s": "of a table of this package that is wrong",
}

// Who writes another error finds out here that its text has to be looked at by everybody.
func TestEveryErrorHasARow(t *testing.T) {
	var rows []string
	for _, m := range messages {
		rows = append(rows, m.says)
	}
	said.Check(t, rows, withoutRow)
}
