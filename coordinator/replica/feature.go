// SPDX-License-Identifier: Apache-2.0

package replica

import "github.com/concordtx/concord/txn"

// raiseLevel switches on what every member knows. All of them must be in a conversation with
// this leader at one moment, observers too: one that is away may come back with an older
// release, and could not read the log then.
func (c *Core) raiseLevel(speakers []Speaker) {
	known := map[uint64]txn.FeatureLevel{}
	for _, s := range speakers {
		known[uint64(s.Node)] = s.Level
	}
	lowest := txn.Newest
	for _, m := range c.list.Members {
		lowest = min(lowest, known[uint64(m.ID)]) // 0: it is away
	}
	if lowest > c.State().Level() && !c.raising {
		c.raising = true
		c.Propose(txn.FeatureRecord{Level: lowest})
	}
}

// noticeLevel says what a fold has switched on.
func (c *Core) noticeLevel(now txn.FeatureLevel) {
	if now > c.level {
		c.level, c.raising = now, false
		c.Note("feature level %d from now on: every member knows it", now)
	}
}
