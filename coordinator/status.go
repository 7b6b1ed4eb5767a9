// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"slices"
	"time"

	"github.com/concordtx/concord/coordinator/commit"
	"github.com/concordtx/concord/coordinator/peer"
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

// publishInterval is how old a Snapshot may get. Changes of role show at once.
const publishInterval = 250 * time.Millisecond

// Snapshot is the cluster as one node sees it.
type Snapshot struct {
	Cluster   txn.ClusterID
	Node      zab.NodeID
	Leader    zab.NodeID // 0 if there is none that this node knows
	Epoch     zab.Epoch
	Nodes     []NodeState
	Resources []ResourceState
	// Figures are what the leader knows; see Known.
	Figures *commit.Figures
	// Committed and Aborted count the first decisions that this node has delivered since its
	// start, as every node does.
	Committed, Aborted uint64
	// Decided counts those that this node made as the leader, so one node counts each of them.
	Decided    commit.Decided
	Deadlocks  uint64 // between databases that this node has found as the leader
	Leases     int    // of clients, as far as the log is applied here
	Disk       Disk   // of this node
	Log        LogState
	TurnedAway uint64 // connections to the peer port that were refused
	Turns      Turns
	Warnings   []string
	// Distrusted is why this node answers nothing, because of what it knows of other nodes'
	// states; empty: it answers.
	Distrusted string
	// Zxid is the position in the log that the state of this node reflects.
	Zxid zab.Zxid
	// Present is when this node last knew an established leader, which is now if it does.
	Present time.Time
}

// presentFor is how long the state of a node counts as the present after the last word of
// an established leader was acknowledged. It is longer than an election takes.
const presentFor = 2 * time.Second

// CutOff returns for how long the node has been cut off from an established leader, because of
// the network, or because it was stopped itself; 0 if it is not. It has no leader then, whatever
// the snapshot says.
func (s *Snapshot) CutOff(now time.Time) time.Duration {
	if d := now.Sub(s.Present); d > presentFor {
		return d
	}
	return 0
}

// NodeState is one member.
type NodeState struct {
	replica.Member
	State     string // looking, following, leading, observing or unknown
	Epoch     zab.Epoch
	Zxid      zab.Zxid
	Lag       uint64 // entries behind the leader, as far as both are in one epoch
	Reachable bool
}

// ResourceState is one resource as this node finds it.
type ResourceState struct {
	Name, Driver string
	commit.Health
	// Remembered is what the log remembers of the database, as far as it is applied here.
	Remembered txn.Remembered
}

// Status returns the latest snapshot. It must not be changed.
func (n *Node) Status() *Snapshot { return n.snapshot.Load() }

// ownReport is what this node tells its peers about itself.
func (l *loop) ownReport() peer.Report {
	s := l.core.Log()
	return peer.Report{Role: s.Role, Phase: s.Phase, Established: s.Established, Leader: s.Leader, Epoch: s.Epoch,
		Tail:    s.Tail,
		Applied: l.core.Zxid(), Digest: l.core.State().Digest(), Clock: time.Now(), Disk: l.disk().report()}
}

// toldReport is what the peers hear: a leader adds what only it knows.
func (l *loop) toldReport() peer.Report {
	r := l.ownReport()
	if s := l.snapshot.Load(); l.core.Leading() && s.Leader == l.config.Node {
		r.Figures = s.Figures
	}
	return r
}

// publish makes a snapshot for everybody who asks.
func (l *loop) publish(now time.Time) {
	l.published = now
	own := l.ownReport()
	s := &Snapshot{Cluster: l.core.State().Cluster(), Node: l.config.Node, Epoch: own.Epoch,
		Disk: l.disk(), Log: l.logState(), Zxid: own.Applied,
		TurnedAway: l.peers.TurnedAway(), Turns: l.turns.read()}
	if own.Established && !l.core.Doubts() && l.core.Distrusted() == nil && now.Sub(l.ticked) < presentFor {
		s.Leader, l.present = own.Leader, now
	}
	s.Present = l.present
	reports := map[zab.NodeID]peer.Report{l.config.Node: own}
	for id, r := range l.reports {
		if now.Sub(r.at) < 3*reportInterval {
			reports[id] = r.Report
		}
	}
	for _, m := range l.core.Known().Members {
		s.Nodes = append(s.Nodes, l.nodeState(m, reports, s.Leader))
		s.Warnings = append(s.Warnings, diskOf(reports[m.ID].Disk).warnings(m.ID)...)
	}
	s.Leases = len(l.commits.Leases().Active)
	s.Committed, s.Aborted, s.Decided = l.commits.Counts()
	s.Deadlocks = l.commits.Deadlocks()
	if err := l.core.Distrusted(); err != nil {
		s.Distrusted = err.Error()
	}
	for _, r := range l.config.Resources {
		state := ResourceState{Name: r.Name(), Driver: r.Driver(), Health: l.workers[r.Name()].state()}
		if why := l.commits.Unfit(r.Name()); why != "" {
			state.OK, state.Err = false, why
		}
		state.Remembered = l.rememberedOf(r.Name())
		if state.Remembered.Quarantine != nil {
			s.Warnings = append(s.Warnings, state.Err)
		}
		s.Resources = append(s.Resources, state)
	}
	s.Warnings = append(s.Warnings, l.core.Warnings()...)
	s.Warnings = append(s.Warnings, l.peers.Refusals()...)
	if l.config.Warnings != nil {
		s.Warnings = append(s.Warnings, l.config.Warnings()...)
	}
	switch s.Leader {
	case 0:
	case l.config.Node:
		if l.core.Leading() {
			s.Figures = l.ownFigures(now, s.Resources)
			s.Figures.Warnings = distinct(append(s.Figures.Warnings, s.Warnings...))
			s.Warnings = s.Figures.Warnings
		}
	default:
		if s.Figures = l.heardFigures(s.Leader, s.Epoch, now); s.Figures != nil {
			s.Warnings = append(s.Warnings, s.Figures.Warnings...)
		}
	}
	s.Warnings = distinct(s.Warnings)
	l.snapshot.Store(s)
}

func (n *Node) rememberedOf(resource string) txn.Remembered {
	if list := n.remembered.Load(); list != nil {
		for _, r := range *list {
			if r.Resource == resource {
				return r
			}
		}
	}
	return txn.Remembered{Resource: resource}
}

func distinct(texts []string) []string {
	slices.Sort(texts)
	return slices.Compact(texts)
}

func (l *loop) nodeState(m replica.Member, reports map[zab.NodeID]peer.Report, leader zab.NodeID) NodeState {
	state := NodeState{Member: m, State: "unknown", Reachable: m.ID == l.config.Node || l.peers.Reachable(m.ID)}
	r, ok := reports[m.ID]
	if !ok {
		state.Reachable = false
		return state
	}
	state.State, state.Epoch, state.Zxid = roleNames[r.Role], r.Epoch, r.Tail
	if l.standings[m.ID].Distrusted {
		state.State = "diverged"
	}
	if lead, ok := reports[leader]; ok && r.Tail.Less(lead.Tail) {
		state.Lag = lead.Tail.Counter
		if r.Tail.Epoch == lead.Tail.Epoch {
			state.Lag -= r.Tail.Counter
		}
	}
	return state
}

var roleNames = [...]string{zab.Looking: "looking", zab.Following: "following", zab.Leading: "leading",
	zab.Observing: "observing"}

// figuresFor is how long what the leader said about itself is taken for the present. It says
// it every reportInterval.
const figuresFor = 3 * time.Second

// Known returns what the leader knows, or nil if that is unknown here: this node knows no leader,
// or has not heard of it for too long.
func (s *Snapshot) Known(now time.Time) *commit.Figures {
	if f := s.Figures; f != nil && s.Leader != 0 && s.CutOff(now) == 0 && now.Sub(f.At) <= figuresFor {
		return f
	}
	return nil
}

// ownFigures returns the figures of this node as the leader.
func (l *loop) ownFigures(now time.Time, resources []ResourceState) *commit.Figures {
	f := l.commits.Figures(now)
	for i := range f.Resources {
		f.Resources[i].Driver, f.Resources[i].Health = resources[i].Driver, resources[i].Health
	}
	return f
}

// heardFigures returns what a leader has reported of itself, nil if nothing lately.
func (l *loop) heardFigures(leader zab.NodeID, epoch zab.Epoch, now time.Time) *commit.Figures {
	r, ok := l.reports[leader]
	if !ok || r.Role != zab.Leading || !r.Established || r.Epoch != epoch || now.Sub(r.at) > figuresFor ||
		r.Figures == nil {
		return nil
	}
	f := *r.Figures // readers have the one before
	f.At = r.at
	return &f
}
