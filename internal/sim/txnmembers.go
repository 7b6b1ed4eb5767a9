// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"fmt"
	"slices"

	"github.com/concordtx/concord/coordinator/commit"
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

// changeOfRecords tells the changes among the entries of a log of records.
func changeOfRecords(data []byte) ([]zab.Member, bool) {
	list, ok := txn.MembersOf(data)
	if !ok {
		return nil, false
	}
	var members []zab.Member
	for _, m := range list {
		members = append(members, zab.Member{ID: zab.NodeID(m.ID), Observer: m.Role != txn.Voter})
	}
	return members, true
}

// configured is a member as all configurations name it.
func configured(id zab.NodeID, observer bool) replica.Member {
	return replica.Member{ID: id, Observer: observer, Peer: fmt.Sprintf("peer%d", id), API: fmt.Sprintf("api%d", id)}
}

// tells is what a node hears of another: that they have met, or who the members are.
func (w *txnWorld) tells(from, to *node) {
	f, t := from.host.(*txnHost), to.host.(*txnHost)
	e := replica.PeerMet{Node: from.id, Cluster: f.table.Cluster()}
	if l := f.core.Known(); t.core.Known().At.Less(l.At) {
		w.cluster.check.counters.hit(NewerSetLearned)
		e.List = l
	} else if !t.core.Asleep() {
		return
	}
	w.event(to, asked{event: e})
}

// startMembers lets operators change the members and move leadership, and the leaders see who
// speaks to them.
func (w *txnWorld) startMembers() {
	if w.swarm.Changes == 0 {
		return
	}
	w.again(2*w.swarm.Changes, w.operateMembers)
	w.seeSpeakers()
}

func (w *txnWorld) operateMembers() {
	id := zab.NodeID(1 + w.pick(len(w.nodes)))
	member := func() bool {
		leader := w.leader()
		return leader != nil && w.belongs(leader, w.nodes[id-1])
	}()
	key := fmt.Sprint(w.now)
	w.question(w.leaderOrAny(), w.odds(0.2), func(request uint64) replica.Event {
		switch {
		case w.swarm.Moves > 0 && w.odds(0.3):
			return replica.LeadAsked{Request: request, Node: id, Who: "operator", Why: "simulated"}
		case member:
			return replica.RemoveAsked{Request: request, Node: id, Key: key, Who: "operator", Why: "simulated"}
		}
		return replica.AddAsked{Request: request, Member: configured(id, w.odds(0.3)), Key: key, Who: "operator", Why: "simulated"}
	}, func(r commit.Reply) {
		if r.Err == nil {
			w.hit(MembersOperated)
		} else {
			w.hit(MembersRefused)
		}
	}, func() {})
}

// seeSpeakers tells whoever leads who speaks, twice a second. Learners become voters with that.
func (w *txnWorld) seeSpeakers() {
	for _, n := range w.nodes {
		if !n.up || n.paused || n.role.Role != zab.Leading || !n.role.Established {
			continue
		}
		var speakers []replica.Speaker
		for _, o := range w.nodes {
			if o.up && w.net.links[o.index][n.index].cuts == 0 {
				m := configured(o.id, false)
				speakers = append(speakers, replica.Speaker{Node: o.id, Store: txn.StoreID{byte(o.id)}, Level: txn.Newest, Peer: m.Peer, API: m.API})
			}
		}
		w.event(n, asked{event: replica.MembersSeen{Speakers: speakers}})
	}
	w.after(second/2, w.seeSpeakers)
}

// lookAtMembers counts what changed about the members.
func (w *txnWorld) lookAtMembers(r txn.MembersRecord) {
	for _, m := range r.Members {
		if m.Role == txn.Learner {
			w.hit(NodeLearned)
		}
		if m.Role == txn.Voter && slices.Contains(w.learners, m.ID) {
			w.hit(LearnerBecameVoter)
		}
	}
	w.learners = nil
	for _, m := range r.Members {
		if m.Role == txn.Learner {
			w.learners = append(w.learners, m.ID)
		}
	}
}
