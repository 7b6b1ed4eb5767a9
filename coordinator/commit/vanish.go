// SPDX-License-Identifier: Apache-2.0

package commit

import (
	"maps"
	"slices"
	"time"

	"github.com/concordtx/concord/protocol"
	"github.com/concordtx/concord/txn"
)

// A prepared branch that is gone from a listing was ended: by the session that prepared it, by a worker,
// or by hand. Where the decision is to commit, phase two finds out what became of it. Where it is to
// abort, or there is none, its evidence tells, if it has committed.

const (
	// maxVanished transactions are remembered; of more than that the evidence alone tells.
	maxVanished   = 10_000
	vanishedEvery = 5 * time.Second
)

// judgeVanished looks at a branch that a listing had and the next one may not have; nil is one that was finished
// since.
func (c *Machine) judgeVanished(s *scan, b *listedBranch) {
	if b == nil || !b.ours || s.listing.branches[b.xid] != nil || c.table.Quarantined(s.resource) {
		return
	}
	x, decided := c.table.Get(b.xid.ID)
	if decided && x.Decision == txn.Commit {
		return
	}
	if !s.evidence.running {
		s.evidence = evidenceSweep{due: c.core.Now()}
	}
	if _, open := c.table.Witness(b.xid.ID); !decided && !open && len(c.vanished) < maxVanished {
		c.vanished[b.xid.ID] = inOrder(append(c.vanished[b.xid.ID],
			txn.Branch{No: b.xid.Branch, Resource: s.resource}))
	}
}

// abortVanished has the log decide about transactions whose branches have vanished, once whoever began
// them is gone. As a rule he has rolled them back himself. If somebody has committed a branch by
// hand the abort says that it must not have been.
func (c *Machine) abortVanished() {
	if c.core.Now().Before(c.nextVanished) {
		return
	}
	c.nextVanished = c.core.Now().Add(vanishedEvery)
	rules := c.rules()
	for _, id := range slices.SortedFunc(maps.Keys(c.vanished), txn.ID.Compare) {
		resource := c.vanished[id][0].Resource
		_, decided := c.table.Get(id)
		gone := c.table.LeaseEnded(id.Lease()) || c.core.Clock().Sub(id.Time()) >= 2*rules.MaxAge
		switch {
		case decided || c.table.TooOld(id) || id.Time().After(rules.Horizon) || id.Class() != txn.Plain &&
			id.Class() != txn.Recorded:
			delete(c.vanished, id)
		case gone && c.live[id] == nil:
			delete(c.vanished, id)
			l := c.hold(id)
			l.seen, l.record.By = true, txn.FromCluster
			c.carry(l, l.core.Step(protocol.OrphanMet{Reason: "orphan: whoever began it is gone, and a prepared " +
				"branch has vanished from " + resource}))
		}
	}
}
