// SPDX-License-Identifier: Apache-2.0

package commit

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

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
