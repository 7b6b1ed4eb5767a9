// SPDX-License-Identifier: Apache-2.0

package recovery

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/txn"
)

func TestEvidenceThatContradictsAnAbortIsTold(t *testing.T) {
	id := txn.NewID(now)
	for name, c := range map[string]struct {
		known   *txn.Txn
		cluster txn.ClusterID
		tells   bool
	}{
		"an abort whose branches were seen": {known: &txn.Txn{ID: id, Decision: txn.Abort, Seen: true, Ended: true},
			tells: true},
		"another branch of it is on record": {known: &txn.Txn{ID: id, Decision: txn.Abort, Seen: true,
			Heuristics: []txn.Heuristic{{Branch: 2, Outcome: txn.HeuristicCommit}}}, tells: true},
		"it is on record": {known: &txn.Txn{ID: id, Decision: txn.Abort, Seen: true,
			Heuristics: []txn.Heuristic{{Branch: 1, Outcome: txn.HeuristicCommit}}}},
		"one database may have committed it": {known: &txn.Txn{ID: id, Decision: txn.Abort, Ended: true}},
		"a commit":                           {known: &txn.Txn{ID: id, Decision: txn.Commit}},
		"no decision":                        {},
		"another cluster's": {cluster: 8,
			known: &txn.Txn{ID: id, Decision: txn.Abort, Seen: true, Ended: true}},
	} {
		l := log{txns: map[txn.ID]txn.Txn{}}
		if c.known != nil {
			l.txns[id] = *c.known
		}
		x := txn.XID{Cluster: rules.Cluster, ID: id, Branch: 1}
		if c.cluster != 0 {
			x.Cluster = c.cluster
		}
		require.Equal(t, c.tells, len(Contradicted([]txn.XID{x}, l, rules)) == 1, name)
	}
}

func TestEvidenceIsSpentWhenNobodyNeedsIt(t *testing.T) {
	young, old := txn.NewID(now), txn.NewID(now.Add(-48*time.Hour))
	alarm := []txn.Heuristic{{Branch: 1, Outcome: txn.HeuristicCommit}}
	dealt := []txn.Heuristic{{Branch: 1, Outcome: txn.HeuristicCommit, Forgotten: true}}
	mark := now.Add(-24 * time.Hour)
	for name, c := range map[string]struct {
		id      txn.ID
		known   *txn.Txn
		cluster txn.ClusterID
		spent   bool
	}{
		"its transaction is finished": {id: young, known: &txn.Txn{Decision: txn.Commit, Ended: true},
			spent: true},
		"its transaction has branches to finish": {id: young, known: &txn.Txn{Decision: txn.Commit}},
		"an old one has branches to finish":      {id: old, known: &txn.Txn{Decision: txn.Commit}},
		"its transaction has an alarm": {id: young,
			known: &txn.Txn{Decision: txn.Commit, Ended: true, Heuristics: alarm}},
		"its alarm was dealt with": {id: young,
			known: &txn.Txn{Decision: txn.Commit, Ended: true, Heuristics: dealt}, spent: true},
		"it contradicts an abort": {id: young, known: &txn.Txn{Decision: txn.Abort, Ended: true}},
		"that was dealt with": {id: young,
			known: &txn.Txn{Decision: txn.Abort, Ended: true, Heuristics: dealt}, spent: true},
		"there is no decision":                  {id: young},
		"the log has forgotten its transaction": {id: old, spent: true},
		"it belongs to others":                  {id: old, cluster: 8},
		"it belongs to others, who are finished": {id: young, cluster: 8,
			known: &txn.Txn{Decision: txn.Commit, Ended: true}},
	} {
		l := log{txns: map[txn.ID]txn.Txn{}, old: mark}
		if c.known != nil {
			l.txns[c.id] = *c.known
		}
		x := txn.XID{Cluster: rules.Cluster, ID: c.id, Branch: 1}
		if c.cluster != 0 {
			x.Cluster = c.cluster
		}
		require.Equal(t, c.spent, len(Spent([]txn.XID{x}, l, rules)) == 1, name)
	}
}
