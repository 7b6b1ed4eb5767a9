// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

// TestTraces plays the stories in testdata: a cluster of some nodes that carry a register. Each
// line is something that happens, and below it stands what the nodes note and answer. In the end
// stands what each of them is and holds.
func TestTraces(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		var w *world
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "cluster":
				size, err := strconv.Atoi(d.CmdArgs[0].Key)
				require.NoError(t, err)
				w = newWorld(t, size)
			case "then":
			default:
				d.Fatalf(t, "no command is called %s", d.Cmd)
			}
			var b strings.Builder
			for line := range strings.Lines(d.Input) {
				fmt.Fprintf(&b, "%s\n", strings.TrimSpace(line))
				w.happens(strings.Fields(line))
				for _, text := range w.takeNotes() {
					fmt.Fprintf(&b, "  > %s\n", text)
				}
			}
			for _, m := range w.members {
				fmt.Fprintln(&b, w.nodes[m.ID].describe())
			}
			return b.String()
		})
	})
}

// happens carries out one line of a story.
func (w *world) happens(words []string) {
	w.t.Helper()
	who := func() zab.NodeID {
		id, err := strconv.ParseUint(words[1], 10, 64)
		require.NoError(w.t, err, words)
		return zab.NodeID(id)
	}
	switch words[0] {
	case "pass": // pass 2s
		d, err := time.ParseDuration(words[1])
		require.NoError(w.t, err, words)
		w.pass(d)
	case "elect":
		w.leader()
	case "write": // write 1 text
		w.ask(who(), func(r uint64) Event { return writeAsked{Request: r, Value: words[2]} })
	case "read":
		w.ask(who(), func(r uint64) Event { return readAsked{Request: r} })
	case "crash":
		w.crash(who())
	case "start":
		w.start(who())
		w.settle()
	case "save": // the state goes to the disk
		w.save(w.nodes[who()])
	case "cut": // the log, behind what is saved
		n := w.nodes[who()]
		n.inbox = append(n.inbox, Peer{Event: zab.Compact{Upto: n.disk.applied, Must: n.disk.applied}})
		w.settle()
	case "lead": // lead 2: the leader hands over to node 2
		w.ask(w.leader().id, func(r uint64) Event {
			return LeadAsked{Request: r, Node: who(), Who: "ann",
				Why: "to see it"}
		})
	case "claim": // claim 1 2: node 1 hears of node 2 that its state differs
		n := w.nodes[who()]
		other, err := strconv.ParseUint(words[2], 10, 64)
		require.NoError(w.t, err, words)
		n.inbox = append(n.inbox, StateSeen{Node: zab.NodeID(other), At: n.core.Zxid(), Digest: txn.Digest{1}})
		w.settle()
	default:
		w.t.Fatalf("nothing is called %s", words[0])
	}
}

// takeNotes returns what was noted and answered since the last time.
func (w *world) takeNotes() (texts []string) {
	texts, w.notes = w.notes, nil
	for _, request := range slices.Sorted(maps.Keys(w.answers)) {
		switch a := w.answers[request]; {
		case a.err != nil:
			texts = append(texts, fmt.Sprintf("answer %d: refused: %v", request, a.err))
		default:
			texts = append(texts, fmt.Sprintf("answer %d: %q at %v", request, a.value, a.zxid))
		}
	}
	clear(w.answers)
	return texts
}

// describe says what a node is and holds.
func (n *node) describe() string {
	if n.core == nil {
		return fmt.Sprintf("node %d: down", n.id)
	}
	role := map[zab.Role]string{zab.Looking: "looking", zab.Following: "following", zab.Leading: "leading",
		zab.Observing: "observing"}[n.core.Role().Role]
	return fmt.Sprintf("node %d: %s, %q at %v, log from %v", n.id, role, n.state.value, n.core.Zxid(), n.disk.base)
}
