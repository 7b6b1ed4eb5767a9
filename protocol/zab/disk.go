// SPDX-License-Identifier: Apache-2.0

package zab

// A leader whose own disk stalls can still commit with the disks of the others, but it
// delivers only what is durable here, so all of its clients wait. Its followers hear
// its pings and see nothing wrong. Therefore:
//
//   - A leader gives up when none of its own writes has become durable for SyncTicks and
//     a quorum of synchronized voters can go on without it. Where its disk is
//     needed for the quorum anyway, another leader would wait for it just as well.
//   - A node with a stalled disk is no candidate, until the disk has caught up and
//     a moment more.
//
// Neither is needed for safety: giving up is always allowed, and so is not standing.

// Resigned says that this node should not lead any more if others can: its disk is
// nearly full, say. It means something to an established leader only.
type Resigned struct{ Reason string }

func (Resigned) isEvent() {}

// diskStalls reports whether writes are under way and none has become durable for
// SyncTicks.
func (n *Node) diskStalls() bool {
	return n.writes.len() > 0 && n.now-n.diskMoved > uint64(n.cfg.SyncTicks)
}

// yieldToHealthyDisks gives up leading with a stalled disk if that helps.
func (n *Node) yieldToHealthyDisks() {
	if n.established && n.diskStalls() && n.heardVoters()-1 >= n.quorum {
		n.enterLooking("its own disk stalls")
	}
}

// stayAwayWhileDiskStalls puts off the own candidacy.
func (n *Node) stayAwayWhileDiskStalls() {
	if n.diskStalls() {
		n.elect.abstainUntil = max(n.elect.abstainUntil, n.now+uint64(n.cfg.FinalizeTicks))
	}
}

// resign gives up leading because the driver has a reason to, if a quorum of
// synchronized voters can go on without this node.
func (n *Node) resign(ev Resigned) {
	if n.lead == nil || !n.established || n.heardVoters()-1 < n.quorum {
		return
	}
	n.abstain()
	n.enterLooking(ev.Reason)
}
