// SPDX-License-Identifier: Apache-2.0

package zab

import "fmt"

// A leader hands over to a follower of its choice: it takes no more proposals, waits until
// that one has everything, and tells all of its followers. They stand back for a moment, as
// it does itself, so that the one is the only candidate. It is a hint, as elections are:
// whoever does not hear it may still stand, and win.

// Transfer asks a leader to hand over to another voter. TransferEnded says that it did not
// come to that; a RoleChanged that this node leads no more.
type Transfer struct{ To NodeID }

// TransferEnded says why leadership was not handed over. This node goes on leading if it
// did before.
type TransferEnded struct {
	To  NodeID
	Why string
}

func (Transfer) isEvent()       {}
func (TransferEnded) isEffect() {}

// transfer begins to hand over.
func (n *Node) transfer(to NodeID) {
	i := n.place(to)
	why := ""
	switch {
	case n.lead == nil || !n.established:
		why = ErrNotLeader.Error()
	case to == n.cfg.ID:
		why = "it leads already"
	case n.lead.transfer != 0:
		why = fmt.Sprintf("leadership is being handed to node %d already", n.lead.transfer)
	case !votes(n.set.Members, to):
		why = "it is no voter"
	case n.lead.peers[i].step != stepSynced:
		why = "it does not follow this leader at the moment"
	}
	if why != "" {
		n.emit(TransferEnded{To: to, Why: why})
		return
	}
	n.note("handing leadership to node %d: it has %s of %s", to, n.lead.peers[i].match, n.tail())
	n.lead.transfer, n.lead.transferUntil = to, n.now+uint64(n.cfg.InitTicks)
}

// tryTransfer hands over when the next leader has everything, and all of it is committed.
func (n *Node) tryTransfer() {
	l := n.lead
	i := n.place(l.transfer)
	switch p := &l.peers[i]; {
	case p.step != stepSynced:
		n.stopTransfer("the session with node %d has ended", l.transfer)
	case n.now >= l.transferUntil:
		n.stopTransfer("node %d does not keep up: it has %s of %s", l.transfer, p.match, n.tail())
	case p.match == n.tail() && n.commit == n.tail():
		n.handOver(l.transfer)
	}
}

func (n *Node) stopTransfer(format string, args ...any) {
	to := n.lead.transfer
	n.lead.transfer = 0
	n.emit(TransferEnded{To: to, Why: fmt.Sprintf(format, args...)})
}

func (n *Node) handOver(to NodeID) {
	for i := range n.lead.peers {
		if p := &n.lead.peers[i]; p.step == stepSynced && !n.set.Members[i].Observer {
			n.send(i, n.lead.epoch, p.session, HandOver{To: to})
		}
	}
	n.standBack(n.cfg.InitTicks)
	n.enterLooking("leadership is handed over")
}

// standBack is no candidate for a while.
func (n *Node) standBack(ticks int) {
	n.elect.abstainUntil = max(n.elect.abstainUntil, n.now+uint64(ticks))
}

// onHandOver hears who is to lead next.
func (n *Node) onHandOver(b HandOver) {
	if !n.established {
		return
	}
	if b.To == n.cfg.ID {
		n.elect.abstainUntil = 0
	} else {
		n.standBack(n.cfg.SyncTicks)
	}
	n.enterLooking("the leader hands over")
}
