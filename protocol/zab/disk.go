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

// Resigned says that this node should not lead for a while if others can: its disk is
// nearly full, say. Who goes on saying so must be sure that somebody else can lead.
type Resigned struct{ Reason string }

func (Resigned) isEvent() {}

// diskStalls reports whether writes are under way and none has become durable for
// SyncTicks.
func (n *Node) diskStalls() bool {
	return n.writes.len() > 0 && n.now-n.diskMoved > uint64(n.cfg.SyncTicks)
}

// yieldToHealthyDisks gives up leading with a stalled disk if that helps.
func (n *Node) yieldToHealthyDisks() {
	if n.established && n.diskStalls() && n.othersSuffice() {
		n.enterLooking("its own disk stalls")
	}
}

// othersSuffice reports whether the synchronized voters are a quorum without this one.
func (n *Node) othersSuffice() bool {
	others := 0
	for i := range n.lead.peers {
		if n.lead.peers[i].step == stepSynced && !n.set.Members[i].Observer {
			others++
		}
	}
	return others >= n.quorum
}

// stayAwayWhileDiskStalls puts off the own candidacy.
func (n *Node) stayAwayWhileDiskStalls() {
	if n.diskStalls() {
		n.elect.abstainUntil = max(n.elect.abstainUntil, n.now+uint64(n.cfg.FinalizeTicks))
	}
}

// resign gives up leading because the driver has a reason to, if a quorum of
// synchronized voters can go on without this node; and whatever its role it is no
// candidate for InitTicks.
func (n *Node) resign(ev Resigned) {
	if n.lead != nil && (!n.established || !n.othersSuffice()) {
		return
	}
	n.elect.abstainUntil = max(n.elect.abstainUntil, n.now+uint64(n.cfg.InitTicks))
	if n.lead != nil {
		n.enterLooking(ev.Reason)
	}
}
