// SPDX-License-Identifier: Apache-2.0

package txn

import (
	"cmp"
	"crypto/sha256"
	"slices"

	"github.com/concordtx/concord/protocol/zab"
)

// Digest is a rolling hash over everything that a table folded. Two tables at the
// same position have the same digest, or one of the nodes is broken.
type Digest [sha256.Size]byte

// ClusterState is the part of a state machine that concerns the cluster itself: the fold of the
// records about its id, its members, their stores and what they know, and its agents. Every state machine on the
// log has one in it, since both are written together.
type ClusterState struct {
	cluster ClusterID
	digest  Digest
	zxid    zab.Zxid
	stores  []MemberStore
	level   FeatureLevel
	members *Members
	agents  Agents
}

// NewClusterState makes it from what a store kept; the zero Meta for a new one.
func NewClusterState(m Meta) ClusterState {
	return ClusterState{cluster: m.Cluster, digest: m.Digest, zxid: m.Zxid, stores: m.Stores, level: m.Level,
		members: m.Members, agents: m.Agents}
}

// State is what a state machine shows of the cluster.
func (s *ClusterState) State() *ClusterState { return s }

// Zxid is where in the log the last entry stands that was folded.
func (s *ClusterState) Zxid() zab.Zxid { return s.zxid }

// Digest is the rolling hash up to there.
func (s *ClusterState) Digest() Digest { return s.digest }

// Stores returns the stores of the nodes, by node. It must not be changed.
func (s *ClusterState) Stores() []MemberStore { return s.stores }

// Fold folds a record if it concerns the cluster, and ignores all others.
func (s *ClusterState) Fold(at zab.Zxid, r Record) {
	switch r := r.(type) {
	case Form:
		if s.cluster == 0 {
			s.cluster = r.Cluster
		}
	case MemberRecord:
		s.member(r)
	case HoldsRecord:
		s.holds(r)
	case MembersRecord:
		s.takeMembers(r, at)
	case AgentRecord:
		s.agents = s.agents.with(r)
	case FeatureRecord:
		s.level = max(s.level, r.Level)
	}
}

// MemberStore says which store a node has, and how much of the log it is known to hold.
type MemberStore struct {
	Node  uint64
	Store StoreID
	Holds zab.Zxid
}

// Cluster returns the id of the cluster, or zero before it was formed.
func (s *ClusterState) Cluster() ClusterID { return s.cluster }

// Level returns what every member of the cluster knows.
func (s *ClusterState) Level() FeatureLevel { return max(s.level, LevelBase) }

// Members returns what the log says of the members of the cluster, nil before it does.
func (s *ClusterState) Members() *Members { return s.members }

// Agents returns the last lives of agents that have voted.
func (s *ClusterState) Agents() Agents { return s.agents }

// Store returns the store that a node is known to have.
func (s *ClusterState) Store(node uint64) (StoreID, bool) {
	for _, m := range s.stores {
		if m.Node == node {
			return m.Store, true
		}
	}
	return StoreID{}, false
}

func (s *ClusterState) member(r MemberRecord) {
	_, known := s.Store(r.Node)
	switch stores := slices.Clone(s.stores); {
	case r.Store == StoreID{}:
		s.stores = slices.DeleteFunc(stores, func(m MemberStore) bool { return m.Node == r.Node })
	case !known:
		stores = append(stores, MemberStore{Node: r.Node, Store: r.Store})
		slices.SortFunc(stores, func(a, b MemberStore) int { return cmp.Compare(a.Node, b.Node) })
		s.stores = stores
	}
}

func (s *ClusterState) holds(r HoldsRecord) {
	i := slices.IndexFunc(s.stores, func(m MemberStore) bool { return m.Node == r.Node && m.Store == r.Store })
	if i < 0 || !s.stores[i].Holds.Less(r.Upto) {
		return
	}
	s.stores = slices.Clone(s.stores)
	s.stores[i].Holds = r.Upto
}

// takeMembers folds a MembersRecord.
func (s *ClusterState) takeMembers(r MembersRecord, at zab.Zxid) {
	m := Members{List: r.Members, At: at}
	if old := s.members; old != nil {
		m.Settled = slices.Equal(old.List, r.Members)
		m.Known, m.Key = old.Known, old.Key
	}
	if r.Key != "" {
		m.Key = r.Key
	}
	if p := Print(r.Members); !slices.Contains(m.Known, p) {
		m.Known = append(slices.Clip(m.Known), p)
		m.Known = m.Known[max(0, len(m.Known)-knownLists):]
	}
	s.members = &m
	// The store of one who is no member any more says nothing about who comes with its ID.
	s.stores = slices.DeleteFunc(slices.Clone(s.stores), func(x MemberStore) bool {
		_, stays := m.Member(x.Node)
		return !stays
	})
	if len(s.stores) == 0 {
		s.stores = nil
	}
}

// Roll extends the digest by one entry: what comes before the records of it are folded.
func (s *ClusterState) Roll(at zab.Zxid, data []byte) {
	h := sha256.New()
	h.Write(s.digest[:])
	h.Write(at.Append(nil))
	h.Write(data)
	h.Sum(s.digest[:0])
	s.zxid = at
}
