// SPDX-License-Identifier: Apache-2.0

package txnsim

import (
	"fmt"
	"slices"

	"github.com/concordtx/concord/coordinator/commit"
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/internal/sim"
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
func (w *world) tells(from, to *sim.Node) {
	f, t := from.Host.(*host), to.Host.(*host)
	e := replica.PeerMet{Node: from.ID, Cluster: f.table.Cluster()}
	if l := f.core.Known(); t.core.Known().At.Less(l.At) {
		w.Cluster.Check.Counters.Hit(sim.NewerSetLearned)
		e.List = l
	} else if !t.core.Asleep() {
		return
	}
	w.Event(to, asked{event: e})
}

// startMembers lets operators change the members and move leadership, and the leaders see who
// speaks to them.
func (w *world) startMembers() {
	if w.Swarm.Changes == 0 {
		return
	}
	w.Again(2*w.Swarm.Changes, w.operateMembers)
	w.seeSpeakers()
}

func (w *world) operateMembers() {
	id := zab.NodeID(1 + w.pick(len(w.Nodes)))
	member := func() bool {
		leader := w.Leader()
		return leader != nil && w.Belongs(leader, w.Nodes[id-1])
	}()
	key := fmt.Sprint(w.Now)
	w.question(w.leaderOrAny(), w.odds(0.2), func(request uint64) replica.Event {
		switch {
		case w.Swarm.Moves > 0 && w.odds(0.3):
			return replica.LeadAsked{Request: request, Node: id, Who: "operator", Why: "simulated"}
		case member:
			return replica.RemoveAsked{Request: request, Node: id, Key: key, Who: "operator", Why: "simulated"}
		}
		return replica.AddAsked{Request: request, Member: configured(id, w.odds(0.3)), Key: key, Who: "operator",
			Why: "simulated"}
	}, func(r commit.Reply) {
		if r.Err == nil {
			w.hit(MembersOperated)
		} else {
			w.hit(MembersRefused)
		}
	}, func() {})
}

// seeSpeakers tells whoever leads who speaks, twice a second. Learners become voters with that.
func (w *world) seeSpeakers() {
	for _, n := range w.Nodes {
		if !n.Up || n.Paused || n.Role.Role != zab.Leading || !n.Role.Established {
			continue
		}
		var speakers []replica.Speaker
		for _, o := range w.Nodes {
			if o.Up && w.Net.Links[o.Index][n.Index].Cuts == 0 {
				m := configured(o.ID, false)
				speakers = append(speakers,
					replica.Speaker{Node: o.ID, Store: txn.StoreID{byte(o.ID)}, Level: txn.Newest, Peer: m.Peer,
						API: m.API})
			}
		}
		w.Event(n, asked{event: replica.MembersSeen{Speakers: speakers}})
	}
	w.After(sim.Second/2, w.seeSpeakers)
}

// lookAtMembers counts what changed about the members.
func (w *world) lookAtMembers(r txn.MembersRecord) {
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
