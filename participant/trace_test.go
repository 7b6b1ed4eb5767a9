// SPDX-License-Identifier: Apache-2.0

package participant

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/participant/statement"
	"github.com/concordtx/concord/txn"
)

// TestTraces plays the stories in testdata. "agent" makes a new life, with "epoch=N", of the entries
// that were written so far; "step" gives it the events below. Branches are written as
// resource/number of the transaction T, or of U.
func TestTraces(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		s := &story{t: t, journal: map[txn.ID]Entry{}, digests: map[string]Digest{}, start: time.Unix(1_700_000_000, 0)}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			s.t = t
			var b strings.Builder
			switch d.Cmd {
			case "agent":
				var epoch, open int
				d.ScanArgs(t, "epoch", &epoch)
				if d.HasArg("open") {
					d.ScanArgs(t, "open", &open)
				}
				var entries []Entry
				for _, e := range s.journal {
					parsed, err := ParseEntry(e.ID, e.AppendBinary(nil))
					require.NoError(t, err)
					require.Equal(t, e, parsed)
					entries = append(entries, parsed)
				}
				s.core = NewCore("east", Rules{MaxOpen: open}, Life{Epoch: Epoch(epoch)}, storyCluster,
					[]string{"pg", "my"}, entries)
				for _, f := range s.core.Step(Tick{Now: s.start.Add(s.now)}) {
					fmt.Fprintf(&b, "  > %s\n", s.effect(f))
				}
			case "step":
				for line := range strings.Lines(d.Input) {
					fmt.Fprintf(&b, "%s\n", strings.TrimSpace(line))
					event := s.event(strings.Fields(line))
					clone := s.core.Clone()
					effects := s.core.Step(event)
					for _, f := range effects {
						fmt.Fprintf(&b, "  > %s\n", s.effect(f))
					}
					require.Equal(t, effects, clone.Step(event), "a clone does the same")
					require.Equal(t, s.core.String(), clone.String())
				}
			default:
				d.Fatalf(t, "no command %s", d.Cmd)
			}
			fmt.Fprintln(&b, s.core)
			return b.String()
		})
	})
}

const storyCluster = txn.ClusterID(0xc0)

var storyIDs = map[string]txn.ID{
	"T": txn.FirstID(time.Unix(1_700_000_000, 0)).WithClass(txn.Recorded),
	"U": txn.FirstID(time.Unix(1_700_000_001, 0)).WithClass(txn.Recorded),
	"X": txn.FirstID(time.Unix(1_700_000_002, 0)).WithClass(txn.LastResource),
	"P": txn.FirstID(time.Unix(1_700_000_003, 0)).WithClass(txn.ThreePhase),
}

type story struct {
	t       *testing.T
	core    *Core
	journal map[txn.ID]Entry
	digests map[string]Digest // of the last answer, by branch
	start   time.Time
	now     time.Duration
}

// branch reads "T/pg/0".
func (s *story) branch(word string) Branch {
	parts := strings.Split(word, "/")
	require.Len(s.t, parts, 3, word)
	no, err := strconv.ParseUint(parts[2], 10, 8)
	require.NoError(s.t, err)
	id, ok := storyIDs[parts[0]]
	require.True(s.t, ok, word)
	cluster := storyCluster
	return Branch{txn.XID{Cluster: cluster, ID: id, Branch: txn.BranchNo(no)}, parts[1]}
}

func (s *story) event(words []string) Event {
	arg := func(key string) (string, bool) {
		for _, w := range words {
			if k, v, ok := strings.Cut(w, "="); ok && k == key {
				return v, true
			}
		}
		return "", false
	}
	number := func(key string, otherwise uint64) uint64 {
		text, ok := arg(key)
		if !ok {
			return otherwise
		}
		n, err := strconv.ParseUint(text, 10, 64)
		require.NoError(s.t, err)
		return n
	}
	reason := strings.Join(words[min(3, len(words)):], " ")
	decision := map[string]txn.Decision{"commit": txn.Commit, "abort": txn.Abort}
	life := Life{Epoch: Epoch(number("epoch", uint64(s.core.life.Epoch)))}
	if _, ok := arg("other-journal"); ok {
		life.Journal[0]++
	}
	switch words[0] {
	case "work": // work T/pg/0 1 text call=1
		n, err := strconv.ParseUint(words[2], 10, 64)
		require.NoError(s.t, err)
		e := WorkAsked{Call: Call(number("call", n)), Branch: s.branch(words[1]), Life: life, Number: n,
			Work: statement.Work{Verb: statement.Execute, Text: words[3]}}
		if _, ok := arg("other-cluster"); ok {
			e.Branch.XID.Cluster++
		}
		return e
	case "done": // done T/pg/0 1 [failed ...]
		n, err := strconv.ParseUint(words[2], 10, 64)
		require.NoError(s.t, err)
		return WorkDone{XID: s.branch(words[1]).XID, Number: n, Failed: reason}
	case "prepare": // prepare T/pg/0 2 [digest=zero]
		n, err := strconv.ParseUint(words[2], 10, 64)
		require.NoError(s.t, err)
		e := PrepareAsked{Call: Call(number("call", 100)), Branch: s.branch(words[1]), Life: life, Number: n,
			Digest: s.digests[words[1]]}
		if _, ok := arg("digest"); ok {
			e.Digest = Digest{}
		}
		return e
	case "voted":
		v := Voted{XID: s.branch(words[1]).XID}
		switch words[2] {
		case "yes":
			v.Vote, v.Branch = txn.VoteYes,
				txn.Branch{No: v.XID.Branch, Resource: s.branch(words[1]).Resource, Evidence: "evidence"}
		case "read-only":
			v.Vote = txn.VoteReadOnly
		default:
			v.Reason = reason
			_, v.Torn = arg("torn")
		}
		return v
	case "decided":
		return Decided{Call: Call(number("call", 200)), Branch: s.branch(words[1]), Decision: decision[words[2]],
			Record: txn.Branch{Evidence: "record"}}
	case "informed":
		return Informed{ID: storyIDs[words[1]], Decision: decision[words[2]]}
	case "uninformed":
		return Uninformed{ID: storyIDs[words[1]]}
	case "says": // says cluster P can-commit 1/pg ...; see heard
		return s.heard(words[1], words[2], words[3:])
	case "finished":
		finish := map[string]txn.Finish{"done": txn.Done, "already-done": txn.AlreadyDone,
			"contradicted": txn.Contradicted, "lost": txn.Lost}
		require.Contains(s.t, finish, words[2])
		return Finished{XID: s.branch(words[1]).XID, Finish: finish[words[2]]}
	case "finish-failed":
		return FinishFailed{XID: s.branch(words[1]).XID, Why: strings.Join(words[2:], " ")}
	case "listing": // listing pg [T/pg/0 ...]
		l := Listing{Resource: words[1]}
		for _, w := range words[2:] {
			l.XIDs = append(l.XIDs, s.branch(w).XID)
		}
		return l
	case "written":
		return Written{Turn: number("turn", 0)}
	case "sync":
		return SyncAsked{Call: Call(number("call", 0))}
	case "left":
		return Left{Call: Call(number("call", 0))}
	case "after": // the time
		d, err := time.ParseDuration(words[1])
		require.NoError(s.t, err)
		s.now += d
		return Tick{Now: s.start.Add(s.now)}
	case "joined": // joined 1m
		d, err := time.ParseDuration(words[1])
		require.NoError(s.t, err)
		return Joined{Cluster: storyCluster, MaxAge: d}
	case "stop":
		return Stop{}
	}
	s.t.Fatalf("no event is called %q", words[0])
	return nil
}

func (s *story) name(b Branch) string {
	for name, id := range storyIDs {
		if id == b.XID.ID {
			return fmt.Sprintf("%s/%s/%d", name, b.Resource, b.XID.Branch)
		}
	}
	return b.XID.String()
}

func (s *story) effect(e Effect) string {
	switch e := e.(type) {
	case Run:
		open := ""
		if e.Open {
			open = " open"
		}
		return fmt.Sprintf("run %s %d %s%s", s.name(e.Branch), e.Number, e.Work.Text, open)
	case Prepare:
		return "prepare " + s.name(e.Branch)
	case Finish:
		return fmt.Sprintf("finish %s %v (%s)", s.name(e.Branch), e.Decision, e.Record.Evidence)
	case Inquire:
		return fmt.Sprintf("inquire settle=%v", e.Settle)
	case Report:
		return fmt.Sprintf("report %s %v", s.name(e.Branch), e.Finish)
	case Write:
		if e.Entry.ID.IsZero() {
			return fmt.Sprintf("force turn=%d", e.Turn)
		}
		s.journal[e.Entry.ID] = e.Entry
		if len(e.Entry.Branches) == 0 {
			delete(s.journal, e.Entry.ID)
			return "write nothing"
		}
		var list []string
		for _, v := range e.Entry.Branches {
			ended := ""
			if v.Finish != 0 {
				ended = " " + v.Finish.String()
			}
			list = append(list, fmt.Sprintf("%s %v%s redo=%d", v.Branch.Resource, v.Decision, ended, len(v.Redo)))
		}
		member := ""
		if m := e.Entry.Member; m != nil {
			member = fmt.Sprintf(" %v elected=%d attempt=%d", m.State, m.LastElected.N, m.LastAttempt.N)
		}
		forced := ""
		if e.Turn > 0 {
			forced = fmt.Sprintf(" forced turn=%d", e.Turn)
		}
		return "write [" + strings.Join(list, ", ") + "]" + member + forced
	case Say:
		return fmt.Sprintf("to %v: %s", e.To.PartyID, saying(e.Message))
	case Note:
		alarm := ""
		if e.Alarm {
			alarm = "alarm: "
		}
		return alarm + e.Text
	case Answer:
		for xid, b := range s.core.branches {
			if b.number == e.Number && b.digest == e.Digest {
				s.digests[s.name(Branch{xid, b.resource})] = e.Digest
			}
		}
		return strings.TrimSpace(fmt.Sprintf("answer call=%d number=%d digest=%x %s", e.Call, e.Number, e.Digest[:3],
			e.Failed))
	case Cast:
		torn := ""
		if e.Torn {
			torn = " torn"
		}
		return strings.TrimSpace(fmt.Sprintf("cast call=%d %v %s%s", e.Call, e.Vote, e.Branch.Evidence+e.Reason, torn))
	case Synced:
		return fmt.Sprintf("synced call=%d", e.Call)
	case Ended:
		return fmt.Sprintf("ended call=%d %v", e.Call, e.Finish)
	case Refuse:
		return fmt.Sprintf("refuse call=%d %v: %s", e.Call, e.Err.Kind, e.Err.Text)
	}
	return fmt.Sprintf("%#v", e)
}
