// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"cmp"
	"slices"

	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

// Member is one node of the cluster.
type Member struct {
	ID       zab.NodeID
	Observer bool   // it is in no quorum
	Learner  bool   // likewise, until it has caught up and becomes a voter
	Peer     string // host:port for the other nodes
	API      string // host:port for clients
}

// List says who the members are.
type List struct {
	At      zab.Zxid // the entry of the log that says so; zero: the configuration does
	Members []Member // by ID; never changed
}

// Find returns the member with an ID.
func (l List) Find(id zab.NodeID) (Member, bool) {
	for _, m := range l.Members {
		if m.ID == id {
			return m, true
		}
	}
	return Member{}, false
}

// Has reports whether a node is a member.
func (l List) Has(id zab.NodeID) bool { _, ok := l.Find(id); return ok }

// Votes reports whether a node counts in quorums.
func (l List) Votes(id zab.NodeID) bool { m, ok := l.Find(id); return ok && !m.Observer }

// Observes reports whether a node is a member that counts in no quorum.
func (l List) Observes(id zab.NodeID) bool { m, ok := l.Find(id); return ok && m.Observer }

// RoleOf says how a member takes part.
func RoleOf(m Member) txn.Role {
	switch {
	case m.Learner:
		return txn.Learner
	case m.Observer:
		return txn.Observer
	}
	return txn.Voter
}

// Role says how the member takes part: voter, observer or learner.
func (m Member) Role() string { return RoleOf(m).String() }

// ToMembers is a list of the vocabulary as the log and the nodes know it.
func ToMembers(list []txn.Member) []Member {
	members := make([]Member, len(list))
	for i, m := range list {
		members[i] = Member{ID: zab.NodeID(m.ID), Observer: m.Role != txn.Voter, Learner: m.Role == txn.Learner,
			Peer: m.Peer, API: m.API}
	}
	return members
}

// FromMembers is the inverse of ToMembers, in order of the ids.
func FromMembers(members []Member) []txn.Member {
	list := make([]txn.Member, len(members))
	for i, m := range members {
		list[i] = txn.Member{ID: uint64(m.ID), Role: RoleOf(m), Peer: m.Peer, API: m.API}
	}
	slices.SortFunc(list, func(a, b txn.Member) int { return cmp.Compare(a.ID, b.ID) })
	return list
}

// ZabMembers is a list as the replicated log knows it.
func ZabMembers(members []Member) []zab.Member {
	list := make([]zab.Member, len(members))
	for i, m := range members {
		list[i] = zab.Member{ID: m.ID, Observer: m.Observer}
	}
	return list
}

// SameMembers reports whether two lists name the same members in the same roles at the same addresses.
func SameMembers(a, b []Member) bool {
	return slices.Equal(FromMembers(a), FromMembers(b))
}

// Speaker is a node in a conversation: the store that speaks for it, and the newest feature
// level that its program knows.
type Speaker struct {
	Node  zab.NodeID
	Store txn.StoreID
	Level txn.FeatureLevel
	// Peer and API are where it says that it is, if it does.
	Peer, API string
}
