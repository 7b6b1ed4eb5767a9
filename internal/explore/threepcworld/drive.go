// SPDX-License-Identifier: Apache-2.0

package threepcworld

import (
	"fmt"
	"math/bits"
	"slices"
	"strings"

	"github.com/concordtx/concord/protocol"
	"github.com/concordtx/concord/protocol/threepc"
	"github.com/concordtx/concord/txn"
)

// What the drivers make of effects.

func (w *threePC) carryOutLeader(before, after *threepc.Coordinator, e protocol.Event, all []protocol.Effect, o *deed) {
	for _, f := range all {
		switch f := f.(type) {
		case threepc.Send:
			w.post(&o.net, theLeader, f.To, f.Message)
			w.note(o, f.Message)
			if d, ok := f.Message.(threepc.Decided); ok {
				o.told |= 1 << d.Decision
			}
		case threepc.Propose:
			o.records = append(o.records, w.record(f.Record))
			if p, ok := f.Record.(txn.ProvenRecord); ok {
				if election, _ := before.Running(); election != (txn.Election{}) && p.Decision != txn.Undecided {
					if r, ok := e.(threepc.Received); ok {
						if _, ack := r.Message.(threepc.Ack); ack {
							o.fixed = w.election(election)
						}
					}
				}
			}
		case protocol.Propose:
			if f.Decision == txn.Commit {
				o.records = append(o.records, w.record(txn.CommitRecord{ID: w.id, Branches: f.Branches}))
			} else {
				o.records = append(o.records, w.record(txn.AbortRecord{ID: w.id}))
			}
		case protocol.Finish: // by a message to the agent of the branch
			w.post(&o.net, theLeader, w.members[f.No], threepc.Decided{Decision: f.Decision})
			o.told |= 1 << f.Decision
		case protocol.Reply:
			decision := txn.Commit
			if f.Outcome == txn.Aborted {
				decision = txn.Abort
			}
			o.told |= 1 << decision
		case protocol.End:
			o.ended = true
		case threepc.Breach:
			o.breach = fmt.Sprintf("T1: the leader knows %v, and heard %v from %v", f.Known, f.Told, f.From)
		}
	}
	from, _ := before.Running()
	to, _ := after.Running()
	o.begun = from != to && to.N > 1 && from.Less(to)
}

func (w *threePC) carryOutAgent(before, after *threepc.Participant, e protocol.Event, all []protocol.Effect, o *deed) {
	from, _ := before.Running()
	to, _ := after.Running()
	o.begun = from != to && from.Less(to)
	self := 0
	for n := range w.size.Agents {
		if before.Self() == w.members[n] {
			self = n
		}
	}
	for _, f := range all {
		switch f := f.(type) {
		case threepc.Send:
			w.post(&o.net, self, f.To, f.Message)
			w.note(o, f.Message)
			switch m := f.Message.(type) {
			case threepc.Decided:
				o.told |= 1 << m.Decision
			case threepc.Vote:
				o.yes = o.yes || m.Vote == txn.VoteYes
			}
		case threepc.Force:
			o.writes = append(o.writes, w.entry(f.Entry)+1)
		case threepc.Write:
			o.writes = append(o.writes, w.entry(f.Entry)+1|unforced)
		case protocol.Prepare:
			o.prepare = true
		case protocol.Finish:
			o.finish = f.Decision
		case threepc.Breach:
			o.breach = fmt.Sprintf("T1: %v knows %v, and heard %v from %v", before.Self(), f.Known, f.Told, f.From)
		}
	}
	heard, acked := false, false
	if r, ok := e.(threepc.Received); ok {
		_, heard = r.Message.(threepc.Decided)
		_, acked = r.Message.(threepc.Ack)
	}
	switch is, was := after.Entry(), before.Entry(); {
	case heard || is.State == was.State:
	case acked && is.State >= threepc.Committed:
		o.fixed = w.election(from)
	case is.State == threepc.Committed:
		o.fixed = w.election(is.LastAttempt) // on its own word, as it may abort without a vote
	}
}

func (w *threePC) leaderStep(s *sitting, at int, e protocol.Event) bool {
	return w.leaderDoes(s, w.leaders.step(s.leader, at, e))
}

func (w *threePC) leaderDoes(s *sitting, o *deed) bool {
	if o.begun && s.elections == 0 || !queue(s.records[:], o.records) {
		return false
	}
	w.take(s, o)
	s.leader = o.next
	return true
}

func (w *threePC) agentStep(s *sitting, n, at int, e protocol.Event) bool {
	return w.agentDoes(s, n, w.agents.step(s.agents[n], at, e))
}

func (w *threePC) agentDoes(s *sitting, n int, o *deed) bool {
	if o.begun && s.elections == 0 || !queue(s.writes[n][:], o.writes) {
		return false
	}
	w.take(s, o)
	s.agents[n] = o.next
	if o.yes && w.entries[s.disks[n]].State == threepc.Nothing {
		s.fail(w, "T2: agent %v voted yes and has nothing in its journal", w.members[n])
	}
	s.bases[n].ask = s.bases[n].ask || o.prepare
	if o.finish != txn.Undecided {
		s.bases[n].finish = o.finish
	}
	return true
}

// queue adds to what is under way, if there is room for all of it.
func queue(q, more []uint16) bool {
	free := slices.Index(q, 0)
	if free < 0 {
		free = len(q)
	}
	if len(more) > len(q)-free {
		return false
	}
	copy(q[free:], more)
	return true
}

// take lets the effects of a step have their way.
func (w *threePC) take(s *sitting, o *deed) {
	if o.begun {
		s.elections--
	}
	for i := range s.net {
		s.net[i] |= o.net[i]
	}
	s.decided |= o.told
	s.ended = s.ended || o.ended
	if o.fixed != 0 && !w.quorum(s.accepted[o.fixed]) {
		s.fail(w, "T5: decided in an election that no quorum has accepted")
	}
	if s.fixed == 0 {
		s.fixed = o.fixed
	}
	s.tried[0] |= o.tried[0]
	s.tried[1] |= o.tried[1]
	if o.breach != "" && s.bad == 0 {
		s.bad = w.breach(o.breach)
	}
}

// quorum reports whether a set of members can decide, where all have voted Yes.
func (w *threePC) quorum(set uint8) bool {
	n, all := bits.OnesCount8(set), w.size.Agents-w.size.ReadOnly+1
	return 2*n > all || 2*n == all && set>>theLeader&1 == 1
}

func (w *threePC) breach(text string) uint8 {
	at := slices.Index(w.bads, text)
	if at < 0 {
		at = len(w.bads)
		w.bads = append(w.bads, text)
	}
	return uint8(at)
}

func (s *sitting) fail(w *threePC, format string, args ...any) {
	if s.bad == 0 && !(w.deaf && strings.HasPrefix(format, "T5")) {
		s.bad = w.breach(fmt.Sprintf(format, args...))
	}
}
