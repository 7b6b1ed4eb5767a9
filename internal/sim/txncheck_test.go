// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/txn"
)

// deal is a hand-made history of one transaction with two prepared branches.
type deal struct {
	*txnChecker
	g    *txnGhost
	a, b *branch
}

func newDeal() deal {
	w := &txnWorld{cluster: newCluster(1, Options{})}
	w.check = newTxnChecker(w.cluster.check)
	d := deal{txnChecker: w.check, g: w.check.begun(txn.ID{1})}
	for no, b := range []**branch{&d.a, &d.b} {
		*b = &branch{bank: &bank{name: resources[no], w: w}, ghost: d.g, no: txn.BranchNo(no + 1), state: active, held: true, work: 7}
		(*b).bank.branches = []*branch{*b}
		d.g.branches = append(d.g.branches, *b)
		(*b).prepare()
	}
	d.g.yes = true
	return d
}

// log folds a decision at some node.
func (d deal) log(node int, counter uint64, x txn.Txn) {
	x.ID = d.g.id
	d.folded(node, txn.Changes{Open: []txn.Txn{x}, Meta: txn.Meta{Position: txn.Position{Epoch: 1, Counter: counter}, Digest: txn.Digest{byte(counter)}}})
}

func (d deal) decide(decision txn.Decision) { d.log(1, 1, txn.Txn{Decision: decision}) }

func TestEachTransactionCheckRejectsABadHistoryAndAcceptsItsGoodTwin(t *testing.T) {
	for _, row := range []struct {
		id, name  string
		bad, good func(d deal)
	}{
		{"AC1", "a branch commits before the decision",
			func(d deal) { d.a.set(committed) },
			func(d deal) { d.decide(txn.Commit); d.a.set(committed) }},
		{"AC1", "a branch rolls back after the decision to commit",
			func(d deal) { d.decide(txn.Commit); d.a.set(rolledBack) },
			func(d deal) { d.decide(txn.Abort); d.a.set(rolledBack) }},
		{"AC1", "a client that was told abort, and then a decision to commit",
			func(d deal) { d.tell(d.g, txn.Abort); d.decide(txn.Commit) },
			func(d deal) { d.tell(d.g, txn.Abort); d.decide(txn.Abort) }},
		{"AC1", "a client is told abort of what is committed",
			func(d deal) { d.decide(txn.Commit); d.tell(d.g, txn.Abort) },
			func(d deal) { d.decide(txn.Commit); d.tell(d.g, txn.Commit) }},
		{"AC1", "a committed transaction ends with a branch that is not",
			func(d deal) { d.decide(txn.Commit); d.a.set(committed); d.settled() },
			func(d deal) { d.decide(txn.Commit); d.a.set(committed); d.b.set(committed); d.settled() }},
		{"AC2", "two nodes decide differently",
			func(d deal) { d.decide(txn.Commit); d.log(2, 2, txn.Txn{Decision: txn.Abort}) },
			func(d deal) { d.decide(txn.Commit); d.log(2, 2, txn.Txn{Decision: txn.Commit}) }},
		{"AC2", "a committed branch is rolled back later",
			func(d deal) {
				d.decide(txn.Commit)
				d.a.set(committed)
				d.a.state = prepared
				d.a.set(rolledBack)
			},
			func(d deal) {
				d.decide(txn.Commit)
				d.a.set(committed)
				d.a.state = prepared
				d.a.set(committed)
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
			func(d deal) { d.decide(txn.Commit); d.a.work = 8; d.a.set(committed) },
			func(d deal) { d.decide(txn.Commit); d.a.set(committed) }},
		{"AC4", "all voted yes, and it does not commit",
			func(d deal) { d.decide(txn.Abort); d.tell(d.g, txn.Abort); d.allCommitted() },
			func(d deal) { d.decide(txn.Commit); d.tell(d.g, txn.Commit); d.allCommitted() }},
		{"DUR1", "a client is told commit before the log has it",
			func(d deal) { d.tell(d.g, txn.Commit) },
			func(d deal) { d.decide(txn.Commit); d.tell(d.g, txn.Commit) }},
		{"DET", "two digests at one position",
			func(d deal) {
				d.decide(txn.Commit)
				d.folded(2, txn.Changes{Meta: txn.Meta{Position: txn.Position{Epoch: 1, Counter: 1}, Digest: txn.Digest{9}}})
			},
			func(d deal) {
				d.decide(txn.Commit)
				d.folded(2, txn.Changes{Meta: txn.Meta{Position: txn.Position{Epoch: 1, Counter: 1}, Digest: txn.Digest{1}}})
			}},
		{"HEUR", "a committed branch is lost, and the log does not know",
			func(d deal) { d.decide(txn.Commit); d.a.set(lost); d.b.set(committed); d.settled() },
			func(d deal) {
				d.log(1, 1, txn.Txn{Decision: txn.Commit, Heuristics: []txn.Heuristic{{Branch: 1, Outcome: txn.HeuristicHazard}}})
				d.a.set(lost)
				d.b.set(committed)
				d.settled()
			}},
	} {
		t.Run(fmt.Sprintf("%s %s", row.id, row.name), func(t *testing.T) {
			good := newDeal()
			row.good(good)
			require.Nil(t, good.violation)
			bad := newDeal()
			row.bad(bad)
			require.NotNil(t, bad.violation)
			require.Equal(t, row.id, bad.violation.ID, bad.violation.Detail)
		})
	}
}

func TestLeftoverNamesAPreparedBranchUntilItIsFinished(t *testing.T) {
	d := newDeal()
	_, left := d.leftover()
	require.True(t, left)
	d.decide(txn.Commit)
	d.a.set(committed)
	_, left = d.leftover()
	require.True(t, left)
	d.b.set(committed)
	_, left = d.leftover()
	require.False(t, left)
}
