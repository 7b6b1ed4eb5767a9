// SPDX-License-Identifier: Apache-2.0

package threepcworld

import (
	"fmt"
	"strings"

	"github.com/concordtx/concord/internal/explore"
	"github.com/concordtx/concord/protocol/threepc"
	"github.com/concordtx/concord/txn"
)

// leftAlone tries each set of members that is left alone in a state, with the net lost.
func (w *threePC) leftAlone(s *sitting) string {
	t := *s
	t.net, t.tried, t.accepted = [netWords]uint64{}, [2]uint64{}, [16]uint8{}
	t.crashes, t.watermarks, t.tombstones, t.elections, t.decided, t.fixed = 0, 0, 0, 0, 0, 0
	key := fmt.Sprint(t)
	found, known := w.alone[key]
	if known {
		return found
	}
	for set := 1; set < 1<<(w.size.Agents+1) && found == ""; set++ {
		in := make(map[int]bool)
		for n := range w.size.Agents {
			in[n] = set>>n&1 == 1
		}
		in[theLeader] = set>>w.size.Agents&1 == 1
		u := t
		for in[theLeader] && u.records[0] != 0 { // what is proposed counts as a record
			w.deliver(&u)
		}
		if w.mustFinish(&u, in) && !w.finishes(u, in) {
			found = fmt.Sprintf("T7: those left alone do not finish: %s", w.names(in))
		}
	}
	w.alone[key] = found
	return found
}

func (w *threePC) names(in map[int]bool) string {
	var names []string
	for n := range w.size.Agents {
		if in[n] {
			names = append(names, w.members[n].Agent)
		}
	}
	if in[theLeader] {
		names = append(names, "the cluster")
	}
	return strings.Join(names, " and ")
}

// mustFinish reports whether members that are left alone have to come to an end.
func (w *threePC) mustFinish(s *sitting, in map[int]bool) bool {
	f := &w.folds[s.log]
	var long, short []txn.Party
	entries := map[txn.PartyID]bool{}
	if in[theLeader] {
		if !f.open {
			return true // it has a decision, or may write a tombstone
		}
		short, entries[txn.PartyID{}] = f.witness.Members, true
	}
	for n := range w.size.Agents {
		if !in[n] {
			continue
		}
		e := w.agents.cores[s.agents[n]].Entry()
		switch {
		case e.State >= threepc.Committed, s.bases[n].state == working && e.State == threepc.Nothing:
			return true
		case e.State != threepc.Nothing:
			entries[w.members[n]] = true
			if long = e.List.Members; e.List.Short {
				short = long
			}
		}
	}
	list := long
	if short != nil {
		list = short
	}
	have := 0
	for _, m := range list {
		if entries[m.PartyID] {
			have++
		}
	}
	return 2*have > len(list) || 2*have == len(list) && have > 0 && entries[txn.PartyID{}]
}

// finishes has members go on alone, without crashes and losses, and reports whether those with an
// entry come to an end.
func (w *threePC) finishes(s sitting, in map[int]bool) bool {
	s.elections = 100
	candidates := []int{theLeader}
	for n := range w.size.Agents {
		candidates = append(candidates, n)
	}
	for range 3 {
		for _, c := range candidates {
			if !in[c] {
				continue
			}
			w.settleDown(&s, in)
			if w.atEnd(&s, in) {
				return true
			}
			if c == theLeader {
				w.do(&s, leaderTries)
			} else {
				w.do(&s, agentTries|explore.Move(c))
			}
			w.settleDown(&s, in)
			if c == theLeader {
				w.do(&s, leaderWaited)
			} else {
				w.do(&s, agentWaited|explore.Move(c))
			}
		}
	}
	w.settleDown(&s, in)
	return w.atEnd(&s, in)
}

// settleDown does all that members do without a clock but for asking once more: journals,
// databases, the log and letters.
func (w *threePC) settleDown(s *sitting, in map[int]bool) {
	for round := range 2 {
		if in[theLeader] {
			w.do(s, leaderRepeats)
		}
		for n := range w.size.Agents {
			if in[n] {
				w.do(s, agentRepeats|explore.Move(n))
				if s.bases[n].state == ready {
					w.do(s, baseLists|explore.Move(n))
				}
			}
		}
		if round == 1 && in[theLeader] && w.folds[s.log].decided.Decision == txn.Undecided && !w.folds[s.log].open {
			w.do(s, leaderGivesUp)
		}
		for busy := true; busy; {
			busy = false
			if in[theLeader] && s.records[0] != 0 {
				w.deliver(s)
				busy = true
			}
			for n := range w.size.Agents {
				if !in[n] {
					continue
				}
				for s.writes[n][0] != 0 {
					w.forced(s, n)
					busy = true
				}
				if s.bases[n].ask || s.bases[n].finish != txn.Undecided {
					w.baseDoes(s, n)
					busy = true
				}
			}
			letters := s.net
			s.net = [netWords]uint64{}
			for at := range w.letters {
				if letters[at/64]>>(at%64)&1 == 1 && in[w.letters[at].to] && in[w.letters[at].from] {
					w.do(s, getLetter|explore.Move(at))
					busy = true
				}
			}
		}
	}
}

// atEnd reports whether nobody among them waits for a decision.
func (w *threePC) atEnd(s *sitting, in map[int]bool) bool {
	if in[theLeader] && w.folds[s.log].open {
		return false
	}
	for n := range w.size.Agents {
		p := w.agents.cores[s.agents[n]]
		if in[n] && p.InDoubt() && (in[theLeader] || p.Entry().State != threepc.Nothing) {
			return false
		}
	}
	return true
}
