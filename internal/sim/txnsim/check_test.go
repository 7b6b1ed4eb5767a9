// SPDX-License-Identifier: Apache-2.0

package txnsim

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/internal/sim"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

// deal is a hand-made history of one transaction with two prepared branches.
type deal struct {
	*checker
	w    *world
	g    *ghost
	a, b *branch
}

func newDeal() deal {
	w := &world{Cluster: sim.NewCluster(1, sim.Options{})}
	w.check = newChecker(w.Cluster.Check)
	w.check.now = func() sim.Instant { return w.Now }
	d := deal{checker: w.check, w: w}
	d.g, d.a, d.b = d.begin(txn.ID{1}, 1)
	return d
}

// begin makes a transaction with two branches that have voted yes.
func (d deal) begin(id txn.ID, job int) (*ghost, *branch, *branch) {
	g := d.begun(id, job)
	for no := range 2 {
		b := &branch{ghost: g, no: txn.BranchNo(no + 1), work: 7}
		newBank(d.w, resources[no], postgres).add(b)
		b.prepare()
	}
	g.yes = true
	return g, g.branches[0], g.branches[1]
}

// beginAlone makes a transaction with one branch, of which the cluster does not hear.
func (d deal) beginAlone(id txn.ID) *ghost {
	g := d.begun(id, 2)
	g.alone = true
	newBank(d.w, resources[0], postgres).add(&branch{ghost: g, no: 1, work: 7})
	return g
}

// endLease folds the end of a lease.
func (d deal) endLease(n txn.Lease) {
	d.folded(1, txn.Changes{Ended: []txn.Lease{n},
		Meta: txn.Meta{Zxid: zab.Zxid{Epoch: 1, Counter: 2}, Digest: txn.Digest{2}}})
}

// commitUnder folds a decision to commit under a lease, after the end of lease 1.
func (d deal) commitUnder(n txn.Lease, by txn.Source) {
	d.endLease(1)
	id := txn.ID{2}.WithLease(n)
	d.begin(id, 2)
	d.logOf(id, 1, 3, txn.Txn{Decision: txn.Commit, By: by, Decided: zab.Zxid{Epoch: 1, Counter: 3}})
}

// log folds a decision at some node.
func (d deal) log(node int, counter uint64, x txn.Txn) { d.logOf(d.g.id, node, counter, x) }

func (d deal) logOf(id txn.ID, node int, counter uint64, x txn.Txn) {
	x.ID = id
	if x.Decision == txn.Commit {
		x.Branches = []txn.Branch{{No: 1, Resource: resources[0]}, {No: 2, Resource: resources[1]}}
	}
	d.folded(node, txn.Changes{Open: []txn.Txn{x},
		Meta: txn.Meta{Zxid: zab.Zxid{Epoch: 1, Counter: counter}, Digest: txn.Digest{byte(counter)}}})
}

// finish is a worker with all evidence.
func (d deal) finish(b *branch, decision txn.Decision) (found txn.Finish) {
	attempt{b: b, d: decision, holder: true, evident: true, done: func(f txn.Finish, _ error) { found = f }}.run()
	return found
}

// conclude is a worker that says what the test wants.
func (d deal) conclude(b *branch, decision txn.Decision, f txn.Finish) {
	d.concluded(attempt{b: b, d: decision, holder: true, evident: true}, f)
}

// byVault makes the transaction one that the vault decides.
func (d deal) byVault() deal {
	d.g.last = &lastGhost{}
	return d
}

// commitWith folds a commit with these branches.
func (d deal) commitWith(branches ...txn.Branch) {
	d.folded(1, txn.Changes{Open: []txn.Txn{{ID: d.g.id, Decision: txn.Commit, Branches: branches}},
		Meta: txn.Meta{Zxid: zab.Zxid{Epoch: 1, Counter: 1}, Digest: txn.Digest{1}}})
}

func (d deal) decide(decision txn.Decision) { d.log(1, 1, txn.Txn{Decision: decision}) }

func TestEachTransactionCheckRejectsABadHistoryAndAcceptsItsGoodTwin(t *testing.T) {
	for _, row := range []struct {
		id, name  string
		bad, good func(d deal)
	}{
		{"AC1", "a branch commits before the decision",
			func(d deal) { d.a.set(committed, ours) },
			func(d deal) { d.decide(txn.Commit); d.a.set(committed, ours) }},
		{"AC1", "a branch rolls back after the decision to commit",
			func(d deal) { d.decide(txn.Commit); d.a.set(rolledBack, ours) },
			func(d deal) { d.decide(txn.Abort); d.a.set(rolledBack, ours) }},
		{"AC1", "a client that was told abort, and then a decision to commit",
			func(d deal) { d.tell(d.g, txn.Abort); d.decide(txn.Commit) },
			func(d deal) { d.tell(d.g, txn.Abort); d.decide(txn.Abort) }},
		{"AC1", "a client is told abort of what is committed",
			func(d deal) { d.decide(txn.Commit); d.tell(d.g, txn.Abort) },
			func(d deal) { d.decide(txn.Commit); d.tell(d.g, txn.Commit) }},
		{"AC1", "somebody hears that it is aborted after its only database has committed it",
			func(d deal) { g := d.beginAlone(txn.ID{2}); g.branches[0].commitAlone(); d.answered(g, txn.Aborted) },
			func(d deal) { g := d.beginAlone(txn.ID{2}); g.branches[0].commitAlone(); d.answered(g, txn.Unrecorded) }},
		{"AC1", "somebody hears that it is aborted before its only database commits it",
			func(d deal) { g := d.beginAlone(txn.ID{2}); d.answered(g, txn.Aborted); g.branches[0].commitAlone() },
			func(d deal) { g := d.beginAlone(txn.ID{2}); d.answered(g, txn.Unrecorded); g.branches[0].commitAlone() }},
		{"AC1", "a client is told nothing for a decision",
			func(d deal) { d.decide(txn.Abort); d.tell(d.g, txn.Undecided) },
			func(d deal) { d.decide(txn.Abort); d.tell(d.g, txn.Abort) }},
		{"A1", "a last resource has a marker to commit, and not its work",
			func(d deal) { d.byVault().marked(d.g, txn.Commit, false) },
			func(d deal) { d.byVault().marked(d.g, txn.Commit, true) }},
		{"A2", "a last resource commits behind a marker to abort",
			func(d deal) { d.byVault().marked(d.g, txn.Abort, false); d.marked(d.g, txn.Commit, true) },
			func(d deal) { d.byVault().marked(d.g, txn.Abort, false); d.decide(txn.Abort) }},
		{"A2", "the log aborts what its last resource has not been asked about",
			func(d deal) { d.byVault().decide(txn.Abort) },
			func(d deal) { d.byVault().marked(d.g, txn.Abort, false); d.decide(txn.Abort) }},
		{"A2", "the log aborts what its last resource has committed",
			func(d deal) { d.byVault().marked(d.g, txn.Commit, true); d.decide(txn.Abort) },
			func(d deal) { d.byVault().marked(d.g, txn.Commit, true); d.decide(txn.Commit) }},
		{"A3", "a client is told commit before its last resource has committed",
			func(d deal) { d.byVault().lastTold(d.g, txn.Committed) },
			func(d deal) { d.byVault().marked(d.g, txn.Commit, true); d.lastTold(d.g, txn.Committed) }},
		{"AC1", "a client is told abort of what its last resource has committed",
			func(d deal) { d.byVault().marked(d.g, txn.Commit, true); d.lastTold(d.g, txn.Aborted) },
			func(d deal) { d.byVault().marked(d.g, txn.Abort, false); d.lastTold(d.g, txn.Aborted) }},
		{"A4", "the log does not know a branch of what a last resource has committed",
			func(d deal) { d.byVault().marked(d.g, txn.Commit, true); d.commitWith(txn.Branch{No: 2}) },
			func(d deal) {
				d.byVault().marked(d.g, txn.Commit, true)
				d.commitWith(txn.Branch{No: 1}, txn.Branch{No: 2})
			}},
		{"AC1", "a branch commits, and the last resource has not",
			func(d deal) { d.byVault().a.set(committed, ours) },
			func(d deal) { d.byVault().marked(d.g, txn.Commit, true); d.a.set(committed, ours) }},
		{"AC1", "a committed transaction ends with a branch that is not",
			func(d deal) { d.decide(txn.Commit); d.a.set(committed, ours); d.settled(1) },
			func(d deal) { d.decide(txn.Commit); d.a.set(committed, ours); d.b.set(committed, ours); d.settled(1) }},
		{"AC2", "two nodes decide differently",
			func(d deal) { d.decide(txn.Commit); d.log(2, 2, txn.Txn{Decision: txn.Abort}) },
			func(d deal) { d.decide(txn.Commit); d.log(2, 2, txn.Txn{Decision: txn.Commit}) }},
		{"AC2", "a committed branch is rolled back later",
			func(d deal) {
				d.decide(txn.Commit)
				d.a.set(committed, ours)
				d.a.set(prepared, fate)
				d.a.set(rolledBack, ours)
			},
			func(d deal) {
				d.decide(txn.Commit)
				d.a.set(committed, ours)
				d.a.set(prepared, fate)
				d.a.set(committed, ours)
			}},
		{"AC2", "a client is told two outcomes",
			func(d deal) { d.tell(d.g, txn.Abort); d.tell(d.g, txn.Commit) },
			func(d deal) { d.tell(d.g, txn.Abort); d.tell(d.g, txn.Abort) }},
		{"AC3", "commit without a prepared branch",
			func(d deal) { d.b.state = active; d.decide(txn.Commit) },
			func(d deal) { d.b.state = active; d.decide(txn.Abort) }},
		{"AC3", "commit with a branch that has no work",
			func(d deal) { d.b.voted = 0; d.decide(txn.Commit) },
			func(d deal) { d.decide(txn.Commit) }},
		{"AC3w", "a branch commits other work than it voted for",
			func(d deal) { d.decide(txn.Commit); d.a.work = 8; d.a.set(committed, ours) },
			func(d deal) { d.decide(txn.Commit); d.a.set(committed, ours) }},
		{"AC4", "all voted yes, and it does not commit",
			func(d deal) { d.decide(txn.Abort); d.tell(d.g, txn.Abort); d.allCommitted() },
			func(d deal) { d.decide(txn.Commit); d.tell(d.g, txn.Commit); d.allCommitted() }},
		{"DUR1", "a client is told commit before the log has it",
			func(d deal) { d.tell(d.g, txn.Commit) },
			func(d deal) { d.decide(txn.Commit); d.tell(d.g, txn.Commit) }},
		{"DET", "two digests at one position",
			func(d deal) {
				d.decide(txn.Commit)
				d.folded(2, txn.Changes{Meta: txn.Meta{Zxid: zab.Zxid{Epoch: 1, Counter: 1},
					Digest: txn.Digest{9}}})
			},
			func(d deal) {
				d.decide(txn.Commit)
				d.folded(2, txn.Changes{Meta: txn.Meta{Zxid: zab.Zxid{Epoch: 1, Counter: 1},
					Digest: txn.Digest{1}}})
			}},
		{"DUR1", "a client is told commit before a quorum has it",
			func(d deal) {
				d.decide(txn.Commit)
				d.quorumHas = func(zab.Zxid) bool { return false }
				d.tell(d.g, txn.Commit)
			},
			func(d deal) { d.decide(txn.Commit); d.tell(d.g, txn.Commit) }},
		{"DUR1", "what a client was told is gone at the end",
			func(d deal) {
				d.decide(txn.Commit)
				d.tell(d.g, txn.Commit)
				d.finish(d.a, txn.Commit)
				d.finish(d.b, txn.Commit)
				d.quorumHas = func(zab.Zxid) bool { return false }
				d.settled(1)
			},
			func(d deal) {
				d.decide(txn.Commit)
				d.tell(d.g, txn.Commit)
				d.finish(d.a, txn.Commit)
				d.finish(d.b, txn.Commit)
				d.settled(1)
			}},
		{"AC5", "a transaction ends with a branch of which nobody knows",
			func(d deal) {
				d.decide(txn.Commit)
				d.finish(d.a, txn.Commit)
				d.log(1, 2, txn.Txn{Decision: txn.Commit, Ended: true})
			},
			func(d deal) {
				d.decide(txn.Commit)
				d.finish(d.a, txn.Commit)
				d.finish(d.b, txn.Commit)
				d.log(1, 2, txn.Txn{Decision: txn.Commit, Ended: true})
			}},
		{"HEUR", "a transaction ends, and the log does not know what its leader has heard",
			func(d deal) {
				d.decide(txn.Commit)
				d.finish(d.a, txn.Commit)
				d.b.set(lost, fate)
				d.finish(d.b, txn.Commit)
				d.log(1, 2, txn.Txn{Decision: txn.Commit, Ended: true})
			},
			func(d deal) {
				d.decide(txn.Commit)
				d.finish(d.a, txn.Commit)
				d.b.set(lost, fate)
				d.finish(d.b, txn.Commit)
				d.log(1, 2, txn.Txn{Decision: txn.Commit, Ended: true,
					Heuristics: []txn.Heuristic{{Branch: 2, Outcome: txn.HeuristicHazard}}})
			}},
		{"AC6", "a young branch is taken for an orphan",
			func(d deal) {
				d.maxAge = 5
				d.w.Now = 4
				d.log(1, 1, txn.Txn{Decision: txn.Abort, By: txn.FromCluster, Reason: "orphan: x"})
			},
			func(d deal) {
				d.maxAge = 5
				d.w.Now = 5
				d.log(1, 1, txn.Txn{Decision: txn.Abort, By: txn.FromCluster, Reason: "orphan: x"})
			}},
		{"AC6", "a young branch whose lease has not ended is taken for an orphan",
			func(d deal) {
				d.maxAge = 5
				d.endLease(2)
				id := txn.ID{2}.WithLease(1)
				d.begin(id, 2)
				d.logOf(id, 1, 3, txn.Txn{Decision: txn.Abort, By: txn.FromCluster})
			},
			func(d deal) {
				d.maxAge = 5
				d.endLease(1)
				id := txn.ID{2}.WithLease(1)
				d.begin(id, 2)
				d.logOf(id, 1, 3, txn.Txn{Decision: txn.Abort, By: txn.FromCluster})
			}},
		{"LEASE", "a commit under a lease that has ended",
			func(d deal) { d.commitUnder(1, txn.FromClient) },
			func(d deal) { d.commitUnder(2, txn.FromClient) }},
		{"LEASE", "and not by an operator",
			func(d deal) { d.commitUnder(1, txn.FromClient) },
			func(d deal) { d.commitUnder(1, txn.FromOperator) }},
		{"IDEM", "the same work is committed under two gids",
			func(d deal) {
				d.begin(txn.ID{2}, 1)
				d.decide(txn.Commit)
				d.logOf(txn.ID{2}, 1, 2, txn.Txn{Decision: txn.Commit})
			},
			func(d deal) {
				d.begin(txn.ID{2}, 2)
				d.decide(txn.Commit)
				d.logOf(txn.ID{2}, 1, 2, txn.Txn{Decision: txn.Commit})
			}},
		{"IDEM", "a branch takes effect twice",
			func(d deal) { d.decide(txn.Commit); d.a.set(committed, ours); d.a.set(committed, ours) },
			func(d deal) {
				d.decide(txn.Commit)
				d.a.set(committed, ours)
				d.a.set(prepared, fate)
				d.a.set(committed, ours)
			}},
		{"FOREIGN", "a branch of others is decided",
			func(d deal) { d.foreign[txn.ID{9}] = true; d.logOf(txn.ID{9}, 1, 1, txn.Txn{Decision: txn.Abort}) },
			func(d deal) { d.foreign[txn.ID{9}] = true; d.decide(txn.Abort) }},
		{"HEUR", "a committed branch is lost, and the log does not know",
			func(d deal) { d.decide(txn.Commit); d.a.set(lost, fate); d.finish(d.b, txn.Commit); d.settled(1) },
			func(d deal) {
				d.decide(txn.Commit)
				d.a.set(lost, fate)
				d.finish(d.a, txn.Commit)
				d.finish(d.b, txn.Commit)
				d.log(1, 2, txn.Txn{Decision: txn.Commit,
					Heuristics: []txn.Heuristic{{Branch: 1, Outcome: txn.HeuristicHazard}}})
				d.settled(1)
			}},
		{"HEUR", "a DBA rolled back a committed branch, and the log does not know",
			func(d deal) { d.decide(txn.Commit); d.a.endByHand(rolledBack); d.finish(d.b, txn.Commit); d.settled(1) },
			func(d deal) {
				d.decide(txn.Commit)
				d.a.endByHand(rolledBack)
				d.finish(d.a, txn.Commit)
				d.finish(d.b, txn.Commit)
				d.log(1, 2, txn.Txn{Decision: txn.Commit,
					Heuristics: []txn.Heuristic{{Branch: 1, Outcome: txn.HeuristicRollback}}})
				d.settled(1)
			}},
		{"HEUR", "a leader heard that a DBA committed an aborted branch, and the log does not know",
			func(d deal) {
				d.decide(txn.Abort)
				d.a.endByHand(committed)
				d.finish(d.a, txn.Abort)
				d.heard(d.a, 1)
				d.settled(1)
			},
			func(d deal) {
				d.decide(txn.Abort)
				d.a.endByHand(committed)
				d.finish(d.a, txn.Abort)
				d.heard(d.a, 1)
				d.log(1, 2, txn.Txn{Decision: txn.Abort,
					Heuristics: []txn.Heuristic{{Branch: 1, Outcome: txn.HeuristicCommit}}})
				d.settled(1)
			}},
		{"HEUR", "a false alarm",
			func(d deal) {
				d.decide(txn.Commit)
				d.finish(d.a, txn.Commit)
				d.log(1, 2, txn.Txn{Decision: txn.Commit,
					Heuristics: []txn.Heuristic{{Branch: 1, Outcome: txn.HeuristicHazard}}})
			},
			func(d deal) {
				d.decide(txn.Commit)
				d.finish(d.a, txn.Commit)
				d.log(1, 2, txn.Txn{Decision: txn.Commit})
			}},
		{"HEUR", "two reports on one branch",
			func(d deal) {
				d.decide(txn.Commit)
				d.a.set(lost, fate)
				d.finish(d.a, txn.Commit)
				h := txn.Heuristic{Branch: 1, Outcome: txn.HeuristicHazard}
				d.log(1, 2, txn.Txn{Decision: txn.Commit, Heuristics: []txn.Heuristic{h, h}})
			},
			func(d deal) {
				d.decide(txn.Commit)
				d.a.set(lost, fate)
				d.finish(d.a, txn.Commit)
				h := txn.Heuristic{Branch: 1, Outcome: txn.HeuristicHazard}
				d.log(1, 2, txn.Txn{Decision: txn.Commit, Heuristics: []txn.Heuristic{h}})
				forgotten := h
				forgotten.Forgotten = true
				d.log(1, 3, txn.Txn{Decision: txn.Commit, Heuristics: []txn.Heuristic{forgotten}})
				d.log(1, 4, txn.Txn{Decision: txn.Commit, Heuristics: []txn.Heuristic{forgotten, h}})
			}},
		{"HEUR", "a worker takes a lost branch for committed",
			func(d deal) { d.decide(txn.Commit); d.a.set(lost, fate); d.conclude(d.a, txn.Commit, txn.AlreadyDone) },
			func(d deal) { d.decide(txn.Commit); d.a.set(lost, fate); d.conclude(d.a, txn.Commit, txn.Lost) }},
		{"HEUR", "a worker takes a committed branch for lost",
			func(d deal) { d.decide(txn.Commit); d.a.set(committed, ours); d.conclude(d.a, txn.Commit, txn.Lost) },
			func(d deal) {
				d.decide(txn.Commit)
				d.a.set(committed, ours)
				d.conclude(d.a, txn.Commit, txn.AlreadyDone)
			}},
		{"HEUR", "a worker takes a committed branch for rolled back",
			func(d deal) {
				d.decide(txn.Abort)
				d.a.endByHand(committed)
				d.conclude(d.a, txn.Abort, txn.AlreadyDone)
			},
			func(d deal) {
				d.decide(txn.Abort)
				d.a.endByHand(committed)
				d.conclude(d.a, txn.Abort, txn.Contradicted)
			}},
	} {
		t.Run(fmt.Sprintf("%s %s", row.id, row.name), func(t *testing.T) {
			good := newDeal()
			row.good(good)
			require.Nil(t, good.Violation)
			bad := newDeal()
			row.bad(bad)
			require.NotNil(t, bad.Violation)
			require.Equal(t, row.id, bad.Violation.ID, bad.Violation.Detail)
		})
	}
}

func TestLeftoverNamesAPreparedBranchUntilItIsFinished(t *testing.T) {
	d := newDeal()
	banks := []*bank{d.a.bank, d.b.bank}
	_, left := d.leftover(banks)
	require.Equal(t, d.a, left)
	d.decide(txn.Commit)
	d.a.set(committed, ours)
	_, left = d.leftover(banks)
	require.Equal(t, d.b, left)
	d.b.set(committed, ours)
	_, left = d.leftover(banks)
	require.Nil(t, left)
}
