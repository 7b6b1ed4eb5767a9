// SPDX-License-Identifier: Apache-2.0

package twopc

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/protocol"
	"github.com/concordtx/concord/txn"
)

// TestTraces plays the stories in testdata. A command names a core (with "new" a fresh
// one, with "resume" a coordinator that the log knows), each line below it is an event, and
// the answer is what the core asked for and the state it is in.
func TestTraces(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		initiator, coordinator, participant := new(Initiator), new(Coordinator), NewParticipant(0)
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			fresh := d.HasArg("new")
			var core interface {
				Step(protocol.Event) []protocol.Effect
				fmt.Stringer
			}
			switch d.Cmd {
			case "initiator":
				if fresh {
					initiator = new(Initiator)
				}
				core = initiator
			case "coordinator":
				if fresh {
					coordinator = new(Coordinator)
				}
				if d.HasArg("resume") {
					coordinator = Resume(branches(t, "0,1"))
				}
				core = coordinator
			case "participant":
				if fresh {
					participant = NewParticipant(0)
				}
				core = participant
			default:
				d.Fatalf(t, "no core is called %s", d.Cmd)
			}
			var b strings.Builder
			for line := range strings.Lines(d.Input) {
				fmt.Fprintf(&b, "%s\n", strings.TrimSpace(line))
				for _, f := range core.Step(event(t, strings.Fields(line))) {
					fmt.Fprintf(&b, "  > %s\n", effect(f))
				}
			}
			fmt.Fprintln(&b, core)
			return b.String()
		})
	})
}

// event reads "voted 1 yes", "delivered commit 0,1" and the like.
func event(t *testing.T, words []string) protocol.Event {
	t.Helper()
	arg := func(n int) string {
		if n < len(words) {
			return words[n]
		}
		return ""
	}
	no := func() txn.BranchNo {
		n, err := strconv.ParseUint(arg(1), 10, 8)
		require.NoError(t, err, words)
		return txn.BranchNo(n)
	}
	decision := map[string]txn.Decision{"commit": txn.Commit, "abort": txn.Abort}
	switch words[0] {
	case "enlisted":
		return Enlisted{No: no()}
	case "only-read":
		return OnlyRead{No: no()}
	case "commit-asked":
		return CommitAsked{Recorded: arg(1) == "recorded", AtDecision: arg(1) == "at-decision"}
	case "rollback-asked":
		return protocol.RollbackAsked{Reason: strings.Join(words[1:], " ")}
	case "asked":
		return protocol.Asked{Branches: branches(t, arg(1))}
	case "prepare-asked":
		return protocol.PrepareAsked{}
	case "voted":
		vote := map[string]txn.Vote{"yes": txn.VoteYes, "no": txn.VoteNo, "read-only": txn.VoteReadOnly}
		require.Contains(t, vote, arg(2), words)
		v := protocol.Voted{No: no(), Vote: vote[arg(2)]}
		switch v.Vote {
		case txn.VoteYes:
			v.Branch = txn.Branch{No: v.No, Resource: "db" + arg(1), Evidence: arg(3)}
		case txn.VoteNo:
			v.Reason = strings.Join(words[3:], " ")
		}
		return v
	case "one-phase-done":
		outcome := map[string]txn.Outcome{"committed": txn.Committed, "aborted": txn.Aborted, "unknown": txn.Unknown}
		require.Contains(t, outcome, arg(1), words)
		return OnePhaseDone{Outcome: outcome[arg(1)]}
	case "delivered":
		require.Contains(t, decision, arg(1), words)
		return protocol.Delivered{Txn: txn.Txn{Decision: decision[arg(1)], Branches: branches(t, arg(2))}}
	case "decided":
		require.Contains(t, decision, arg(1), words)
		return protocol.Decided{Decision: decision[arg(1)]}
	case "wait-over":
		return WaitOver{Reason: "the time was up"}
	case "finished":
		finish := map[string]txn.Finish{"done": txn.Done, "already-done": txn.AlreadyDone,
			"contradicted": txn.Contradicted, "lost": txn.Lost}
		require.Contains(t, finish, arg(2), words)
		return protocol.Finished{No: no(), Finish: finish[arg(2)]}
	case "finish-failed":
		return protocol.FinishFailed{No: no()}
	case "not-asked":
		return NotAsked{Reason: strings.Join(words[1:], " ")}
	case "orphan-met":
		return protocol.OrphanMet{Reason: strings.Join(words[1:], " ")}
	case "opened":
		return protocol.Opened{}
	case "listed":
		return protocol.Listed{}
	case "tick":
		return protocol.Tick{}
	}
	t.Fatalf("no event is called %q", words[0])
	return nil
}

func branches(t *testing.T, list string) (branches []txn.Branch) {
	t.Helper()
	for _, s := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == '-' }) {
		n, err := strconv.ParseUint(s, 10, 8)
		require.NoError(t, err)
		branches = append(branches, txn.Branch{No: txn.BranchNo(n), Resource: "db" + s})
	}
	return branches
}

func effect(f protocol.Effect) string {
	numbers := func(branches []txn.Branch) string {
		var s []string
		for _, b := range branches {
			s = append(s, strings.TrimSpace(fmt.Sprintf("%d %s", b.No, b.Evidence)))
		}
		return "[" + strings.Join(s, ", ") + "]"
	}
	var s string
	switch f := f.(type) {
	case protocol.Prepare:
		s = fmt.Sprintf("prepare %d", f.No)
	case CommitOnePhase:
		s = fmt.Sprintf("commit-one-phase %d", f.No)
	case Ask:
		s = "ask " + numbers(f.Branches)
	case protocol.Propose:
		s = fmt.Sprintf("propose %v %s %s", f.Decision, numbers(f.Branches), f.Reason)
	case protocol.Finish:
		s = fmt.Sprintf("finish %d %v", f.No, f.Decision)
		if f.Again {
			s += " again"
		}
	case TellAborted:
		s = "tell-aborted"
	case protocol.Report:
		s = fmt.Sprintf("report %d %v", f.No, f.Finish)
	case protocol.CastVote:
		s = fmt.Sprintf("cast-vote %v %s %s", f.Vote, f.Branch.Evidence, f.Reason)
	case protocol.Inquire:
		s = "inquire"
	case protocol.Reply:
		s = fmt.Sprintf("reply %v %s", f.Outcome, f.Reason)
		if f.By {
			s += fmt.Sprintf(" (by branch %d)", f.Branch)
		}
	case protocol.Alarm:
		s = fmt.Sprintf("alarm %d %v", f.No, f.Outcome)
	case protocol.End:
		s = "end"
	}
	return strings.Join(strings.Fields(s), " ")
}
