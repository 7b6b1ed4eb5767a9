// SPDX-License-Identifier: Apache-2.0

package deadlock

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/txn"
)

// TestTraces plays the stories in testdata. Transactions are called by letters and are as old as the
// alphabet says; sessions have names of their own. Each line is something that happens, and below it
// stands what the detector wants, and what it has found:
//
//	report A orders/p1! billing/c1 | B ...    what a client says; it waits where there is a mark, and
//	report-voting A ...                       has heard of the last look
//	report-unheard A ...                      or of none
//	pass 400ms
//	orders p1>p2@5 p1>B@5                     its answer: since second 5 p1 waits for p2, and for a
//	                                          prepared branch of B
func TestTraces(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			s := &story{t: t, now: time.Unix(1_000_000, 0)}
			var b strings.Builder
			for line := range strings.Lines(d.Input) {
				fmt.Fprintf(&b, "%s\n", strings.TrimSpace(line))
				for _, text := range s.happens(strings.Fields(line)) {
					fmt.Fprintf(&b, "  > %s\n", text)
				}
			}
			return b.String()
		})
	})
}

type story struct {
	t    *testing.T
	d    Detector
	now  time.Time
	look uint64
}

func id(letter string) txn.ID {
	n := letter[0] - 'A' + 1
	return txn.ID{0, 0, 0, 0, 0, n, 15: n << 5}
}

func letter(id txn.ID) string { return string('A' + id[5] - 1) }

func (s *story) happens(words []string) (out []string) {
	s.t.Helper()
	switch words[0] {
	case "report", "report-voting", "report-unheard":
		heard := s.d.Done()
		if words[0] == "report-unheard" {
			heard--
		}
		for _, v := range s.d.Report(s.now, heard, waiters(words[0] == "report-voting", words[1:])) {
			out = append(out, fmt.Sprintf("%s is to end", letter(v.Victim)))
		}
	case "pass":
		step, err := time.ParseDuration(words[1])
		require.NoError(s.t, err)
		s.now = s.now.Add(step)
	default:
		var waits []adapters.Wait
		for _, word := range words[1:] {
			waits = append(waits, s.wait(word))
		}
		s.d.Answer(s.now, s.look, words[0], waits)
	}
	if look, ask := s.d.Tick(s.now); len(ask) > 0 {
		s.look = look
		out = append(out, "look at "+strings.Join(ask, ", "))
	}
	for _, f := range s.d.Found() {
		var others []string
		for _, o := range f.Others {
			others = append(others, letter(o.ID))
		}
		path := f.String()
		for c := 'A'; c <= 'Z'; c++ {
			path = strings.ReplaceAll(path, id(string(c)).String(), string(c))
		}
		out = append(out, fmt.Sprintf("deadlock of %s, who ends, with %s in %s: %s", letter(f.Victim),
			strings.Join(others, ", "), strings.Join(f.Resources, " and "), path))
	}
	return out
}

func waiters(voting bool, words []string) (all []Waiter) {
	for i := 0; i < len(words); i++ {
		w := Waiter{ID: id(words[i]), Voting: voting}
		for i++; i < len(words) && words[i] != "|"; i++ {
			place, waits := strings.CutSuffix(words[i], "!")
			resource, name, _ := strings.Cut(place, "/")
			w.Branches = append(w.Branches, Branch{Session{resource, name}, waits})
		}
		all = append(all, w)
	}
	return all
}

// wait reads "p1>p2@5".
func (s *story) wait(word string) adapters.Wait {
	s.t.Helper()
	var since int64
	pair, at, _ := strings.Cut(word, "@")
	_, err := fmt.Sscan(at, &since)
	require.NoError(s.t, err)
	from, to, _ := strings.Cut(pair, ">")
	w := adapters.Wait{Session: from, For: to, Since: time.Unix(since, 0)}
	if len(to) == 1 && 'A' <= to[0] && to[0] <= 'Z' {
		w.For, w.Branch = "", txn.XID{ID: id(to)}
	}
	return w
}
