// SPDX-License-Identifier: Apache-2.0

package twopcworld

import (
	"fmt"
	"strings"

	"github.com/concordtx/concord/internal/explore"
	"github.com/concordtx/concord/protocol"
	"github.com/concordtx/concord/protocol/twopc"
	"github.com/concordtx/concord/txn"
)

// Trace tells a way in the language of protocol/twopc/testdata: what the cores heard, as commands
// without their answers, which "go test ./protocol/twopc -run TestTraces -rewrite" fills
// in. That language has one participant, so what other agents hear is told in comments, as
// is what happens at the log and at the resources. Events that only make a core say once
// more what it said are left out.
func (w *twoPC) Trace(way []explore.Move) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s. The shortest way, step by step.\n", w.size)
	d := w.Start()
	if w.size.Agents {
		b.WriteString("\nparticipant new\nopened\n----\n")
	}
	b.WriteString("\ninitiator new\n")
	for n := range w.size.Branches {
		fmt.Fprintf(&b, "enlisted %d\n", n)
	}
	b.WriteString("commit-asked\n----\n")
	leader := "coordinator new"
	for n, m := range way {
		what, core, e := w.tell(&d, m)
		w.Do(&d, m)
		fmt.Fprintf(&b, "\n# %d. %s. %s\n", n+1, what, w.scene(&d))
		if core == "coordinator" {
			core, leader = leader, core
		}
		if core != "" {
			fmt.Fprintf(&b, "\n%s\n%s\n----\n", core, eventText(e))
		}
		if m&kindMask == leaderCrashes {
			leader = "coordinator new"
			if d.coordinator != w.fresh {
				leader = "coordinator resume" // of branches 0 and 1
			}
		}
	}
	if broken := w.Broken(&d); broken != "" {
		fmt.Fprintf(&b, "\n# %s\n", broken)
	}
	return b.String()
}

// scene is what the world looks like from outside.
func (w *twoPC) scene(d *deal) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Log: %v", d.decision)
	if d.ended {
		b.WriteString(", ended")
	}
	b.WriteString("; branches:")
	for _, r := range d.resources {
		if r.state != unused {
			fmt.Fprintf(&b, " %v", r.state)
		}
	}
	if d.told != 0 {
		b.WriteString("; told:")
		for o := txn.Unknown; o <= txn.Aborted; o++ {
			if d.told>>o&1 == 1 {
				fmt.Fprintf(&b, " %v", o)
			}
		}
	}
	return b.String()
}

// tell says what a move is, and which core hears what by it.
func (w *twoPC) tell(d *deal, m explore.Move) (what, core string, e protocol.Event) {
	n := int(m &^ kindMask)
	agent := func(e protocol.Event) (string, string, protocol.Event) {
		what := fmt.Sprintf("The agent of branch %d hears: %s", n, eventText(e))
		if n == 0 {
			return what, "participant", e
		}
		return what, "", nil
	}
	switch m & kindMask {
	case doTask, doTaskNo:
		i := w.tasks[n]
		if i.to == toResource {
			vote := ""
			if m&kindMask == doTaskNo {
				vote = ", and refuses"
			}
			return fmt.Sprintf("The resource of branch %d is asked to %s%s", i.no, effectText(i.effect), vote), "", nil
		}
		return w.heard(i)
	case deliverIt:
		i := w.items[n]
		switch i.to {
		case toLog:
			return "The log takes: " + effectText(i.effect), "", nil
		case toTakeover:
			return fmt.Sprintf("The leader finishes branch %d itself: %s", i.no, effectText(i.effect)), "", nil
		}
		return w.heard(i)
	case logDelivers:
		return "The log delivers", "coordinator",
			protocol.Delivered{Txn: txn.Txn{Decision: d.decision, Branches: d.record()}}
	case leaderFinishes:
		return "The leader finishes what is left", "", nil
	case leaderAborts:
		return "Somebody asks the leader for a rollback", "coordinator", protocol.RollbackAsked{}
	case waitEnds:
		return "The application waits no longer", "initiator", twopc.WaitOver{}
	case scanFinds:
		what = fmt.Sprintf("A scan finds branch %d", n)
		if w.coordinators.cores[d.coordinator].Decision() != txn.Undecided {
			return what, "", nil
		}
		return what, "coordinator", protocol.OrphanMet{}
	case agentTicks:
		return agent(protocol.Tick{})
	case agentAborts:
		return agent(protocol.RollbackAsked{})
	case agentLists:
		return agent(protocol.Listed{})
	case enlistLate:
		return fmt.Sprintf("Branch %d comes late", n), "initiator", twopc.Enlisted{No: txn.BranchNo(n)}
	case resourceForgets:
		return fmt.Sprintf("The resource forgets branch %d", n), "", nil
	case leaderCrashes:
		return "The leader crashes, another one goes on", "", nil
	case initiatorCrashes:
		return "The application crashes", "", nil
	}
	return fmt.Sprintf("The agent of branch %d crashes and starts again", n), "", nil
}

// heard tells of an item that a core hears.
func (w *twoPC) heard(i item) (what, core string, e protocol.Event) {
	switch i.to {
	case toInitiator:
		return "The application's side hears: " + eventText(i.event), "initiator", i.event
	case toCoordinator:
		return "The leader hears: " + eventText(i.event), "coordinator", i.event
	}
	what = fmt.Sprintf("The agent of branch %d hears: %s", i.no, eventText(i.event))
	if i.no == 0 {
		return what, "participant", i.event
	}
	return what, "", nil
}

func effectText(f protocol.Effect) string {
	switch f := f.(type) {
	case protocol.Prepare:
		return "prepare"
	case twopc.CommitOnePhase:
		return "commit in one phase"
	case protocol.Finish:
		return f.Decision.String()
	case protocol.Propose:
		return strings.TrimSpace(f.Decision.String() + " " + numbers(f.Branches))
	}
	return fmt.Sprintf("%T%v", f, f)
}

// eventText writes an event as protocol/twopc's TestTraces reads it.
func eventText(e protocol.Event) string {
	switch e := e.(type) {
	case twopc.Enlisted:
		return fmt.Sprintf("enlisted %d", e.No)
	case twopc.OnlyRead:
		return fmt.Sprintf("only-read %d", e.No)
	case protocol.RollbackAsked:
		return "rollback-asked"
	case protocol.Asked:
		return "asked " + numbers(e.Branches)
	case protocol.PrepareAsked:
		return "prepare-asked"
	case protocol.Voted:
		return fmt.Sprintf("voted %d %v", e.No, e.Vote)
	case protocol.Delivered:
		return strings.TrimSpace(fmt.Sprintf("delivered %v %s", e.Decision, numbers(e.Branches)))
	case twopc.OnePhaseDone:
		return "one-phase-done " + e.Outcome.String()
	case protocol.Decided:
		return "decided " + e.Decision.String()
	case twopc.WaitOver:
		return "wait-over"
	case protocol.Finished:
		return fmt.Sprintf("finished %d %v", e.No, e.Finish)
	case protocol.OrphanMet:
		return "orphan-met"
	case protocol.Listed:
		return "listed"
	case protocol.Tick:
		return "tick"
	}
	return fmt.Sprintf("# %T", e)
}

func numbers(branches []txn.Branch) string {
	var list []string
	for _, b := range branches {
		list = append(list, fmt.Sprint(b.No))
	}
	return strings.Join(list, ",")
}
