// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"fmt"
	"strings"
)

// Violation says that something happened that must never happen. ID is the name of the
// check: L1 to L6, S1 to S15 and V1 to V6 as in the specification of the core, or
// "panic" when a core gave up by itself.
type Violation struct {
	ID     string
	Detail string
	Seed   uint64
	Steps  int
	At     Instant
	Swarm  Swarm
	Trace  []string // the last events before it
	Replay string   // the test that replays it: its package, and its name
}

// Error tells the whole story and ends with the command that replays it.
func (v *Violation) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\nat step %d, %s, seed %d\n%s\n", v.ID, v.Detail, v.Steps, v.At, v.Seed, v.Swarm)
	for _, line := range v.Trace {
		fmt.Fprintln(&b, " ", line)
	}
	fmt.Fprintf(&b, "replay: go test %s -sim.seed=%d -sim.seeds=1", v.Replay, v.Seed)
	return b.String()
}

func (t Instant) String() string { return fmt.Sprintf("%d.%03d ms", t/Millisecond, t%Millisecond) }

// trace keeps the last lines of a run, and a hash of all events that needs no lines.
type trace struct {
	Hash  uint64
	on    bool
	lines []string // a ring
	count int
}

const traceLines = 40

func (t *trace) add(format string, args ...any) {
	if !t.on {
		return
	}
	line := fmt.Sprintf(format, args...)
	if len(t.lines) < traceLines {
		t.lines = append(t.lines, line)
	} else {
		t.lines[t.count%traceLines] = line
	}
	t.count++
}

// Last returns the kept lines, oldest first.
func (t *trace) Last() []string {
	if t.count <= traceLines {
		return t.lines
	}
	cut := t.count % traceLines
	return append(append([]string(nil), t.lines[cut:]...), t.lines[:cut]...)
}
