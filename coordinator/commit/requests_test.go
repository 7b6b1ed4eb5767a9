// SPDX-License-Identifier: Apache-2.0

package commit

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/txn"
)

// Every event with a Request can be refused by a node that has stopped: else whoever asked would
// wait for an answer that never comes.
func TestEveryEventWithARequestIsAsking(t *testing.T) {
	events, asking, asks := map[string]bool{}, map[string]bool{}, map[string]bool{}
	look := func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			if n.Recv != nil {
				if of, ok := n.Recv.List[0].Type.(*ast.Ident); ok {
					events[of.Name] = events[of.Name] || n.Name.Name == "IsEvent"
					asking[of.Name] = asking[of.Name] || n.Name.Name == "RequestNo"
				}
			}
		case *ast.TypeSpec:
			if s, ok := n.Type.(*ast.StructType); ok {
				for _, f := range s.Fields.List {
					for _, name := range f.Names {
						asks[n.Name.Name] = asks[n.Name.Name] || name.Name == "Request"
					}
				}
			}
		}
		return true
	}
	names, err := filepath.Glob("*.go")
	require.NoError(t, err)
	ofLog, err := filepath.Glob("../replica/*.go")
	require.NoError(t, err)
	names = append(names, ofLog...)
	for _, name := range names {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		require.NoError(t, err)
		ast.Inspect(file, look)
	}
	found := 0
	for name := range events {
		if events[name] && asks[name] {
			found++
			require.True(t, asking[name], "%s has a Request: give it the method RequestNo", name)
		}
	}
	require.Greater(t, found, 10)
}

// A request that was on its way while the cluster was being formed is judged by the loop: a
// branch is named with its cluster, so another one could never finish it.
func TestTransactionOfAnotherClusterIsNotDecided(t *testing.T) {
	l := newLone(t, "orders")
	id, other := txn.NewID(l.now), l.table.Cluster()+1
	written := len(l.disk.entries)
	for _, r := range []Reply{
		l.ask(func(request uint64) replica.Event {
			return CommitAsked{Request: request,
				CommitRequest: txn.CommitRequest{ID: id, Cluster: other, Branches: []txn.Branch{{Resource: "orders"}}}}
		}),
		l.ask(func(request uint64) replica.Event {
			return OutcomeAsked{Request: request, Inquiry: txn.Inquiry{ID: id, Cluster: other, Several: true}}
		}),
	} {
		require.ErrorIs(t, r.Err, txn.ErrInvalid)
		require.ErrorContains(t, r.Err, other.String())
	}
	require.Len(t, l.disk.entries, written, "nothing was written")
	require.Equal(t, txn.Commit, l.commit(id).Txn.Decision, "and its own may have that gid")
}

func TestALeaderThatWasStoppedDoesNotTakeThatForTheSilenceOfItsClients(t *testing.T) {
	l := newLone(t)
	l.machine.Rules.Lease = 6 * time.Second
	l.restart()
	levelled(l)
	for n := range txn.Lease(2) {
		require.Equal(t, n+1, l.ask(func(request uint64) replica.Event { return LeaseAsked{Request: request} }).Lease)
	}
	for range 5 { // as many pauses as one likes, and clocks that are set
		l.tick(50 * time.Millisecond)
		l.tick(time.Hour)
		l.tick(-2 * time.Hour)
		l.tick(900 * time.Millisecond)
	}
	require.Equal(t, []txn.Lease{1, 2}, l.table.Leases().Active)
	for range 200 {
		l.tick(50 * time.Millisecond)
		l.step(LeasesHeard{Leases: []txn.Lease{2}})
	}
	require.Equal(t, []txn.Lease{2}, l.table.Leases().Active)
}

// A client that may not use a resource reports nothing about its branches: neither that they are
// finished, nor that they did not end as decided.
func TestReportsOfStrangersCountForNothing(t *testing.T) {
	l := newLone(t, "orders", "billing")
	id := l.newID()
	l.commit(id, txn.Branch{No: 1, Resource: "orders"}, txn.Branch{No: 2, Resource: "billing"})
	report := func(f txn.Finish, r Reporter) {
		l.step(Finished{XID: txn.XID{Cluster: l.core.table.Cluster(), ID: id, Branch: 1}, Finish: f, By: txn.FromClient,
			Who: "client", Reporter: r})
	}
	stranger := Reporter{Limited: true, Resources: []string{"billing"}}
	report(txn.Contradicted, stranger)
	report(txn.Done, stranger)
	report(txn.Done, Reporter{Limited: true})
	require.True(t, l.core.inHand(id).branch(1).open, "it is still to be finished")
	report(txn.Done, Reporter{Limited: true, Resources: []string{"orders"}})
	require.False(t, l.core.inHand(id).branch(1).open)
	x, ok := l.core.table.Get(id)
	require.True(t, ok)
	require.Empty(t, x.Heuristics)
}

func (l *lone) commitKeyed(key, result string) (txn.ID, Reply) {
	l.t.Helper()
	id := l.newID().WithClass(txn.Recorded)
	return id, l.ask(func(request uint64) replica.Event {
		return CommitAsked{Request: request, CommitRequest: txn.CommitRequest{ID: id, Key: key, Result: []byte(result),
			Branches: []txn.Branch{{Resource: "orders"}, {No: 1, Resource: "billing"}}}}
	})
}

func (l *lone) keyUse(key string) Reply {
	l.t.Helper()
	return l.ask(func(request uint64) replica.Event { return KeyAsked{Request: request, Key: key} })
}

func TestAKeyIsUsedOnce(t *testing.T) {
	l := newLone(t, "orders", "billing")
	levelled(l)
	require.Nil(t, l.keyUse("k").Key)
	id, r := l.commitKeyed("k", "paid")
	require.Equal(t, txn.Commit, r.Txn.Decision, r.Txn.Reason)
	_, r = l.commitKeyed("k", "paid again")
	require.Equal(t, txn.Abort, r.Txn.Decision)
	require.Equal(t, "its key was used: transaction "+id.String()+" is committed under it", r.Txn.Reason)
	require.Equal(t, &txn.KeyUse{Key: "k", ID: id, Result: []byte("paid")}, l.keyUse("k").Key)
	_, r = l.commitKeyed("another", "")
	require.Equal(t, txn.Commit, r.Txn.Decision)
}

// While a member cannot read keys nobody is told to send any, and what comes with one is aborted.
func TestKeysAreOffUntilEveryMemberKnowsThem(t *testing.T) {
	l := newLone(t, "orders", "billing")
	l.step(replica.MembersSeen{Speakers: []replica.Speaker{{Node: 1, Store: txn.StoreID{1}, Level: txn.LevelKeys - 1}}})
	for range 10 {
		l.tick(50 * time.Millisecond)
	}
	require.Equal(t, txn.LevelKeys-1, l.table.Level())
	err := l.keyUse("k").Err
	require.ErrorIs(t, err, txn.ErrRefused)
	require.EqualError(t, err, errKeysOff.Error())
	_, r := l.commitKeyed("k", "")
	require.Equal(t, txn.Abort, r.Txn.Decision)
	require.Equal(t, errKeysOff.Error(), r.Txn.Reason)
}

// Who finishes a branch hears of the span of its transaction, as long as the node leads that was asked to commit.
func TestATraceGoesToTheWorkers(t *testing.T) {
	l := newLone(t, "orders")
	id := l.newID()
	l.ask(func(request uint64) replica.Event {
		return CommitAsked{Request: request, CommitRequest: txn.CommitRequest{ID: id, Trace: "of the span",
			Branches: []txn.Branch{{Resource: "orders"}}}}
	})
	l.tick(2 * time.Second)
	tasks := l.take()
	require.Len(t, tasks, 1)
	require.Equal(t, "of the span", tasks[0].Trace)
	l.restart()
	l.tick(2 * time.Second)
	tasks = l.take()
	require.Len(t, tasks, 1)
	require.Equal(t, l.xid(id, 0), tasks[0].XID)
	require.Empty(t, tasks[0].Trace)
}

// claimant is a caller with a lease of its own.
func (l *lone) claimant() txn.ID {
	l.t.Helper()
	lease := l.ask(func(request uint64) replica.Event { return LeaseAsked{Request: request} }).Lease
	require.NotZero(l.t, lease)
	return l.newID().WithLease(lease)
}

// claims claims a key, and returns whether somebody else has it.
func (l *lone) claims(key string, by txn.ID, d time.Duration) (taken bool) {
	l.t.Helper()
	r := l.ask(func(request uint64) replica.Event {
		return KeyAsked{Request: request, Key: key, Claim: KeyClaim{By: by, For: d}}
	})
	require.NoError(l.t, r.Err)
	require.Nil(l.t, r.Key)
	return r.Claimed
}

// A key that is claimed is nobody else's until it is given back, used, or the time of the claim is over.
func TestAClaimedKeyIsWaitedFor(t *testing.T) {
	l := newLone(t, "orders", "billing")
	levelled(l)
	one, two := l.claimant(), l.claimant()
	require.False(t, l.claims("k", one, time.Minute))
	require.False(t, l.claims("k", one, time.Minute), "its own")
	require.True(t, l.claims("k", two, time.Minute))
	require.True(t, l.claims("k", two, 0), "what is another's cannot be given back")
	require.True(t, l.keyUse("k").Claimed, "whoever only asks hears of it as well")
	require.False(t, l.claims("another", two, time.Minute))

	require.False(t, l.claims("k", one, 0))
	require.False(t, l.claims("k", two, time.Second))
	require.True(t, l.claims("k", one, time.Minute))
	for range 30 {
		l.tick(50 * time.Millisecond)
	}
	require.False(t, l.claims("k", one, time.Minute), "its time is over")

	id, r := l.commitKeyed("k", "paid")
	require.Equal(t, txn.Commit, r.Txn.Decision, r.Txn.Reason)
	r = l.ask(func(request uint64) replica.Event {
		return KeyAsked{Request: request, Key: "k", Claim: KeyClaim{By: two, For: time.Minute}}
	})
	require.Equal(t, id, r.Key.ID)
	require.False(t, r.Claimed)
	require.NotContains(t, l.core.keys.held, "k")
}

// What a client that died has claimed is free as soon as the cluster knows, and what it has not claimed under a lease
// is free always.
func TestTheClaimOfADeadClientEnds(t *testing.T) {
	l := newLone(t, "orders")
	levelled(l)
	dead, other := l.claimant(), l.claimant()
	require.False(t, l.claims("without a lease", l.newID(), time.Minute))
	require.False(t, l.claims("without a lease", other, time.Second))
	require.False(t, l.claims("k", dead, time.Hour))
	require.False(t, l.claims("nobody asks for it", dead, time.Hour))
	free := 0
	for tick := range 120 {
		l.step(LeasesHeard{Leases: []txn.Lease{other.Lease()}})
		l.tick(50 * time.Millisecond)
		if !l.claims("k", other, 0) {
			free = tick
			break
		}
	}
	require.Greater(t, free, 95, "it lives as long as its lease, five seconds")
	for range 30 {
		l.step(LeasesHeard{Leases: []txn.Lease{other.Lease()}})
		l.tick(50 * time.Millisecond)
	}
	require.Empty(t, l.core.keys.held, "and takes no room")
}

// Claims have a bound: one more goes without, and may do its work twice.
func TestOneClaimTooMany(t *testing.T) {
	l := newLone(t, "orders")
	levelled(l)
	one, two := l.claimant(), l.claimant()
	for i := range maxKeyClaims {
		l.core.keys.held[fmt.Sprint(i)] = heldKey{by: one, until: l.core.leases.now + time.Minute}
	}
	require.False(t, l.claims("k", one, time.Minute))
	require.False(t, l.claims("k", two, time.Minute))
	require.True(t, l.claims("1", two, time.Minute))
	l.restart()
	levelled(l)
	require.Empty(t, l.core.keys.held, "a new leader knows of none")
}

// What the cluster will never end an operator may, and nothing else.
func TestAnOperatorEndsWhatRecoveryOnlyReports(t *testing.T) {
	l := newLone(t, "orders")
	ends := func(x txn.XID) error {
		return l.ask(func(request uint64) replica.Event {
			return EndAsked{Request: request, Resource: "orders", Prepared: prepared(x), Decision: txn.Abort,
				Who: "ann", Why: "lost"}
		}).Err
	}
	foreign := l.xid(l.newID(), 0)
	foreign.Cluster++
	require.NoError(t, ends(foreign), "of another cluster")
	id := l.newID()
	l.commit(id, txn.Branch{No: 1, Resource: "orders"})
	require.NoError(t, ends(l.xid(id, 2)), "that the commit does not name")
	require.ErrorIs(t, ends(l.xid(id, 1)), txn.ErrRefused, "that it names")
	l.ask(settle(id, 1))
	require.NoError(t, ends(l.xid(id, 1)), "that was given up")
	require.NoError(t, ends(l.xid(txn.NewID(l.now.AddDate(1, 0, 0)), 0)), "from the future")
	require.ErrorIs(t, ends(l.xid(l.newID(), 0)), txn.ErrRefused, "that has no decision yet")
	for range 5 { // until the log forgets
		commitNew(l)
		l.tick(8 * 24 * time.Hour)
		l.tick(time.Second)
	}
	require.NoError(t, ends(l.xid(txn.NewID(l.now.AddDate(-1, 0, 0)), 0)), "that is too old")
}

// A database that hangs keeps the first attempt for half a minute. What it is that keeps the branch is known before.
func TestABranchOfADatabaseThatIsDownSaysSoDuringItsFirstAttempt(t *testing.T) {
	l := newLone(t, "orders")
	id := l.newID()
	l.commit(id, txn.Branch{Resource: "orders"})
	l.tick(2 * time.Second)
	require.Len(t, l.take(), 1)
	says := func() string {
		r := l.ask(func(request uint64) replica.Event { return ViewAsked{Request: request, ID: id} })
		return r.View.Branches[l.xid(id, 0)].Err
	}
	require.Empty(t, says())
	l.step(Fitness{Resource: "orders", Down: true, Fit: true}) // it is no stranger, and does not answer
	require.Equal(t, `resource orders cannot be used at the moment: see "concord resource check orders"`, says())
	l.step(Fitness{Resource: "orders", Fit: true})
	require.Empty(t, says())
}

func (l *lone) acts() []*txn.Act {
	l.t.Helper()
	return l.ask(func(request uint64) replica.Event { return ActsAsked{Request: request} }).Acts
}

func (l *lone) begins(key uint64, kind txn.ActKind, node uint64) Reply {
	return l.ask(func(request uint64) replica.Event {
		return ActAsked{Request: request, ActRecord: txn.ActRecord{Key: key, Kind: kind, Node: node, Who: "ann",
			Why: "why"}}
	})
}

// A leader writes what a person begins to do; what it leaves open the next one ends.
func TestTheNextLeaderSaysHowActsEnded(t *testing.T) {
	l := newLone(t, "orders")
	require.NoError(t, l.begins(1, txn.ActForget, 0).Err)
	require.Empty(t, l.acts(), "not every member can read it")
	require.NoError(t, actsEnd(l))
	require.Equal(t, "the leader changed before it ended: look at what it is about", l.acts()[0].Says)
}

// actsEnd has a leader leave acts open, and returns whether and how the next one has ended them.
func actsEnd(l *lone) error {
	levelled(l)
	t := l.t
	require.NoError(t, l.begins(2, txn.ActForget, 0).Err)
	require.NoError(t, l.begins(3, txn.ActLead, 1).Err)
	require.NoError(t, l.begins(4, txn.ActLead, 2).Err)
	require.NoError(t, l.begins(5, txn.ActAccept, 0).Err)
	require.NoError(t, l.ask(func(request uint64) replica.Event {
		return ActEnded{Request: request, ActEndRecord: txn.ActEndRecord{Key: 5, Outcome: txn.ActRefused, Says: "no"}}
	}).Err)
	outcomes := func() (list []txn.ActOutcome) {
		for _, a := range l.acts() {
			list = append(list, a.Outcome)
		}
		return list
	}
	require.Equal(t, []txn.ActOutcome{txn.ActBegun, txn.ActBegun, txn.ActBegun, txn.ActRefused}, outcomes())
	require.Equal(t, l.now.UnixMilli(), l.acts()[0].Time.UnixMilli())
	l.restart()
	l.tick(50 * time.Millisecond)
	want := []txn.ActOutcome{txn.ActUnknown, txn.ActDone, txn.ActUnknown, txn.ActRefused}
	if ended := outcomes(); !slices.Equal(want, ended) {
		return fmt.Errorf("the acts ended as %v, not as %v", ended, want)
	}
	return nil
}

// From where somebody has called is in the log once every member can read it.
func TestAnActNamesItsCallerOnceEveryMemberCanReadIt(t *testing.T) {
	from := txn.Caller{Roles: "operator", Addr: "192.0.2.7:4711", Node: 1}
	for level, want := range map[txn.FeatureLevel]txn.Caller{txn.LevelCaller - 1: {}, txn.LevelCaller: from} {
		l := newLone(t, "orders")
		l.step(replica.MembersSeen{Speakers: []replica.Speaker{{Node: 1, Store: txn.StoreID{1}, Level: level}}})
		l.tick(time.Second)
		require.Equal(t, level, l.table.Level())
		require.NoError(t, l.ask(func(request uint64) replica.Event {
			return ActAsked{Request: request, ActRecord: txn.ActRecord{Key: 1, Kind: txn.ActForget, From: from}}
		}).Err)
		require.Equal(t, want, l.acts()[0].From)
	}
}

// An operator who says "now" does not wait for the backoff.
func TestARetryEndsTheWait(t *testing.T) {
	l := newLone(t, "orders", "billing")
	retry := func(id txn.ID, no ...txn.BranchNo) Reply {
		return l.ask(func(request uint64) replica.Event {
			e := RetryAsked{Request: request, ID: id, One: len(no) > 0}
			if e.One {
				e.Branch = no[0]
			}
			return e
		})
	}
	tried := func() (xs []txn.XID) {
		l.tick(50 * time.Millisecond)
		for _, task := range l.take() {
			xs = append(xs, task.XID)
			l.step(Failed{XID: task.XID, Why: "permission denied"})
		}
		return xs
	}
	id := l.newID()
	l.commit(id, txn.Branch{Resource: "orders"}, txn.Branch{No: 1, Resource: "billing"})
	aborted := l.newID()
	l.ask(func(request uint64) replica.Event {
		return OutcomeAsked{Request: request, Inquiry: txn.Inquiry{ID: aborted, Several: true}}
	})
	l.step(Listed{Resource: "orders", Listing: []adapters.Prepared{prepared(l.xid(aborted, 0))}})
	for range 100 {
		tried()
	}
	require.Empty(t, tried(), "they wait")
	require.Equal(t, 2, retry(id).Retried)
	require.ElementsMatch(t, []txn.XID{l.xid(id, 0), l.xid(id, 1)}, tried())
	require.Empty(t, tried(), "and wait again")
	require.Equal(t, 1, retry(id, 1).Retried)
	require.Equal(t, []txn.XID{l.xid(id, 1)}, tried())
	require.Equal(t, 1, retry(aborted).Retried)
	require.Equal(t, []txn.XID{l.xid(aborted, 0)}, tried())
	require.ErrorIs(t, retry(l.newID()).Err, txn.ErrNotFound)
	require.ErrorIs(t, retry(id, 7).Err, txn.ErrRefused)
}
