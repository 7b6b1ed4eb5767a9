// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"errors"
	"slices"
	"strings"

	"github.com/concordtx/concord/protocol/zab"
)

// byReason are the situations that a core names itself, when its role changes.
var byReason = map[string]Situation{
	"joined a leader":                         JoinedALeader,
	"a follower is ahead":                     FollowerWasAhead,
	"too few supporters are left":             SupportersLeft,
	"no quorum could be synchronized in time": NotSyncedInTime,
	"synchronization makes no progress":       SyncWithoutProgress,
	"abdicated":                               LeaderAbdicated,
	"lost the quorum of synchronized voters":  LeaderLostQuorum,
	"the leader is silent":                    LeaderFellSilent,
	"the leader stopped leading":              LeaderSaidItLeft,
	"the leader leads no more":                LeaderSaidItLeft,
	"its own disk stalls":                     StalledLeaderYielded,
	"session reset":                           SessionReset,
	"leadership is handed over":               LeadershipHandedOver,
	ResignReason:                              LeaderResigned,
}

const ResignReason = "asked to resign"

// byNote are the situations that a core only writes a line about.
var byNote = []struct {
	part string
	Situation
}{
	{"to another leader", PromisedToAnother},
	{"the log had to be cut beyond what", CutDroppedSession},
	{"dropped: silent", SilentPeerDropped},
	{"dropped: acknowledges nothing", UnacknowledgingPeerDropped},
}

// notice counts the situations that show in one step of a core. The node's role is
// still that of before the step.
func (c *Cluster) notice(n *Node, ev zab.Event, effects []zab.Effect, now zab.Status) {
	hit := c.Check.Counters.Hit
	if r, ok := ev.(zab.Received); ok {
		c.noticeReceived(n, r.Message, effects)
	}
	for _, e := range effects {
		switch e := e.(type) {
		case zab.RoleChanged:
			c.noticeRole(n, ev, e)
		case zab.Note:
			c.noticeNote(e)
		case zab.Send:
			c.noticeSent(n, e.Message, now)
		case zab.Accepted:
			if proposals(effects) < syncedVoters(now) {
				hit(WindowClosed)
			}
		case zab.Refused:
			if errors.Is(e.Err, zab.ErrBusy) {
				hit(ProposalRefusedBusy)
			}
		case zab.ReadFailed:
			if n.Role.Role == zab.Leading && now.Role != zab.Leading {
				hit(ReadFailedByStepDown)
			}
		case zab.Deliver:
			if !n.bootTail.Less(e.Entries[0].Zxid) {
				hit(DeliveredFromDisk)
			}
		}
	}
}

// proposals counts the messages with entries among the effects.
func proposals(effects []zab.Effect) int {
	count := 0
	for _, e := range effects {
		if s, ok := e.(zab.Send); ok {
			if _, ok := s.Message.Body.(zab.Propose); ok {
				count++
			}
		}
	}
	return count
}

func syncedVoters(s zab.Status) int {
	synced := 0
	for _, p := range s.Peers {
		if p.Synced && !p.Observer {
			synced++
		}
	}
	return synced
}

func (c *Cluster) noticeNote(note zab.Note) {
	for _, row := range byNote {
		if strings.Contains(note.Text, row.part) {
			c.Check.Counters.Hit(row.Situation)
		}
	}
}

func (c *Cluster) noticeSent(n *Node, m zab.Message, now zab.Status) {
	hit := c.Check.Counters.Hit
	switch b := m.Body.(type) {
	case zab.Propose:
		if len(b.Entries) > 0 && b.Entries[0].Zxid.Epoch < m.Epoch && n.streamed == m.Session {
			hit(StreamTookMessages)
		}
		n.streamed = m.Session
	case zab.Sync:
		if now.Established && now.Commit != now.Tail {
			hit(JoinedDuringBroadcast)
		}
	case zab.Ballot:
		if b.State == zab.Looking && b.Vote.Leader == 0 && !n.Observer {
			hit(CandidateAbstained)
		}
	}
}

func (c *Cluster) noticeRole(n *Node, ev zab.Event, r zab.RoleChanged) {
	hit := c.Check.Counters.Hit
	if s, ok := byReason[r.Reason]; ok {
		hit(s)
	}
	if r.Reason == "elected" || r.Reason == "elected another" {
		if _, ok := ev.(zab.Tick); ok {
			hit(FinalizeWaited)
		} else {
			hit(FinalizeShortcut)
		}
	}
	if r.Role == zab.Leading && r.Phase == zab.Discovery && r.Reason == "proposes an epoch" {
		if other, ok := c.claims[r.Epoch]; ok && other != n.ID {
			hit(TwoClaimOneEpoch)
		}
		c.claims[r.Epoch] = n.ID
	}
}

// noticeReceived looks at what came, and whether it was refused.
func (c *Cluster) noticeReceived(n *Node, m zab.Message, effects []zab.Effect) {
	hit := c.Check.Counters.Hit
	refused := slices.ContainsFunc(effects, func(e zab.Effect) bool {
		s, ok := e.(zab.Send)
		if !ok || s.Message.Session != m.Session || s.Message.To != m.From {
			return false
		}
		_, ok = s.Message.Body.(zab.Reject)
		return ok
	})
	switch m.Body.(type) {
	case zab.Pong:
		if refused {
			hit(OldPongRefused)
		}
	case zab.Propose, zab.Commit, zab.Ping, zab.NewLeader, zab.UpToDate:
		if refused && m.Epoch < n.Disk.Hard.Accepted {
			hit(OldLeaderRefused)
		}
	}
	if n.Role.Role == zab.Following && Tail(n.Disk.View).Less(watermark(m.Body)) {
		hit(CommitAheadOfTail)
	}
}

// watermark is how far a leader says that entries are committed.
func watermark(b zab.Body) zab.Zxid {
	switch b := b.(type) {
	case zab.Propose:
		return b.Commit
	case zab.Commit:
		return b.Upto
	case zab.Ping:
		return b.Commit
	case zab.UpToDate:
		return b.Commit
	}
	return zab.Zxid{}
}

// noticeCrash looks at what a crash finds unfinished, of which the disk keeps some writes.
func (c *Cluster) noticeCrash(n *Node, keep int) {
	hit := c.Check.Counters.Hit
	if n.syncsWithLeader() {
		hit(CrashDuringSync)
	}
	if n.fetching.Session != 0 {
		hit(SnapshotReceiverCrashed)
	}
	if n.syncing && keep < len(n.Disk.queue) {
		hit(WriteTorn)
	}
	for _, w := range n.Disk.queue[keep:] {
		if w.Install != nil {
			hit(InstallLostInCrash)
		}
	}
}

// noticeWaking looks at a node whose pause ends.
func (c *Cluster) noticeWaking(n *Node) {
	for e, r := range c.Check.reigns {
		if n.Role.Role == zab.Leading && n.Role.Established && r.established && n.Role.Epoch < e {
			c.Check.Counters.Hit(PausedLeaderWoke)
			return
		}
	}
}
