// SPDX-License-Identifier: Apache-2.0

package threepcworld

import (
	"fmt"
	"strings"

	"github.com/concordtx/concord/internal/explore"
	"github.com/concordtx/concord/protocol/threepc"
)

// Trace tells a way as a story: what happens, and where everybody stands then.
func (w *threePC) Trace(way []explore.Move) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s. The shortest way, step by step.\n", w.size)
	s := w.Start()
	for n, m := range way {
		fmt.Fprintf(&b, "\n# %d. %s\n", n+1, w.tellMove(&s, m))
		w.Do(&s, m)
		w.scene(&b, &s)
	}
	if broken := w.Broken(&s); broken != "" {
		fmt.Fprintf(&b, "\n# %s\n", broken)
	}
	return b.String()
}

func (w *threePC) scene(b *strings.Builder, s *sitting) {
	f := w.folds[s.log]
	switch {
	case f.open:
		fmt.Fprintf(b, "log: open, %v accepted in (%d,%v), promised (%d,%v)\n", f.witness.Accepted,
			f.witness.LastAttempt.N, f.witness.LastAttempt.By, f.witness.LastElected.N, f.witness.LastElected.By)
	default:
		fmt.Fprintf(b, "log: %v\n", f.decided.Decision)
	}
	fmt.Fprintln(b, w.leaders.cores[s.leader])
	for n := range w.size.Agents {
		fmt.Fprintf(b, "%v; journal %v, database %v\n", w.agents.cores[s.agents[n]],
			w.entries[s.disks[n]].State, s.bases[n].state)
	}
}

func (w *threePC) tellMove(s *sitting, m explore.Move) string {
	n := int(m &^ kindMask)
	agent := func(what string) string { return fmt.Sprintf("Agent %s %s.", w.members[n].Agent, what) }
	switch m & kindMask {
	case getLetter:
		l := w.letters[n]
		to := "The leader"
		if l.to != theLeader {
			to = "Agent " + w.members[l.to].Agent
		}
		r := l.event.(threepc.Received)
		text := strings.TrimPrefix(fmt.Sprintf("%T%v", r.Message, r.Message), "threepc.")
		return fmt.Sprintf("%s hears of %v: %s.", to, r.From, text)
	case logGoesOn:
		return strings.TrimPrefix(fmt.Sprintf("The log delivers %T.", w.records[s.records[0]]), "txn.")
	case journalForces:
		return agent("has " + w.entries[s.writes[n][0]&^unforced-1].State.String() + " in its journal")
	case baseRefuses:
		return agent("has a database that refuses to prepare")
	case baseObeys:
		if s.bases[n].ask {
			return agent("has a database that prepares")
		}
		return agent("has a database that finishes: " + s.bases[n].finish.String())
	case baseLists:
		return agent("finds its branch prepared")
	case markPasses:
		return "The watermark passes the transaction."
	case tombstoneComes:
		return "The log delivers somebody's abort, which nothing has proven."
	case leaderFails:
		return "The leader crashes, another one goes on."
	case agentFails:
		return agent("crashes and starts again")
	case clientAsks:
		return "The client asks to commit."
	case leaderGivesUp:
		return "Somebody asks the leader for a rollback."
	case leaderRepeats:
		return "The leader asks again."
	case leaderTries:
		return "The leader begins an election."
	case leaderWaited:
		return "The leader waits no longer for answers."
	case agentTries:
		return agent("begins an election")
	case agentWaited:
		return agent("waits no longer for answers")
	case agentGivesUp:
		return agent("gives its branch up, if it may")
	}
	return agent("asks again")
}
