// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"context"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"math"
	"net"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/memory"
	"github.com/concordtx/concord/api"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

// message is an error that whoever asks or runs a node can meet: how to get it, and what it says,
// with GID, CLUSTER, ZXID, ADDR and TIME for what differs.
type message struct {
	name string
	meet func(*testing.T) error
	says string
	is   error // nil: of no kind, as the errors of Open
}

// asked is what a lone leader answers.
func asked(event func(l *lone, request uint64) Event, before ...func(*lone)) func(*testing.T) error {
	return func(t *testing.T) error {
		l := newLone(t, "orders", "billing")
		for _, do := range before {
			do(l)
		}
		return l.ask(func(request uint64) Event { return event(l, request) }).Err
	}
}

// aborted is the reason with which a lone leader aborts what it is asked to commit.
func aborted(id func(*lone) txn.ID, branches []txn.Branch, before ...func(*lone)) func(*testing.T) error {
	return func(t *testing.T) error {
		l := newLone(t, "orders", "billing")
		for _, do := range before {
			do(l)
		}
		r := l.commit(id(l), branches...)
		require.Equal(t, txn.Abort, r.Decision)
		return errors.New(r.Reason)
	}
}

// levelled lets the log say who the members are and where, and switches leases on.
func levelled(l *lone) {
	for range 3 { // a level, who they are, where they are
		l.step(MembersSeen{Speakers: []Speaker{{Node: 1, Store: txn.StoreID{1}, Level: txn.Newest, Peer: "10.0.0.1:7421", API: "10.0.0.1:7420"}}})
		for range 10 {
			l.tick(50 * time.Millisecond)
		}
	}
	require.NotNil(l.t, l.table.Members())
}

// with adds a member, which learns unless it is an observer.
func with(id zab.NodeID, observer bool) func(*lone) {
	return func(l *lone) {
		l.request++
		l.step(adding(id, observer)(l, l.request))
		for range 10 {
			l.tick(50 * time.Millisecond)
		}
		r, answered := l.replies[l.request]
		require.True(l.t, answered)
		require.NoError(l.t, r.Err)
	}
}

func adding(id zab.NodeID, observer bool) func(*lone, uint64) Event {
	n := strconv.Itoa(int(id))
	return func(_ *lone, request uint64) Event {
		return AddAsked{Request: request, Key: "add " + n, Who: "ann", Why: "more",
			Member: Member{ID: id, Observer: observer, Peer: "10.0.0." + n + ":7421", API: "10.0.0." + n + ":7420"}}
	}
}

func removing(id zab.NodeID) func(*lone, uint64) Event {
	return func(_ *lone, request uint64) Event {
		return RemoveAsked{Request: request, Node: id, Key: "remove", Who: "ann", Why: "less"}
	}
}

var thatID = txn.NewID(time.UnixMilli(1_800_000_000_000))

func fixed(*lone) txn.ID { return thatID }

// lists tells that a resource lists a branch of that transaction.
func lists(l *lone) {
	l.step(Listed{Resource: "orders", Listing: []adapters.Prepared{prepared(l.xid(thatID, 0))}})
}

func listsNothing(l *lone) {
	for _, name := range l.config.Resources {
		l.step(Listed{Resource: name})
	}
}

func commits(l *lone) { l.commit(thatID, txn.Branch{Resource: "orders"}) }

// endsBranch reports the only branch of that transaction as done.
func endsBranch(l *lone) {
	l.step(Finished{XID: l.xid(thatID, 0), Finish: txn.Done, By: txn.FromClient})
	l.tick(time.Second)
}

func givesUp(l *lone) { require.NoError(l.t, l.ask(settle(thatID, 0)).Err) }

// differs lets other voters of three tell of another state than this node has.
func differs(nodes ...zab.NodeID) func(*lone) {
	return func(l *lone) {
		l.core.list = List{Members: []Member{{ID: 1}, {ID: 2}, {ID: 3}}}
		for _, id := range nodes {
			l.step(StateSeen{Node: id, At: l.core.zxid(), Digest: txn.Digest{0xba}})
		}
	}
}

func committing(l *lone, request uint64) Event {
	return CommitAsked{Request: request, CommitRequest: txn.CommitRequest{ID: thatID}}
}

func resolving(d txn.Decision) func(*lone, uint64) Event {
	return func(_ *lone, request uint64) Event {
		return ResolveAsked{Request: request, ID: thatID, Decision: d, Who: "ann", Why: "why"}
	}
}

func settling(no txn.BranchNo) func(*lone, uint64) Event {
	return func(_ *lone, request uint64) Event { return settle(thatID, no)(request) }
}

func forgetting(_ *lone, request uint64) Event {
	return ForgetAsked{Request: request, ID: thatID, Who: "ann", Why: "why"}
}

// one is what the only node of a cluster says.
func one(ask func(context.Context, *testCluster, *Node) error, resources ...adapters.Resource) func(*testing.T) error {
	return func(t *testing.T) error {
		c := newCluster(t, 1, func() []adapters.Resource { return resources })
		return ask(t.Context(), c, c.leader().Node)
	}
}

// opening is what Open says of a configuration in which something is wrong.
func opening(spoil func(*testing.T, *Config)) func(*testing.T) error {
	return func(t *testing.T) error {
		config := Config{Node: 1, Members: []Member{{ID: 1, Peer: "127.0.0.1:0", API: "127.0.0.1:7420"}}, DataDir: t.TempDir()}
		spoil(t, &config)
		n, err := Open(config)
		if err == nil {
			err = errors.Join(errors.New("it was opened"), n.listenerClosed())
		}
		return err
	}
}

// refused is what node 1, one of three, answers to a hello in which something is wrong.
func refused(spoil func(*hello)) func(*testing.T) error {
	return func(t *testing.T) error {
		n, addr, _ := lonely(t)
		h := asPeer(n, 2)
		spoil(&h)
		_, kind, why := speak(t, addr, h)
		require.Equal(t, frameRefused, kind)
		return errors.New(why)
	}
}

// silent is a database that does not answer.
type silent struct{ adapters.Resource }

func (silent) Recover(context.Context) ([]adapters.Prepared, error) {
	return nil, errors.New("connection refused")
}

var messages = []message{
	{name: "nobody leads", meet: asked(committing, func(l *lone) { l.core.leading = false }), is: &api.NotLeaderError{},
		says: `this node is not the leader and knows none at the moment: ask again, or run "concord status"`},
	{name: "a read that no leader confirms", is: api.ErrUnavailable, meet: func(t *testing.T) error {
		l := newLone(t)
		core, err := NewCore(CoreConfig{Node: 1, Members: []Member{{ID: 1}, {ID: 2}, {ID: 3}}, Boot: 9, NewCluster: 7}, l.disk, txn.NewTable(txn.Meta{}, nil, l))
		require.NoError(t, err)
		l.core = core
		return l.ask(func(request uint64) Event { return OutcomeAsked{Request: request, Inquiry: txn.Inquiry{ID: thatID}} }).Err
	}, says: `this node cannot tell whether it knows all decisions, since no leader has confirmed it: ask another one, or run "concord status"`},
	{name: "more wait than may", is: api.ErrBusy, meet: asked(func(_ *lone, request uint64) Event {
		return SeenAsked{Request: request, Zxid: zab.Zxid{Epoch: math.MaxUint32}}
	}, func(l *lone) {
		for range maxBehind {
			l.step(SeenAsked{Zxid: zab.Zxid{Epoch: math.MaxUint32}})
		}
	}), says: "the node is busy: ask again in a moment"},
	{name: "a node that shuts down", is: api.ErrUnavailable, meet: one(func(ctx context.Context, c *testCluster, n *Node) error {
		c.kill(1)
		return n.Forget(ctx, thatID, "ann", "why")
	}), says: "the node is shutting down: ask another one"},
	{name: "a state that this node never reaches", is: api.ErrUnavailable, meet: one(func(ctx context.Context, _ *testCluster, n *Node) error {
		return n.Reach(ctx, zab.Zxid{Epoch: math.MaxUint32, Counter: 1})
	}), says: "this node is at zxid ZXID, and you have seen ZXID: ask another node; if none has come that far, you have seen another cluster"},
	{name: "a voter differs, and nobody knows with whom the majority agrees", is: api.ErrUnavailable, meet: asked(committing, commits, differs(2)),
		says: "the state of this node, 1, differs at ZXID from that of node 2; it answers nothing until it knows with whom the majority agrees: bring the other nodes up"},
	{name: "all other voters differ", is: api.ErrUnavailable, meet: asked(committing, commits, differs(2, 3)),
		says: "the state of this node, 1, differs at ZXID from that of node 2, node 3, so that no majority can agree with it. It takes part in nothing and " +
			`answers nothing any more. Stop it, move its directory away, run "concord member replace 1" on the others, and start it on an empty one; ` +
			"if all nodes say this, put back a backup of one of them"},

	{name: "a class that is not switched on", is: api.ErrRefused, meet: asked(func(_ *lone, request uint64) Event {
		return CommitAsked{Request: request, CommitRequest: txn.CommitRequest{ID: thatID.WithClass(txn.ThreePhase)}}
	}), says: "transaction GID is of the class three_phase, which is not switched on in this cluster, so it can neither decide it nor tell its outcome: look into the databases"},
	{name: "a transaction of another cluster", is: api.ErrInvalid, meet: asked(func(_ *lone, request uint64) Event {
		return CommitAsked{Request: request, CommitRequest: txn.CommitRequest{ID: thatID, Cluster: 8}}
	}), says: "the transaction belongs to cluster CLUSTER, but this is cluster CLUSTER: connect to the right nodes; if cluster CLUSTER was made anew, start the application again"},
	{name: "a transaction from the future", is: api.ErrInvalid, meet: asked(func(l *lone, request uint64) Event {
		return CommitAsked{Request: request, CommitRequest: txn.CommitRequest{ID: txn.NewID(l.now.AddDate(1, 0, 0))}}
	}), says: "transaction GID is dated TIME, and here it is TIME: unless the gid is mistyped, set the clock of whoever began it, or those of the nodes"},
	{name: "a transaction that is too old", is: api.ErrTooOld, meet: asked(func(l *lone, request uint64) Event {
		return CommitAsked{Request: request, CommitRequest: txn.CommitRequest{ID: txn.NewID(l.now.AddDate(-1, 0, 0))}}
	}, func(l *lone) {
		for range 5 {
			commitNew(l)
			l.tick(8 * 24 * time.Hour)
			l.tick(time.Second)
		}
	}), says: "transaction GID is older than what the cluster remembers: look into the databases"},
	{name: "a branch of a resource that nobody knows", meet: aborted(fixed, []txn.Branch{{Resource: "stock"}}),
		says: `branch 0: the coordinator has no resource "stock": add it to "resources" on all nodes`},
	{name: "a branch of a resource that is not fit", meet: aborted(fixed, []txn.Branch{{Resource: "orders"}}, func(l *lone) {
		l.step(Fitness{Resource: "orders", Why: `it is the same database as resource billing, which is listed before it: remove one of them from "resources", or correct its dsn`})
	}), says: `branch 0: resource "orders": it is the same database as resource billing, which is listed before it: remove one of them from "resources", or correct its dsn`},
	{name: "a branch that nobody could finish", meet: aborted(fixed, []txn.Branch{{Resource: "orders", Evidence: "poison"}}, func(l *lone) {
		l.core.config.Validate = func(txn.Branch) error { return errors.New("evidence: it is not in a form that this version writes") }
	}), says: `branch 0: resource "orders": evidence: it is not in a form that this version writes`},
	{name: "two branches with one number", meet: aborted(fixed, []txn.Branch{{Resource: "orders"}, {Resource: "billing"}}),
		says: "two branches have the number 0: give each its own"},
	{name: "too many branches", meet: aborted(fixed, make([]txn.Branch, api.MaxBranches+1)), says: "257 branches: a transaction has at most 256: split it"},
	{name: "a lease that has ended", meet: aborted(func(l *lone) txn.ID { return thatID.WithLease(1) }, nil, levelled, func(l *lone) {
		require.NoError(l.t, l.ask(func(request uint64) Event { return LeaseAsked{Request: request} }).Err)
		require.NoError(l.t, l.ask(func(request uint64) Event { return LeaseEndAsked{Request: request, Lease: 1} }).Err)
	}), says: "lease 1 of the client has ended: it was closed, or the cluster had not heard of it for too long"},

	{name: "resolve what is decided otherwise", is: api.ErrDecided, meet: asked(resolving(txn.Abort), commits),
		says: `the decision of GID stands: commit, at zxid ZXID; see "concord tx get"`},
	{name: "resolve what nobody knows", is: api.ErrNotFound, meet: asked(resolving(txn.Commit), listsNothing),
		says: `transaction GID is not known: no decision, and no resource lists a prepared branch of it; compare the gid with "concord tx ls"`},
	{name: "resolve while a resource was never listed", is: api.ErrRefused, meet: asked(resolving(txn.Commit), lists),
		says: "resource billing has not been listed yet, so it is not known whether GID has a branch there that would have to commit too: " +
			`wait until "concord status" shows it well, or abort`},
	{name: "resolve while a resource cannot be listed", is: api.ErrRefused, meet: asked(resolving(txn.Commit), listsNothing, func(l *lone) {
		l.step(Listed{Resource: "orders", Err: errors.New("connection refused")})
	}), says: "resource orders could not be listed (connection refused), so it is not known whether GID has a branch there that would have to commit too: " +
		`wait until "concord status" shows it well, or abort`},
	{name: "forget what nobody knows", is: api.ErrNotFound, meet: asked(forgetting),
		says: `the log has no decision about GID, so it has no heuristic outcome to forget: see "concord tx ls --state heuristic"`},
	{name: "forget what is not heuristic", is: api.ErrRefused, meet: asked(forgetting, commits), says: `GID has no heuristic outcome to forget: see "concord tx get"`},
	{name: "settle what is not decided", is: api.ErrRefused, meet: asked(settling(0), lists), says: `GID has no decision: decide it first, with "concord tx resolve"`},
	{name: "settle what was given up", is: api.ErrRefused, meet: asked(settling(0), commits, givesUp), says: `branch 0 of GID is on record already: see "concord tx get"`},
	{name: "settle a branch that is not there", is: api.ErrNotFound, meet: asked(settling(7), commits), says: `GID has no branch 7: see "concord tx get"`},
	{name: "settle a branch that is finished", is: api.ErrRefused, meet: asked(settling(0), commits, endsBranch), says: "branch 0 of GID is finished: there is nothing to give up"},

	{name: "a lease that is not switched on", is: api.ErrRefused, meet: asked(func(_ *lone, request uint64) Event { return LeaseAsked{Request: request} }),
		says: `leases are not switched on yet: some member of the cluster is away, or runs a release that does not know them; see "concord status"`},
	{name: "more leases than may be", is: api.ErrRefused, meet: func(t *testing.T) error {
		l := newLone(t)
		levelled(l)
		const first = 1000
		for i := range txn.MaxLeases + 1 {
			l.step(LeaseAsked{Request: uint64(first + i)})
			if i%500 == 0 {
				l.tick(10 * time.Millisecond)
			}
		}
		for range 20 {
			l.tick(50 * time.Millisecond)
		}
		return l.replies[first+txn.MaxLeases].Err
	}, says: "10000 clients have a lease, which is the limit: close some of them"},
	{name: "a lease that is not known yet", is: api.ErrUnavailable, meet: one(func(_ context.Context, _ *testCluster, n *Node) error {
		_, err := n.RenewLease(99)
		return err
	}), says: "lease 99 is not known here yet: ask again"},

	{name: "members that the log does not know", is: api.ErrRefused, meet: asked(removing(2)),
		says: "the log does not say yet who the members are: it will when all of them run a release that knows feature level 3 and have been up together; " +
			`see "concord status"`},
	{name: "add who is there", is: api.ErrRefused, meet: asked(func(_ *lone, request uint64) Event {
		return AddAsked{Request: request, Key: "k", Member: Member{ID: 1, Peer: "10.0.0.9:1", API: "10.0.0.9:2"}}
	}, levelled), says: `node 1 is a member already (voter): see "concord member ls"`},
	{name: "add at an address that is taken", is: api.ErrRefused, meet: asked(func(_ *lone, request uint64) Event {
		return AddAsked{Request: request, Key: "k", Member: Member{ID: 2, Peer: "10.0.0.1:7421", API: "10.0.0.9:2"}}
	}, levelled), says: "the address 10.0.0.1:7421 is that of node 1: give the new node its own"},
	{name: "add while another learns", is: api.ErrRefused, meet: asked(adding(3, false), levelled, with(2, false)),
		says: `node 2 is being added and has not caught up yet: wait for it, or remove it with "concord member remove 2"`},
	{name: "add more than may be", is: api.ErrRefused, meet: asked(adding(99, true), levelled, func(l *lone) {
		for id := 2; id <= txn.MaxMembers; id++ {
			with(zab.NodeID(id), true)(l)
		}
	}), says: "a cluster has at most 32 members: remove one first"},
	{name: "remove who is not there", is: api.ErrNotFound, meet: asked(removing(9), levelled), says: `there is no member 9: see "concord member ls"`},
	{name: "remove while another learns", is: api.ErrRefused, meet: asked(removing(1), levelled, with(2, false)),
		says: `node 2 is being added and has not caught up yet: wait for it, or remove it first, with "concord member remove 2"`},
	{name: "remove the last voter", is: api.ErrRefused, meet: asked(removing(1), levelled),
		says: `node 1 is the last voter, and nobody would be left to decide: add another one first, with "concord member add"`},
	{name: "lead by an observer", is: api.ErrRefused, meet: asked(func(_ *lone, request uint64) Event { return LeadAsked{Request: request, Node: 2} }, levelled, with(2, true)),
		says: `node 2 is no voter (observer), and cannot lead: name one that "concord member ls" shows as a voter`},
	{name: "replace the disk of the leader", is: api.ErrRefused, meet: asked(func(_ *lone, request uint64) Event { return ReplaceAsked{Request: request, Node: 1} }),
		says: "node 1 leads, its disk is not lost: name the node that lost it"},
	{name: "lead by a node that is away", is: api.ErrUnavailable, meet: func(t *testing.T) error {
		c := newCluster(t, 3, nobody)
		down := c.follower()
		c.kill(down)
		var err error
		require.Eventually(t, func() bool { // as long as the leader takes it for a follower, it waits for it
			err = c.leader().Lead(t.Context(), down, "ann", "why")
			return err != nil && strings.Contains(err.Error(), "it does not follow")
		}, 40*time.Second, 20*time.Millisecond, "%v", err)
		return errors.Join(err)
	}, says: `node N cannot take over leadership now: it does not follow this leader at the moment; see "concord status", and ask again`},
	{name: "remove whom the others need", is: api.ErrRefused, meet: func(t *testing.T) error {
		c := newCluster(t, 3, nobody)
		c.listed()
		down := c.follower()
		c.kill(down)
		other := 6 - down - c.leader().config.Node
		var err error
		require.Eventually(t, func() bool {
			err = c.again(func(ctx context.Context, n *Node) error {
				return n.RemoveMember(ctx, other, time.Now().String(), "ann", "why")
			})
			return errors.Is(err, api.ErrRefused)
		}, 40*time.Second, 20*time.Millisecond)
		return err
	}, says: "without node N too few of the voters that are left follow this leader, and the cluster would stop: bring them back, or remove those first; " +
		`see "concord status"`},
	{name: "a node that was removed", is: ErrRemoved, meet: func(t *testing.T) error {
		c := newCluster(t, 3, nobody)
		c.listed()
		id := c.follower()
		c.remove(id)
		c.mu.Lock()
		r := c.nodes[id]
		delete(c.nodes, id)
		c.mu.Unlock()
		return <-r.done
	}, says: "this node was removed from its cluster: node N tells that the members of cluster CLUSTER are LIST since ZXID. Move the directory of this node away; " +
		`to take the node back, run "concord member add N" and start it on an empty one`},

	{name: "recover while a resource does not answer", is: api.ErrUnavailable, meet: one(func(ctx context.Context, _ *testCluster, n *Node) error {
		_, err := n.Recover(ctx, txn.ID{}, false)
		return err
	}, silent{memory.New("orders", memory.NewDisk())}, silent{memory.New("billing", memory.NewDisk())}),
		says: `not listed: billing: connection refused; orders: connection refused; run "concord resource check"`},
	{name: "check a resource that is not there", is: api.ErrNotFound, meet: one(func(ctx context.Context, _ *testCluster, n *Node) error {
		_, err := n.Check(ctx, "stock")
		return err
	}), says: `there is no resource "stock": see "concord resource ls"`},

	{name: "open at a level that nobody knows", meet: opening(func(_ *testing.T, c *Config) { c.FeatureLevel = 99 }),
		says: `"feature_level" is 99, and this release knows up to 3: lower it, or run the release that the other nodes run`},
	{name: "open as nobody", meet: opening(func(_ *testing.T, c *Config) { c.Node = 2 }), says: `node 2 is not one of the members: add it to "members", or correct "node"`},
	{name: "open with two resources of one name", meet: opening(func(_ *testing.T, c *Config) {
		c.Resources = []adapters.Resource{memory.New("orders", memory.NewDisk()), memory.New("orders", memory.NewDisk())}
	}), says: `two resources have the name "orders": give each its own`},
	{name: "open with two members of one id", meet: opening(func(_ *testing.T, c *Config) { c.Members = append(c.Members, c.Members[0]) }),
		says: `members: members: id 1 is there twice`},
	{name: "open at an address that is taken", meet: opening(func(t *testing.T, c *Config) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		t.Cleanup(func() { _ = l.Close() })
		c.Members[0].Peer = l.Addr().String()
	}), says: `listen for peers at ADDR: listen tcp ADDR: bind: address already in use: choose another "peer" address, or stop who uses it`},
	{name: "open with a list that the log does not know", is: ErrMembers, meet: func(t *testing.T) error {
		c := newCluster(t, 1, nobody)
		c.listed()
		c.kill(1)
		_, err := c.openNode(1, append(c.members[:1:1], Member{ID: 2, Peer: "127.0.0.1:1001", API: "x"}))
		return err
	}, says: "the \"members\" of the configuration are not those of this node's log (since ZXID):\n" +
		"  \"members\" in the file   in the log\n  1 voter                 1 voter\n  2 voter                 -\n" +
		"The file says only who founds a cluster. Put a list back there that the cluster has or had; members come and go with " +
		"\"concord member add\" and \"concord member remove\", while the cluster runs"},
	{name: "open at a lower level than the cluster is at", is: ErrNewerStore, meet: func(t *testing.T) error {
		c := newCluster(t, 1, nobody)
		c.listed()
		c.kill(1)
		return opening(func(_ *testing.T, config *Config) {
			config.Members, config.DataDir, config.FeatureLevel = c.members, c.dir+"/1", txn.LevelBase
		})(t)
	}, says: "the store belongs to a later release of concord: the cluster is at feature level 3, and \"feature_level\" holds this node at 1: remove that key; " +
		"what was switched on cannot be switched off"},

	{name: "a peer of an earlier release", meet: refused(func(h *hello) { h.Newest, h.Oldest = oldestVersion-1, 1 }),
		says: "node 2 speaks version 2 of the peer protocol, node 1 speaks 3 to 5: the releases are too far apart, upgrade node 2"},
	{name: "a peer of a later release", meet: refused(func(h *hello) { h.Newest, h.Oldest = protocolVersion+2, protocolVersion+1 }),
		says: "node 2 speaks versions 6 and above of the peer protocol, node 1 up to 5: the releases are too far apart, upgrade node 1"},
	{name: "a peer with the same id", meet: refused(func(h *hello) { h.From = 1 }), says: `two nodes have the id 1: give each node its own id in "node" and "members"`},
	{name: "a peer that looks for another node", meet: refused(func(h *hello) { h.To = 3 }),
		says: `node 2 expected node 3 at this address, but here is node 1: correct the addresses in "members"`},
	{name: "a peer with other members", meet: refused(func(h *hello) { h.Members[0]++ }), says: `nodes 2 and 1 have different "members": use the same list on all nodes`},
	{name: "a peer that knows a lower level", meet: refused(func(h *hello) { h.Level = txn.LevelBase - 1 }),
		says: `the cluster is at feature level 1, and node 2 knows up to 0: run the release there that the other nodes run, and set no lower "feature_level"`},
	{name: "a peer that needs a higher level", meet: refused(func(h *hello) { h.Needs = txn.Newest + 1 }),
		says: `the cluster is at feature level 4, and node 1 knows up to 3: run the release there that the other nodes run, and set no lower "feature_level"`},
	{name: "a peer that is no member", meet: refused(func(h *hello) { h.From = 9 }),
		says: `node 9 is not a member of the cluster of node 1: run "concord member add 9" with its addresses, or correct "members"`},
	{name: "a peer of another cluster", meet: one(func(_ context.Context, c *testCluster, n *Node) error {
		h := asPeer(c.nodes[1], 2)
		h.Cluster++
		_, kind, why := speak(c.t, c.members[0].Peer, h)
		require.Equal(c.t, frameRefused, kind)
		return errors.New(why)
	}), says: "node 2 belongs to cluster CLUSTER, node 1 to cluster CLUSTER: one of them has the data directory of another cluster"},
	{name: "a peer with another store", meet: asOther(func(h *hello, _ txn.MemberStore) { h.Store = txn.StoreID{0xba} }),
		says: "node N has another store than the cluster knows: its disk was lost, or directories were swapped. Give it its own directory back; " +
			`if that is lost for good, run "concord member replace N"`},
	{name: "a peer whose store was set back", meet: asOther(func(h *hello, known txn.MemberStore) { h.Store, h.Tail = known.Store, zab.Zxid{} }),
		says: "the store of node N was set back: its log ends at ZXID, and it had all up to ZXID. It has forgotten what it promised since. " +
			`Stop it, run "concord member replace N", and start it on an empty directory`},
}

// asOther speaks to the leader as a node of its cluster that is away, with a hello in which
// something is wrong.
func asOther(spoil func(*hello, txn.MemberStore)) func(*testing.T) error {
	return func(t *testing.T) error {
		c := newCluster(t, 3, nobody)
		c.commit(txn.NewID(time.Now()))
		c.storesKnown(3)
		old := c.leader().config.Node
		c.kill(old) // the next leader notes at once what the stores hold
		c.commit(txn.NewID(time.Now()))
		c.start(old)
		n := c.leader()
		id := 6 - old - n.config.Node
		if n.config.Node == old { // it was fast
			id = old%3 + 1
		}
		var known txn.MemberStore
		require.Eventually(t, func() bool {
			for _, m := range *n.peers.known.Load() {
				if m.Node == uint64(id) {
					known = m
				}
			}
			return toZxid(known.Holds) != zab.Zxid{}
		}, 40*time.Second, 20*time.Millisecond)
		c.kill(id)
		h := asPeer(n, id)
		h.To = n.config.Node
		spoil(&h, known)
		_, kind, why := speak(t, c.members[n.config.Node-1].Peer, h)
		require.Equal(t, frameRefused, kind)
		return errors.New(why)
	}
}

func commitNew(l *lone) { l.commit(l.newID()) }

// varying is what differs between two runs.
var varying = []struct {
	of *regexp.Regexp
	to string
}{
	{regexp.MustCompile(`\b[0-7][0-9A-HJKMNP-TV-Z]{25}\b`), "GID"},
	{regexp.MustCompile(`127\.0\.0\.1:[0-9]{4,5}`), "ADDR"},
	{regexp.MustCompile(`cluster [0-9a-f]{8}\b`), "cluster CLUSTER"},
	{regexp.MustCompile(`\b[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]+Z`), "TIME"},
	{regexp.MustCompile(`\b(zxid|seen|since|at|to) [0-9]+\.[0-9]+\b`), "$1 ZXID"},
	{regexp.MustCompile(`are [0-9 a-z,()]+ since`), "are LIST since"},
}

// aNode is for texts of real clusters, of which any node may be the leader.
var aNode = regexp.MustCompile(`\b(node|replace|add) [0-9]+`)

func TestWhatErrorsSay(t *testing.T) {
	for _, m := range messages {
		t.Run(m.name, func(t *testing.T) {
			err := m.meet(t)
			require.Error(t, err)
			said := err.Error()
			for _, v := range varying {
				said = v.of.ReplaceAllString(said, v.to)
			}
			if strings.Contains(m.says, " N ") {
				said = aNode.ReplaceAllString(said, "$1 N")
			}
			require.Equal(t, m.says, said)
			if notLeader, ok := m.is.(*api.NotLeaderError); ok {
				require.ErrorAs(t, err, &notLeader)
			} else if m.is != nil {
				require.ErrorIs(t, err, m.is)
			}
		})
	}
}

// unmet are texts that only a race of some kind shows, and why there is no row for them.
var unmet = []string{
	"%v: ask again in a moment",                             // the log refuses a change that its leader took for possible
	"too few voters follow this leader for a decision:",     // a leader that has not noticed yet that it lost its quorum
	"node %d let go of leadership, and nobody has taken it", // the next leader dies at the moment of the handover
	"node %d leads now, not node %d:",                       // another one was faster
	"%v was committed in the meantime:",                     // its client was faster than the operator
}

// formats returns the formats of all errors that requests, Open and handshakes end with.
func formats(t *testing.T) (found []string) {
	files, err := os.ReadDir(".")
	require.NoError(t, err)
	everything := []string{"refusedf", "unavailablef"}
	within := []string{"acceptable", "Open", "makeWorkers", "makeCore", "checkList", "check", "occupied", "onAddAsked", "foreignStore", "decided", "notFound", "tooOld"}
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".go") || strings.HasSuffix(f.Name(), "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), f.Name(), nil, parser.SkipObjectResolution)
		require.NoError(t, err)
		for _, d := range file.Decls {
			all := false
			if fn, ok := d.(*ast.FuncDecl); ok {
				all = slices.Contains(within, fn.Name.Name)
			}
			ast.Inspect(d, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.CallExpr:
					name := ""
					switch f := n.Fun.(type) {
					case *ast.Ident:
						name = f.Name
					case *ast.SelectorExpr:
						name = f.Sel.Name
					}
					if slices.Contains(everything, name) || all && (name == "Errorf" || name == "Sprintf") {
						found = append(found, literals(n.Args[0]))
					}
				case *ast.CompositeLit: // a requestError
					if name, ok := n.Type.(*ast.Ident); ok && name.Name == "requestError" && len(n.Elts) == 2 {
						text := n.Elts[1]
						if call, ok := text.(*ast.CallExpr); ok {
							text = call.Args[0]
						}
						found = append(found, literals(text))
					}
				}
				return true
			})
		}
	}
	return found
}

// literals joins the parts of a text that are written there.
func literals(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.BasicLit:
		text, _ := strconv.Unquote(e.Value) // of a number it is an error, and empty
		return text
	case *ast.BinaryExpr:
		return literals(e.X) + literals(e.Y)
	}
	return ""
}

var aVerb = regexp.MustCompile(`%[-+#0-9.]*[a-z]`)

// Who writes another error finds out here that its text has to be looked at by everybody.
func TestEveryErrorHasARow(t *testing.T) {
	found := formats(t)
	require.Greater(t, len(found), 50, "the errors were not found")
	for _, format := range found {
		words := aVerb.Split(format, -1)
		if strings.TrimSpace(strings.Join(words, "")) == "" {
			continue // it only passes on a text
		}
		for i := range words {
			words[i] = regexp.QuoteMeta(words[i])
		}
		like := regexp.MustCompile("(?s)" + strings.Join(words, ".*"))
		row := slices.ContainsFunc(messages, func(m message) bool { return like.MatchString(m.says) }) ||
			slices.ContainsFunc(unmet, func(u string) bool { return strings.Contains(format, u) })
		if !row {
			t.Errorf("no row of messages, in texts_test.go, shows this error: %q: add how one meets it, and all that it says then, with a true next step", format)
		}
	}
}
