// SPDX-License-Identifier: Apache-2.0

package commit

import (
	"errors"
	"math"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

// asked is what a lone leader answers.
func asked(event func(l *lone, request uint64) replica.Event, before ...func(*lone)) func(*testing.T) error {
	return func(t *testing.T) error {
		l := newLone(t, "orders", "billing")
		for _, do := range before {
			do(l)
		}
		return l.ask(func(request uint64) replica.Event { return event(l, request) }).Err
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
		require.Equal(t, txn.Abort, r.Txn.Decision)
		return errors.New(r.Txn.Reason)
	}
}

// levelled lets the log say who the members are and where, and switches leases on.
func levelled(l *lone) {
	atLevel(l, txn.Newest)
	require.NotNil(l.t, l.table.Members())
}

// atLevel lets the only member know no more than a level has.
func atLevel(l *lone, level txn.FeatureLevel) {
	for range 3 { // a level, who they are, where they are
		l.step(replica.MembersSeen{Speakers: []replica.Speaker{{Node: 1, Store: txn.StoreID{1}, Level: level,
			Peer: "10.0.0.1:7421", API: "10.0.0.1:7420"}}})
		for range 10 {
			l.tick(50 * time.Millisecond)
		}
	}
	require.Equal(l.t, level, l.table.Level())
}

// afterVotes asks for the vote of an agent, otherwise than in the epoch in which it has voted before.
func afterVotes(spoil func(*txn.Agent)) func(*testing.T) error {
	return func(t *testing.T) error {
		l := newLone(t, "orders", "billing")
		levelled(l)
		l.core.config.Hosted = func(string) bool { return true }
		request := func() txn.CommitRequest {
			r := threePhases(l.newID().WithClass(txn.ThreePhase), "orders", "billing")
			for i := range r.Agents {
				r.Agents[i].Epoch = 3
			}
			return r
		}
		opens(l, request())
		opens(l, request()) // in the same lives
		r := request()
		spoil(&r.Agents[0])
		reply := l.ask(func(n uint64) replica.Event { return CommitAsked{Request: n, CommitRequest: r} })
		require.Equal(t, txn.Abort, reply.Txn.Decision)
		require.Len(t, l.table.Agents(), 2)
		return errors.New(reply.Txn.Reason)
	}
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

func adding(id zab.NodeID, observer bool) func(*lone, uint64) replica.Event {
	n := strconv.Itoa(int(id))
	return func(_ *lone, request uint64) replica.Event {
		return replica.AddAsked{Request: request, Key: "add " + n, Who: "ann", Why: "more",
			Member: replica.Member{ID: id, Observer: observer, Peer: "10.0.0." + n + ":7421",
				API: "10.0.0." + n + ":7420"}}
	}
}

func removing(id zab.NodeID) func(*lone, uint64) replica.Event {
	return func(_ *lone, request uint64) replica.Event {
		return replica.RemoveAsked{Request: request, Node: id, Key: "remove", Who: "ann", Why: "less"}
	}
}

var thatID = txn.NewID(time.UnixMilli(1_800_000_000_000))

func fixed(*lone) txn.ID { return thatID }

// lastID is decided by its last resource, billing.
var lastID = thatID.WithClass(txn.LastResource).WithLast("billing")

func resolvingLast(id txn.ID, last string) func(*lone, uint64) replica.Event {
	return func(_ *lone, request uint64) replica.Event {
		return ResolveAsked{Request: request,
			Resolution: txn.Resolution{ID: id, Decision: txn.Abort, Who: "ann", Why: "why", Last: last, Force: true}}
	}
}

// lists tells that a resource lists a branch of that transaction.
func lists(l *lone) {
	l.step(Listed{Resource: "orders", Listing: []adapters.Prepared{prepared(l.xid(thatID, 0))}})
}

func listsNothing(l *lone) {
	for _, name := range l.machine.Resources {
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

// ofThree makes it one of three, of whom nobody leads.
func ofThree(l *lone) {
	config := l.config
	config.Members, config.Boot = []replica.Member{{ID: 1}, {ID: 2}, {ID: 3}}, 9
	l.table = txn.NewTable(txn.Meta{}, nil, l)
	l.core = New(l.machine, l.table)
	log, err := replica.New(config, &loneDisk{}, l.core)
	require.NoError(l.t, err)
	l.log = log
}

// differs lets other voters of three tell of another state than this node has.
func differs(nodes ...zab.NodeID) func(*lone) {
	return func(l *lone) {
		for _, id := range nodes {
			l.step(replica.StateSeen{Node: id, At: l.log.Zxid(), Digest: txn.Digest{0xba}})
		}
	}
}

func committing(l *lone, request uint64) replica.Event {
	return CommitAsked{Request: request, CommitRequest: txn.CommitRequest{ID: thatID}}
}

func resolving(d txn.Decision) func(*lone, uint64) replica.Event {
	return func(_ *lone, request uint64) replica.Event {
		return ResolveAsked{Request: request,
			Resolution: txn.Resolution{ID: thatID, Decision: d, Who: "ann", Why: "why"}}
	}
}

// resolvingListed wants to commit what changed some resources, and has branches at others.
func resolvingListed(unlisted error, changed []string, prepared ...string) func(*lone, uint64) replica.Event {
	return func(_ *lone, request uint64) replica.Event {
		e := ResolveAsked{Request: request, Census: Census{Unlisted: unlisted},
			Resolution: txn.Resolution{ID: thatID, Decision: txn.Commit, Who: "ann", Why: "why", Resources: changed}}
		for no, name := range prepared {
			e.Prepared = append(e.Prepared, txn.Branch{No: txn.BranchNo(no), Resource: name})
		}
		return e
	}
}

// ending wants to end the branch of that transaction in its database.
func ending(l *lone, request uint64) replica.Event {
	return EndAsked{Request: request, Resource: "orders", Prepared: prepared(l.xid(thatID, 0)), Decision: txn.Abort,
		Who: "ann", Why: "why"}
}

// saying has the prepared branches say which there are.
func saying(e ResolveAsked, siblings ...[]txn.BranchNo) ResolveAsked {
	e.Siblings, e.Saying = siblings, e.Prepared[:len(siblings)]
	return e
}

func settling(no txn.BranchNo) func(*lone, uint64) replica.Event {
	return func(_ *lone, request uint64) replica.Event { return settle(thatID, no)(request) }
}

func forgetting(_ *lone, request uint64) replica.Event {
	return ForgetAsked{Request: request, ID: thatID, Who: "ann", Why: "why"}
}

// setBack has the log say that orders was set back.
func setBack(l *lone) {
	levelled(l)
	l.core.core.Propose(txn.HighWaterRecord{Resource: "orders", HighWater: txn.HighWater{At: l.table.Zxid()}})
	l.tick(50 * time.Millisecond)
	l.step(Behind{Resource: "orders"})
}

func commitNew(l *lone) { l.commit(l.newID()) }

// answer is an error that whoever asks can meet: how to get it, and what it says, with GID,
// CLUSTER, ZXID and TIME for what differs.
type answer struct {
	name string
	meet func(*testing.T) error
	says string
	is   error // nil: of no kind
}

var answers = []answer{
	{name: "a read that no leader confirms", is: txn.ErrUnavailable,
		meet: asked(func(_ *lone, request uint64) replica.Event {
			return OutcomeAsked{Request: request, Inquiry: txn.Inquiry{ID: thatID}}
		}, ofThree), says: `this node cannot tell whether it knows all decisions, since no leader has confirmed ` +
			`it: ask ` +
			`another one, or run "concord status"`},
	{name: "nobody leads", meet: asked(committing, ofThree), is: &txn.NotLeaderError{},
		says: `this node is not the leader and does not know who is: ask again, or run "concord status"`},
	{name: "more wait than may", is: txn.ErrBusy, meet: asked(func(_ *lone, request uint64) replica.Event {
		return replica.SeenAsked{Request: request, Zxid: zab.Zxid{Epoch: math.MaxUint32}}
	}, func(l *lone) {
		for range 4096 { // as many as may wait
			l.step(replica.SeenAsked{Zxid: zab.Zxid{Epoch: math.MaxUint32}})
		}
	}), says: "the node is busy: ask again in a moment"},
	{name: "a voter differs, and nobody knows with whom the majority agrees", is: txn.ErrUnavailable,
		meet: asked(committing, ofThree, differs(2)),
		says: "the state of this node, 1, differs at ZXID from that of node 2; it answers nothing until it knows " +
			"with whom the majority agrees: bring the other nodes up"},
	{name: "all other voters differ", is: txn.ErrUnavailable, meet: asked(committing, ofThree, differs(2, 3)),
		says: `the state of this node, 1, differs at ZXID from that of node 2, node 3, so that no majority can ` +
			`agree with it. From now on it takes part in nothing and answers nothing. Stop it, move its directory ` +
			`away, run "concord member replace 1" on the others, and start it with an empty one; if all nodes say ` +
			`this, put back a backup of one of them`},

	{name: "a class that is not switched on", is: txn.ErrRefused,
		meet: asked(func(_ *lone, request uint64) replica.Event {
			return CommitAsked{Request: request, CommitRequest: txn.CommitRequest{ID: thatID.WithClass(txn.ThreePhase)}}
		}), says: "transaction GID is of the class three_phase, which is not switched on in this cluster, so it can " +
			"neither decide it nor tell its outcome: look into the databases"},
	{name: "three phases without an agent", meet: func(t *testing.T) error {
		l := newLone(t, "orders", "billing")
		levelled(l)
		r := l.ask(func(request uint64) replica.Event {
			return CommitAsked{Request: request, CommitRequest: threePhases(thatID.WithClass(txn.ThreePhase), "orders")}
		})
		require.Equal(t, txn.Abort, r.Txn.Decision)
		return errors.New(r.Txn.Reason)
	}, says: `branch 0: resource "orders" is not held by an agent, and only agents can decide in three phases: give ` +
		`it "driver: agent", or use two_phase`},
	{name: "an agent whose journal was put back", meet: afterVotes(func(a *txn.Agent) { a.Epoch = 2 }),
		says: `agent "a" voted in epoch 3, but its vote is asked for in epoch 2: if it has restarted since, ` +
			`begin a new transaction; if its journal was restored from a copy, give it an empty "data_dir" and ` +
			`another "name"`},
	{name: "an agent with another journal", meet: afterVotes(func(a *txn.Agent) { a.Journal = txn.JournalID{0xee} }),
		says: `agent "a" voted with the journal 61000000000000000000000000000000, and now has ` +
			`ee000000000000000000000000000000: if it has lost that one, or two agents have this name, give this ` +
			`one another "name"`},
	{name: "an operator's commit of three phases", is: txn.ErrRefused,
		meet: asked(func(_ *lone, request uint64) replica.Event {
			return ResolveAsked{Request: request,
				Resolution: txn.Resolution{ID: thatID.WithClass(txn.ThreePhase), Decision: txn.Commit, Who: "ann",
					Why: "why"}}
		}, levelled), says: `GID is decided in three phases: only its members can commit it, and they continue by ` +
			`themselves when enough of them are connected; see "concord tx get GID" for who is missing`},
	{name: "members that do not answer", is: txn.ErrUnavailable, meet: func(t *testing.T) error {
		l := newLone(t, "orders", "billing")
		levelled(l)
		l.core.config.Hosted = func(string) bool { return true }
		opens(l, threePhases(thatID.WithClass(txn.ThreePhase), "orders", "billing"))
		for range 10 {
			l.tick(time.Second)
		}
		return l.replies[l.request].Err
	}, says: `GID is open: its members decide it, and a, b did not answer: it continues when they do; see "concord ` +
		`tx get GID"`},
	{name: "commit what a last resource decides", is: txn.ErrRefused,
		meet: asked(func(_ *lone, request uint64) replica.Event {
			return CommitAsked{Request: request, CommitRequest: txn.CommitRequest{ID: lastID}}
		}, levelled), says: "GID is decided by its last resource, and no request commits it: ask for its outcome"},
	{name: "a last resource that nobody names", is: txn.ErrRefused, meet: asked(resolvingLast(lastID, ""), levelled),
		says: `GID is decided in its last resource, and nothing here says which that is: name it (the application ` +
			`knows it), with --last-resource for "concord tx resolve"`},
	{name: "another last resource", is: txn.ErrRefused, meet: asked(resolvingLast(lastID, "orders"), levelled,
		func(l *lone) {
			b := prepared(l.xid(lastID, 0))
			b.Last = txn.TagOf("billing")
			l.step(Listed{Resource: "orders", Listing: []adapters.Prepared{b}})
		}), says: `the last resource of GID is billing, as its prepared branches say, and not "orders"`},
	{name: "a last resource that is mistyped", is: txn.ErrRefused,
		meet: asked(resolvingLast(lastID, "biling"), levelled),
		says: `the gid GID is not that of a transaction whose last resource is "biling": correct the name`},
	{name: "a last resource that is not configured", is: txn.ErrRefused,
		meet: asked(resolvingLast(lastID.WithLast("stock"), "stock"), levelled),
		says: `GID is decided in its last resource "stock", which is not in "resources" of the nodes: add it on all ` +
			`of them`},
	{name: "a last resource that cannot be asked", is: txn.ErrUnavailable, meet: func(t *testing.T) error {
		l := newLone(t, "orders", "billing")
		levelled(l)
		l.request++
		l.step(resolvingLast(lastID, "billing")(l, l.request))
		l.tick(time.Second)
		l.step(LastSettled{LastTask: LastTask{ID: lastID, Resource: "billing"}, Err: errors.New("connection refused")})
		return l.replies[l.request].Err
	}, says: `GID is in doubt until its last resource billing can be asked (connection refused): see "concord ` +
		`resource check billing"`},
	{name: "a transaction of another cluster", is: txn.ErrInvalid,
		meet: asked(func(_ *lone, request uint64) replica.Event {
			return CommitAsked{Request: request, CommitRequest: txn.CommitRequest{ID: thatID, Cluster: 8}}
		}), says: "the transaction belongs to cluster CLUSTER, but this is cluster CLUSTER: connect to the right " +
			"nodes; if cluster CLUSTER was set up anew, restart the application"},
	{name: "a transaction from the future", is: txn.ErrInvalid,
		meet: asked(func(l *lone, request uint64) replica.Event {
			return CommitAsked{Request: request,
				CommitRequest: txn.CommitRequest{ID: txn.NewID(l.now.AddDate(1, 0, 0))}}
		}), says: "transaction GID is dated TIME, but here it is TIME: unless the gid is mistyped, correct the " +
			"clock of whoever began it, or those of the nodes"},
	{name: "a transaction that is too old", is: txn.ErrTooOld, meet: asked(func(l *lone, request uint64) replica.Event {
		return CommitAsked{Request: request, CommitRequest: txn.CommitRequest{ID: txn.NewID(l.now.AddDate(-1, 0, 0))}}
	}, func(l *lone) {
		for range 5 {
			commitNew(l)
			l.tick(8 * 24 * time.Hour)
			l.tick(time.Second)
		}
	}), says: "transaction GID is older than what the cluster remembers: look into the databases; if it is new, " +
		"correct the clock of whoever began it"},
	{name: "a branch of a resource that nobody knows", meet: aborted(fixed, []txn.Branch{{Resource: "stock"}}),
		says: `branch 0: the coordinator has no resource "stock": add it to "resources" on all nodes`},
	{name: "a branch of a resource that is not fit",
		meet: aborted(fixed, []txn.Branch{{Resource: "orders"}}, func(l *lone) {
			l.step(Fitness{Resource: "orders",
				Why: `it is the same database as resource billing, which is listed before it: remove one of them ` +
					`from "resources", or correct its dsn`})
		}), says: `branch 0: resource "orders": it is the same database as resource billing, which is listed ` +
			`before it: ` +
			`remove one of them from "resources", or correct its dsn`},
	{name: "a branch that nobody could finish",
		meet: aborted(fixed, []txn.Branch{{Resource: "orders", Evidence: "poison"}}, func(l *lone) {
			l.core.config.Validate = func(txn.Branch) error {
				return errors.New("evidence: it is not in a form that " +
					"this version writes")
			}
		}), says: `branch 0: resource "orders": evidence: it is not in a form that this version writes`},
	{name: "two branches with one number",
		meet: aborted(fixed, []txn.Branch{{Resource: "orders"}, {Resource: "billing"}}),
		says: "two branches have the number 0: give each its own"},
	{name: "too many branches", meet: aborted(fixed, make([]txn.Branch, txn.MaxBranches+1)),
		says: "257 branches: a transaction has at most 256: split it"},
	{name: "a lease that has ended", meet: aborted(func(l *lone) txn.ID { return thatID.WithLease(1) }, nil, levelled,
		func(l *lone) {
			require.NoError(l.t, l.ask(func(request uint64) replica.Event { return LeaseAsked{Request: request} }).Err)
			require.NoError(l.t, l.ask(func(request uint64) replica.Event {
				return LeaseEndAsked{Request: request,
					Lease: 1}
			}).Err)
		}), says: "lease 1 of the client has ended: it was closed, or the cluster had not heard from it for too " +
		"long"},

	{name: "resolve what is decided otherwise", is: txn.ErrDecided, meet: asked(resolving(txn.Abort), commits),
		says: `the decision of GID stands: commit, at zxid ZXID; see "concord tx get"`},
	{name: "resolve what nobody knows", is: txn.ErrNotFound, meet: asked(resolving(txn.Commit), listsNothing),
		says: `transaction GID is not known: no decision, and no resource lists a prepared branch of it; compare ` +
			`the gid with "concord tx ls"`},
	{name: "abort what nobody knows", is: txn.ErrNotFound, meet: asked(resolving(txn.Abort), listsNothing),
		says: `transaction GID is not known: no decision, and no resource lists a prepared branch of it; compare ` +
			`the gid with "concord tx ls"`},
	{name: "abort what nobody knows while a resource cannot be listed", is: txn.ErrUnavailable,
		meet: asked(func(l *lone, request uint64) replica.Event {
			e := resolving(txn.Abort)(l, request).(ResolveAsked)
			e.Unlisted = errors.New("not listed: orders: connection refused")
			return e
		}, listsNothing),
		says: `not listed: orders: connection refused, and nobody else has heard of GID: compare the gid with ` +
			`"concord tx ls", and try again when all databases can be asked; or abort it unseen, with --force`},
	{name: "resolve while a resource cannot be listed", is: txn.ErrRefused,
		meet: asked(resolvingListed(errors.New("not listed: orders: connection refused"), nil)),
		says: "not listed: orders: connection refused, so it is not known whether GID has a branch there that would " +
			"have to commit too: wait until all are up, or abort"},
	{name: "resolve what may be half", is: txn.ErrRefused, meet: asked(resolvingListed(nil, nil, "orders")),
		says: "GID has prepared branches at orders, and nothing there says whether it had more: find out which " +
			"databases the application changes in such a transaction, " +
			"and repeat with all of them, as in --resources orders; if one has no branch, abort"},
	{name: "resolve what is half", is: txn.ErrRefused,
		meet: asked(resolvingListed(nil, []string{"orders", "billing"}, "orders")),
		says: "GID has no prepared branch at billing: it never had one, or that was rolled back, or somebody ended " +
			"it by hand, so a commit might be half of one: " +
			"look into billing, and abort; only if the transaction changed nothing there, leave billing out of " +
			"--resources"},
	{name: "resolve what says itself that it is half", is: txn.ErrRefused,
		meet: asked(func(l *lone, request uint64) replica.Event {
			return saying(resolvingListed(nil, []string{"orders"}, "orders")(l, request).(ResolveAsked),
				[]txn.BranchNo{0, 1})
		}), says: "GID has the branches 0, 1, as branch 0 at orders says, but branch 1 is neither prepared nor " +
			"committed anywhere: its client died before it was prepared, or somebody rolled it back, so a commit " +
			"would be half of one: abort"},
	{name: "resolve what contradicts itself", is: txn.ErrRefused,
		meet: asked(func(l *lone, request uint64) replica.Event {
			return saying(resolvingListed(nil, nil, "orders", "billing")(l, request).(ResolveAsked),
				[]txn.BranchNo{0, 1},
				[]txn.BranchNo{1})
		}), says: "branch 0 of GID at orders says that the branches are 0, 1, but branch 1 at billing says 1: look " +
			"into both databases, and abort"},
	{name: "resolve more than was meant", is: txn.ErrRefused,
		meet: asked(resolvingListed(nil, []string{"orders"}, "orders", "billing")),
		says: "GID has a prepared branch at billing too, which --resources does not name: unless that is a mistake, " +
			"its transaction is not the one that you mean"},
	{name: "resolve what has one number twice", is: txn.ErrRefused,
		meet: asked(func(l *lone, request uint64) replica.Event {
			e := resolvingListed(nil, []string{"orders", "billing"}, "orders", "billing")(l, request).(ResolveAsked)
			e.Prepared[1].No = 0
			return e
		}), says: "GID has a prepared branch 0 at billing and another at orders, and a record can name only one of " +
			"them: look into both databases, and abort"},
	{name: "resolve at what is no resource", is: txn.ErrRefused,
		meet: asked(resolvingListed(nil, []string{"warehouse"}, "orders")),
		says: `the coordinator has no resource "warehouse": see "concord resource ls"`},
	{name: "resolve what has vanished in part", is: txn.ErrRefused,
		meet: asked(resolvingListed(nil, []string{"billing"}, "billing"), lists),
		says: "GID had a prepared branch at orders when it was listed, and has none now: somebody ended it, so a " +
			"commit might be half of one: look into orders, and abort unless it was committed there"},
	{name: "forget what nobody knows", is: txn.ErrNotFound, meet: asked(forgetting),
		says: `the log has no decision about GID, so it has no heuristic outcome to forget: see "concord tx ls ` +
			`--state heuristic"`},
	{name: "accept what is not quarantined", is: txn.ErrRefused, meet: asked(func(_ *lone,
		request uint64) replica.Event {
		return AcceptAsked{Request: request, Resource: "orders", Who: "ann", Why: "why"}
	}), says: `resource "orders" is not quarantined, so there is nothing to accept: see "concord resource ls"`},
	{name: "accept what is not there", is: txn.ErrNotFound, meet: asked(func(_ *lone, request uint64) replica.Event {
		return AcceptAsked{Request: request, Resource: "stock", Who: "ann", Why: "why"}
	}), says: `there is no resource "stock": see "concord resource ls"`},
	{name: "commit what is prepared in a database that was set back", is: txn.ErrRefused,
		meet: asked(resolvingListed(nil, []string{"orders"}, "orders"), setBack),
		says: `resource "orders" is quarantined: its database is behind what the log remembers of it; see "concord ` +
			`resource report orders", then "concord resource accept orders --reason TEXT"; what is prepared there ` +
			`may be a branch that had ended, so decide GID after that`},
	{name: "forget what is not heuristic", is: txn.ErrRefused, meet: asked(forgetting, commits),
		says: `GID has no heuristic outcome to forget: see "concord tx get"`},
	{name: "settle what is not decided", is: txn.ErrRefused, meet: asked(settling(0), lists),
		says: `GID has no decision: decide it first, with "concord tx resolve"`},
	{name: "settle what was given up", is: txn.ErrRefused, meet: asked(settling(0), commits, givesUp),
		says: `branch 0 of GID is on record already: see "concord tx get"`},
	{name: "settle a branch that is not there", is: txn.ErrNotFound, meet: asked(settling(7), commits),
		says: `GID has no branch 7: see "concord tx get"`},
	{name: "settle a branch that is finished", is: txn.ErrRefused, meet: asked(settling(0), commits, endsBranch),
		says: "branch 0 of GID is finished: there is nothing to give up"},

	{name: "end a branch that has a decision", is: txn.ErrRefused, meet: asked(ending, commits),
		says: `branch 0 of GID at orders has a decision, and the cluster ends it by that (the log says commit): run ` +
			`"concord recover --apply GID"`},
	{name: "end a branch that can be decided", is: txn.ErrRefused, meet: asked(ending, lists),
		says: `branch 0 of GID at orders can still be decided with its whole transaction (no decision, may be alive: ` +
			`younger than 1m0s): run "concord tx resolve GID --commit" or "--abort"`},

	{name: "a lease that is not switched on", is: txn.ErrRefused,
		meet: asked(func(_ *lone, request uint64) replica.Event { return LeaseAsked{Request: request} }),
		says: `leases are not switched on yet: some member of the cluster is away, or runs a release that does not ` +
			`know them; see "concord status"`},
	{name: "more leases than may be", is: txn.ErrRefused, meet: func(t *testing.T) error {
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
	{name: "members that the log does not know", is: txn.ErrRefused, meet: asked(removing(2)),
		says: "the log does not say yet who the members are: it will when all of them run a release that knows " +
			"feature level 3 and have been up together; " +
			`see "concord status"`},
	{name: "add who is there", is: txn.ErrRefused, meet: asked(func(_ *lone, request uint64) replica.Event {
		return replica.AddAsked{Request: request, Key: "k",
			Member: replica.Member{ID: 1, Peer: "10.0.0.9:1", API: "10.0.0.9:2"}}
	}, levelled), says: `node 1 is a member already (voter): see "concord member ls"`},
	{name: "add at an address that is taken", is: txn.ErrRefused,
		meet: asked(func(_ *lone, request uint64) replica.Event {
			return replica.AddAsked{Request: request, Key: "k",
				Member: replica.Member{ID: 2, Peer: "10.0.0.1:7421", API: "10.0.0.9:2"}}
		}, levelled), says: "the address 10.0.0.1:7421 is that of node 1: give the new node its own"},
	{name: "add while another learns", is: txn.ErrRefused, meet: asked(adding(3, false), levelled, with(2, false)),
		says: `node 2 is being added and has not caught up yet: wait for it, or remove it with "concord member ` +
			`remove 2"`},
	{name: "add more than may be", is: txn.ErrRefused, meet: asked(adding(99, true), levelled, func(l *lone) {
		for id := 2; id <= txn.MaxMembers; id++ {
			with(zab.NodeID(id), true)(l)
		}
	}), says: "a cluster has at most 32 members: remove one first"},
	{name: "remove who is not there", is: txn.ErrNotFound, meet: asked(removing(9), levelled),
		says: `there is no member 9: see "concord member ls"`},
	{name: "remove while another learns", is: txn.ErrRefused, meet: asked(removing(1), levelled, with(2, false)),
		says: `node 2 is being added and has not caught up yet: wait for it, or remove it first, with "concord ` +
			`member remove 2"`},
	{name: "remove the last voter", is: txn.ErrRefused, meet: asked(removing(1), levelled),
		says: `node 1 is the last voter, and nobody would be left to decide: add another one first, with "concord ` +
			`member add"`},
	{name: "lead by an observer", is: txn.ErrRefused,
		meet: asked(func(_ *lone, request uint64) replica.Event { return replica.LeadAsked{Request: request, Node: 2} },
			levelled, with(2, true)),
		says: `node 2 is not a voter (observer) and cannot lead: name one that "concord member ls" shows as a voter`},
	{name: "replace the disk of the leader", is: txn.ErrRefused,
		meet: asked(func(_ *lone, request uint64) replica.Event {
			return replica.ReplaceAsked{Request: request,
				Node: 1}
		}),
		says: "node 1 leads, its disk is not lost: name the node that lost it"},
}

// differing is what differs between two runs.
var differing = []struct {
	of *regexp.Regexp
	to string
}{
	{regexp.MustCompile(`\b[0-7][0-9A-HJKMNP-TV-Z]{25}\b`), "GID"},
	{regexp.MustCompile(`127\.0\.0\.1:[0-9]{4,5}`), "ADDR"},
	{regexp.MustCompile(`cluster [0-9a-f]{8}\b`), "cluster CLUSTER"},
	{regexp.MustCompile(`\b[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]+Z`), "TIME"},
	{regexp.MustCompile(`\b(zxid|seen|since|at|to) [0-9]+\.[0-9]+\b`), "$1 ZXID"},
	{regexp.MustCompile(`(are|have been) [0-9 a-z,()]+ since`), "$1 LIST since"},
}

func TestWhatAnswersSay(t *testing.T) {
	for _, m := range answers {
		t.Run(m.name, func(t *testing.T) {
			err := m.meet(t)
			require.Error(t, err)
			said := err.Error()
			for _, v := range differing {
				said = v.of.ReplaceAllString(said, v.to)
			}
			require.Equal(t, m.says, said)
			if notLeader, ok := m.is.(*txn.NotLeaderError); ok {
				require.ErrorAs(t, err, &notLeader)
			} else if m.is != nil {
				require.ErrorIs(t, err, m.is)
			}
		})
	}
}
