// SPDX-License-Identifier: Apache-2.0

package zabworld

import (
	"fmt"
	"slices"
	"strings"

	"github.com/concordtx/concord/internal/explore"
)

// Trace tells a way in the language of protocol/zab's TestTraces, as a file for its
// testdata/traces. The answers of the nodes are left for "go test ./protocol/zab -run
// TestTraces -rewrite" to fill in. What a mistake in the driver does has no words there.
func (w *cluster) Trace(way []explore.Move) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s. The shortest way, step by step.\n", w.bounds)
	command := func(format string, args ...any) { fmt.Fprintf(&b, "\n"+format+"\n----\n", args...) }
	command("cluster voters=3 ballots=0 started=0 sync=%d init=%d", syncTicks, initTicks)
	w.Start() // and know the way to it
	way = slices.Concat(w.setup, way)
	s := state{hosts: w.downs, left: comingUp}
	for n, m := range way {
		if n == len(w.setup) {
			if n > nodes {
				b.WriteString("\n# That was the start.\n")
			}
			s.left = w.left()
		}
		for _, c := range w.commands(&s, m) {
			command("%s", c)
		}
		applied := [nodes]int{}
		for i := range nodes {
			applied[i] = w.hosts[s.hosts[i]].place
		}
		w.Do(&s, m)
		for i := range nodes {
			if w.hosts[s.hosts[i]].place > applied[i] {
				command("apply n%d", i+1)
			}
		}
	}
	for i := range nodes {
		command("disk n%d", i+1)
	}
	command("status")
	if s.bad != 0 {
		fmt.Fprintf(&b, "\n# %s\n", w.bads[s.bad])
	}
	return b.String()
}

// commands says how a move is told.
func (w *cluster) commands(s *state, m explore.Move) []string {
	one := func(format string, args ...any) []string { return []string{fmt.Sprintf(format, args...)} }
	a, b := int(m&detail>>4), int(m&detail&15)
	switch m & kinds {
	case deliver, deliverKeep:
		from, to := ends(b)
		if s.wires[b].messages[0] == gone {
			return one("lost n%d n%d", to+1, from+1)
		}
		commands := one("deliver n%d->n%d 1", from+1, to+1)
		if m&kinds == deliverKeep {
			commands = slices.Concat(one("keep n%d->n%d", from+1, to+1), commands)
		}
		return commands
	case again:
		return one("replay now")
	case persist:
		return one("persist n%d %d", a+1, b)
	case startNode:
		if a == 1 {
			return one("start n%d anew", b+1)
		}
		return one("start n%d", b+1)
	case follow:
		return one("follow n%d n%d", a+1, b+1)
	case elect:
		return one("elect n%d", b+1)
	case propose:
		return one("propose n%d %c", b+1, 'a'+rune(s.left.proposals)-1)
	case toggle:
		return one("propose n%d %s", a+1, (&actor{host: w.hosts[s.hosts[a]]}).toggled(b))
	case tell:
		return one("learn n%d n%d", a+1, b+1)
	case handOver:
		return one("transfer n%d n%d", a+1, b+1)
	case crash:
		return one("crash n%d %d", a+1, b)
	case breakBoth:
		return []string{fmt.Sprintf("drop n%d->n%d", a+1, b+1), fmt.Sprintf("drop n%d->n%d", b+1, a+1)}
	case breakOne:
		from, to := ends(b)
		return one("drop n%d->n%d", from+1, to+1)
	case tickOnce:
		return one("tick n%d 1", b+1)
	}
	return one("tick n%d %d", b+1, pause)
}
