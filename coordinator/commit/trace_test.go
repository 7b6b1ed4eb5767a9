// SPDX-License-Identifier: Apache-2.0

package commit

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/coordinator/deadlock"
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/txn"
)

// TestTraces plays the stories in testdata: a cluster of one node whose clients, databases and
// operators are the story. Each line is something that happens, and below it stands what the
// machine answers, notes and wants of its driver. Transactions are called by letters.
func TestTraces(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		var s *story
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "leader": // leader RESOURCE...
				var resources []string
				for _, arg := range d.CmdArgs {
					if arg.Key != "rows" {
						resources = append(resources, arg.Key)
					}
				}
				s = &story{lone: newLone(t, resources...), ids: map[string]txn.ID{}, agents: map[string]*storyAgent{}}
				if len(resources) < len(d.CmdArgs) { // leader RESOURCE... rows: they have high-water rows
					s.keepRows()
				}
				s.tell() // how it came to lead is told elsewhere
			case "then":
			default:
				d.Fatalf(t, "no command is called %s", d.Cmd)
			}
			var b strings.Builder
			for line := range strings.Lines(d.Input) {
				fmt.Fprintf(&b, "%s\n", strings.TrimSpace(line))
				s.happens(strings.Fields(line))
				for _, text := range s.tell() {
					fmt.Fprintf(&b, "  > %s\n", text)
				}
			}
			for _, name := range s.names {
				fmt.Fprintln(&b, s.describe(name))
			}
			return b.String()
		})
	})
}

type story struct {
	*lone
	names []string // of transactions, in the order in which they came up
	ids   map[string]txn.ID
	heard uint64 // up to which request answers were told

	agents map[string]*storyAgent
	told   map[string]txn.HighWater // what rows were to be raised to

	old bool // the member runs an old release, and goes on to
}

// keepRows makes the resources of a story have high-water rows.
func (s *story) keepRows() {
	s.told = map[string]txn.HighWater{}
	s.machine.Marks = func(string) bool { return true }
	s.restart()
	s.step(replica.MembersSeen{Speakers: []replica.Speaker{{Node: 1, Store: txn.StoreID{1}, Level: txn.Newest}}})
	s.tick(50 * time.Millisecond)
	require.Equal(s.t, txn.Newest, s.table.Level())
}

// id is the transaction of a letter, which is born when it comes up first.
func (s *story) id(name string) txn.ID {
	id, known := s.ids[name]
	if !known {
		id = s.newID()
		s.ids[name], s.names = id, append(s.names, name)
	}
	return id
}

// branch reads "A/1".
func (s *story) branch(text string) txn.XID {
	s.t.Helper()
	name, number, _ := strings.Cut(text, "/")
	no, err := strconv.ParseUint(number, 10, 8)
	require.NoError(s.t, err, text)
	return s.xid(s.id(name), txn.BranchNo(no))
}

// happens carries out one line of a story.
func (s *story) happens(words []string) {
	s.t.Helper()
	rest := func(n int) string { return strings.Join(words[n:], " ") }
	decision := map[string]txn.Decision{"commit": txn.Commit, "abort": txn.Abort}
	finish := map[string]txn.Finish{"done": txn.Done, "already-done": txn.AlreadyDone, "contradicted": txn.Contradicted,
		"lost": txn.Lost}
	asks := func(event func(request uint64) replica.Event) { s.request++; s.step(event(s.request)) }
	switch words[0] {
	case "pass": // pass 2s
		d, err := time.ParseDuration(words[1])
		require.NoError(s.t, err, words)
		for range max(1, d/(50*time.Millisecond)) {
			s.tick(50 * time.Millisecond)
		}
	case "commit": // commit A orders billing: branches 0 and 1
		var branches []txn.Branch
		for i, name := range words[2:] {
			branches = append(branches, txn.Branch{No: txn.BranchNo(i), Resource: name})
		}
		id := s.id(words[1])
		asks(func(r uint64) replica.Event {
			return CommitAsked{Request: r, CommitRequest: txn.CommitRequest{ID: id, Branches: branches}}
		})
	case "outcome":
		id := s.id(words[1])
		asks(func(r uint64) replica.Event { return OutcomeAsked{Request: r, Inquiry: txn.Inquiry{ID: id}} })
	case "resolve": // resolve A commit orders billing; prepared orders A/0; unlisted billing
		asked, found, _ := strings.Cut(strings.Join(words, " "), "; ")
		words := strings.Fields(asked)
		e := ResolveAsked{Resolution: txn.Resolution{ID: s.id(words[1]), Decision: decision[words[2]], Who: "ann",
			Why: "to end it", Resources: words[3:]}}
		if e.Decision == txn.Abort {
			e.Resources, e.Force = nil, len(words) > 3 // resolve A abort force
		}
		for _, f := range strings.Split(found, "; ") {
			switch words := strings.Fields(f); {
			case len(words) == 2: // unlisted billing
				e.Unlisted = fmt.Errorf("not listed: %s: connection refused", words[1])
			case len(words) == 3: // prepared orders A/0
				e.Prepared = append(e.Prepared, txn.Branch{No: s.branch(words[2]).Branch, Resource: words[1]})
			}
		}
		asks(func(r uint64) replica.Event {
			e.Request = r
			return e
		})
	case "abandon": // abandon A/0
		x := s.branch(words[1])
		asks(func(r uint64) replica.Event {
			return SettleAsked{Request: r, ID: x.ID, Branch: x.Branch, Who: "ann", Why: "nobody can finish it"}
		})
	case "forget":
		id := s.id(words[1])
		asks(func(r uint64) replica.Event {
			return ForgetAsked{Request: r, ID: id, Who: "ann", Why: "dealt with"}
		})
	case "client-finished", "finished": // finished A/0 done
		f, known := finish[words[2]]
		require.True(s.t, known, words)
		e := Finished{XID: s.branch(words[1]), Finish: f, By: txn.FromCluster, Who: "a worker",
			Why: "so says the database"}
		if words[0] == "client-finished" {
			e.By, e.Who = txn.FromClient, "client"
		}
		s.step(e)
	case "failed": // failed A/0 connection refused
		s.step(Failed{XID: s.branch(words[1]), Why: rest(2)})
	case "listed": // listed orders A/0 B/0
		var listing []adapters.Prepared
		for _, text := range words[2:] {
			listing = append(listing, prepared(s.branch(text)))
		}
		s.step(Listed{Resource: words[1], Listing: listing})
	case "not-listed": // not-listed orders connection refused
		s.step(Listed{Resource: words[1], Err: errors.New(rest(2))})
	case "waiting": // waiting 0 A orders/p1! billing/c1: as its client says that has heard of look 0
		heard, err := strconv.ParseUint(words[1], 10, 64)
		require.NoError(s.t, err, words)
		w := deadlock.Waiter{ID: s.id(words[2])}
		for _, text := range words[3:] {
			place, waits := strings.CutSuffix(text, "!")
			resource, name, _ := strings.Cut(place, "/")
			w.Branches = append(w.Branches, deadlock.Branch{Session: deadlock.Session{Resource: resource, Name: name},
				Waits: waits})
		}
		asks(func(r uint64) replica.Event {
			return WaitsAsked{Request: r, Heard: s.looked(heard), Waiters: []deadlock.Waiter{w}}
		})
	case "waits": // waits 1 orders p1>p2: the answer of orders to look 1
		look, err := strconv.ParseUint(words[1], 10, 64)
		require.NoError(s.t, err, words)
		e := Waits{Resource: words[2], Look: s.looked(look)}
		for _, text := range words[3:] {
			from, to, _ := strings.Cut(text, ">")
			e.Waits = append(e.Waits, adapters.Wait{Session: from, For: to, Since: time.Unix(5, 0)})
		}
		s.step(e)
	case "three", "hears", "lose", "elects", "time-up", "asks":
		s.council(words)
	case "raised": // raised orders: as was ordered last
		order, ok := s.raises[words[1]]
		require.True(s.t, ok, words)
		s.step(Raised{Resource: words[1], To: order.To, Now: order.To})
	case "behind": // behind orders 1.5, or nothing
		e := Behind{Resource: words[1]}
		if words[2] != "nothing" {
			_, err := fmt.Sscanf(words[2], "%d.%d", &e.Has.At.Epoch, &e.Has.At.Counter)
			require.NoError(s.t, err, words)
		}
		s.step(e)
	case "accept":
		asks(func(r uint64) replica.Event {
			return AcceptAsked{Request: r, Resource: words[1], Who: "ann", Why: "the backup of Sunday"}
		})
	case "restart":
		s.restart()
		s.heard = s.request
	default:
		s.t.Fatalf("nothing is called %s", words[0])
	}
}

// looked is the number that this leader gives a look which the story calls by a small one.
func (s *story) looked(n uint64) uint64 { return n + uint64(s.log.Epoch())<<32 }

// tell returns what came of it: notes, answers, and what the driver shall do.
func (s *story) tell() (texts []string) {
	named := func(text string) string { // letters for gids
		for name, id := range s.ids {
			text = strings.ReplaceAll(text, id.String(), name)
		}
		return text
	}
	for _, note := range s.notes {
		texts = append(texts, named(note))
	}
	for s.heard < s.request {
		r, answered := s.replies[s.heard+1]
		if !answered {
			break
		}
		s.heard++
		switch {
		case r.Err != nil:
			texts = append(texts, named("refused: "+r.Err.Error()))
		case r.Txn.Decision != txn.Undecided:
			texts = append(texts, strings.TrimSpace(fmt.Sprintf("answer: %v %s", r.Txn.Decision,
				r.Txn.Reason)))
		case len(r.Deadlocks) > 0:
			texts = append(texts, named(fmt.Sprintf("answer: %v is to end, by look %d", r.Deadlocks[0].Victim,
				r.Look-s.looked(0))))
		case r.Look != 0:
			texts = append(texts, fmt.Sprintf("answer: go on, look %d is over", r.Look-s.looked(0)))
		default:
			texts = append(texts, "answer: done")
		}
	}
	for _, task := range s.take() {
		again := ""
		if task.Again {
			again = ", again"
		}
		texts = append(texts, named(fmt.Sprintf("to the workers of %s: %v %s/%d%s", task.Branch.Resource, task.Decision,
			task.XID.ID, task.XID.Branch, again)))
	}
	for _, name := range slices.Sorted(maps.Keys(s.raises)) {
		r := s.raises[name]
		if !s.told[name].Less(r.To) {
			continue
		}
		s.told[name] = r.To
		texts = append(texts, fmt.Sprintf("raise the row of %s from %v to %v, floor %v; evidence of %d branches", name,
			r.From.At, r.To.At, r.To.Floor, len(s.forgets[name])))
		delete(s.forgets, name)
	}
	texts = append(texts, s.tellLetters()...)
	slices.Sort(s.scans)
	for _, name := range s.scans {
		texts = append(texts, "list "+name)
	}
	for _, w := range s.waits {
		texts = append(texts, fmt.Sprintf("who waits in %s, look %d", w.Resource, w.Look-s.looked(0)))
	}
	s.notes, s.scans, s.evidence, s.waits = nil, nil, nil, nil
	return texts
}

// describe says what the log knows of a transaction, and what is in hand of it.
func (s *story) describe(name string) string {
	x, known := s.table.Get(s.ids[name])
	if w, open := s.table.Witness(s.ids[name]); open {
		return fmt.Sprintf("%s: open, %v accepted in election %d", name, w.Accepted, w.LastAttempt.N)
	}
	if !known {
		return name + ": no record"
	}
	text := fmt.Sprintf("%s: %v", name, x.Outcome())
	if x.Finished() {
		text += ", finished"
	} else if x.Ended {
		text += ", ended"
	}
	if l := s.core.live[x.ID]; l != nil && len(l.core.Unfinished()) > 0 {
		text += fmt.Sprintf(", open branches %v", l.core.Unfinished())
	}
	for _, h := range x.Heuristics {
		text += fmt.Sprintf(", branch %d: %v by %s", h.Branch, h.Outcome, h.Who)
	}
	return text
}
