// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// final is what the databases hold when everything has come to rest.
type final struct {
	rows map[string]map[string]string // by place: gid to payload
	sums map[string]int64             // of the accounts, by place
	// lists are the elements of each list; drawn the numbers that were drawn, by place: number to gid.
	lists map[int][]int
	drawn map[string]map[int]string
	// keyed counts what was done under idempotency keys, by place.
	keyed map[string]map[string]int
	// outcomes are those of transactions without an answer, or with the answer that it is unknown, asked for now.
	outcomes map[string]string
	// canaries of others, by place, that are gone; left is what is still prepared, or held, of ours.
	canaries, left []string
	// reported are the heuristic outcomes that the cluster shows, by gid/branch; injected are those made by hand.
	reported, injected map[string]string
}

// violation is one thing that must not be.
type violation struct{ rule, what string }

func (v violation) String() string { return v.rule + ": " + v.what }

// most is how many violations of one rule are printed.
const most = 10

// checker compares a history with what the databases hold.
type checker struct {
	history  []record
	final    final
	byGID    map[string]*story
	found    []violation
	ofRule   map[string]int
	expected int64 // the sum over the SQL databases
}

// story is what is recorded of one transaction.
type story struct {
	begun   record
	asked   bool
	told    []record
	polled  []record
	appends []access
}

// outcome is what the client was told, empty: nothing, or that it is unknown.
func (s *story) outcome() string {
	for _, r := range s.told {
		if r.Outcome == committed || r.Outcome == aborted {
			return r.Outcome
		}
	}
	return ""
}

func check(history []record, f final) []violation {
	c := &checker{history: history, final: f, byGID: map[string]*story{}, ofRule: map[string]int{},
		expected: int64(len(sqlNames) * accounts * opening)}
	for _, r := range history {
		if r.GID == "" || r.Key != "" {
			continue
		}
		s := c.byGID[r.GID]
		if s == nil {
			s = &story{}
			c.byGID[r.GID] = s
		}
		switch r.Op {
		case begun:
			s.begun = r
		case asked:
			s.asked = true
		case told:
			s.told = append(s.told, r)
		case polled:
			s.polled = append(s.polled, r)
		case "appends":
			s.appends = append(s.appends, r.Lists...)
		}
	}
	for _, check := range []func(){c.rows, c.answers, c.bank, c.numbers, c.keys, c.lists, c.rest} {
		check()
	}
	return c.found
}

func (c *checker) fail(rule, format string, args ...any) {
	if c.ofRule[rule]++; c.ofRule[rule] <= most {
		c.found = append(c.found, violation{rule, fmt.Sprintf(format, args...)})
	}
}

func (c *checker) sorted() []string { return slices.Sorted(maps.Keys(c.byGID)) }

// has reports where the row of a transaction is.
func (c *checker) has(gid string) (at []string) {
	for _, name := range allNames {
		if _, ok := c.final.rows[name][gid]; ok {
			at = append(at, name)
		}
	}
	return at
}

// rows: a transaction happened in all of its places or in none, with the work that it did, and as it was told.
func (c *checker) rows() {
	for _, gid := range c.sorted() {
		s := c.byGID[gid]
		at := c.has(gid)
		if len(at) > 0 && !slices.Equal(at, s.begun.Rows) {
			c.fail("AC1", "%s (%s) is in %v, and not in all of %v", gid, s.begun.Kind, at, s.begun.Rows)
		}
		for _, name := range at {
			if got := c.final.rows[name][gid]; got != s.begun.Payload {
				c.fail("AC3w", "%s has %q in %s, and wrote %q", gid, got, name, s.begun.Payload)
			}
			if !s.asked {
				c.fail("K01", "%s (%s) is in %s, and nobody has asked for its commit", gid, s.begun.Kind, name)
			}
		}
		if len(s.begun.Rows) == 0 {
			continue
		}
		switch outcome := c.decided(gid, s); {
		case outcome == committed && len(at) == 0:
			c.fail("DUR1", "%s (%s) is committed, and in no database", gid, s.begun.Kind)
		case outcome == aborted && len(at) > 0:
			c.fail("AC1", "%s (%s) is aborted, and in %v", gid, s.begun.Kind, at)
		}
	}
	for name, rows := range c.final.rows {
		for gid := range rows {
			if c.byGID[gid] == nil || c.byGID[gid].begun.GID == "" {
				c.fail("SETS", "%s is in %s, and nobody has written it", gid, name)
			}
		}
	}
}

// decided is how a transaction ended: as its client was told, or else as the cluster says.
func (c *checker) decided(gid string, s *story) string {
	return cmp.Or(s.outcome(), c.final.outcomes[gid])
}

// answers: nobody is told two things, or something that is not an answer, and pending is never said after
// somebody was told.
func (c *checker) answers() {
	for _, gid := range c.sorted() {
		s := c.byGID[gid]
		outcome := s.outcome()
		if said := c.final.outcomes[gid]; outcome != "" && said != "" && definite(said) && said != outcome {
			c.fail("AC2", "%s: its client was told %s, and now the cluster says %s", gid, outcome, said)
		}
		if outcome == committed && len(s.begun.Rows) > 1 && c.final.outcomes[gid] == "unrecorded" {
			c.fail("DUR1", "%s (%s): its client was told that it is committed, and the cluster has not heard of it",
				gid, s.begun.Kind)
		}
		for _, r := range s.told {
			if r.Outcome == wrong {
				c.fail("API", "%s (%s): %s", gid, s.begun.Kind, r.Error)
			}
			if definite(r.Outcome) && r.Outcome != outcome {
				c.fail("AC2", "%s: its client was told %s and %s", gid, outcome, r.Outcome)
			}
		}
		final := cmp.Or(outcome, c.final.outcomes[gid])
		for _, p := range s.polled {
			if definite(p.Outcome) && definite(final) && p.Outcome != final {
				c.fail("LIN", "%s: somebody was told %s, and it is %s", gid, p.Outcome, final)
			}
			if strings.HasPrefix(p.Outcome, "heuristic") {
				c.fail("HEUR", "%s: somebody was told %s", gid, p.Outcome)
			}
			for _, t := range append(s.told, s.polled...) {
				// What one database alone has decided, or was rolled back, the cluster need not know.
				known := t.Op == polled || t.Outcome == committed && len(s.begun.Rows) > 1
				if p.Outcome == pending && definite(t.Outcome) && known && t.At < p.Since {
					c.fail("LIN", "%s: pending, after somebody was told %s", gid, t.Outcome)
				}
			}
		}
	}
}

func definite(outcome string) bool { return outcome == committed || outcome == aborted }

// bank: money is neither made nor lost, for anybody who looks under locks, and at the end.
func (c *checker) bank() {
	for _, r := range c.history {
		if r.Op == told && r.Outcome == committed && r.Sum != nil && *r.Sum != c.expected {
			c.fail("BANK", "%s read the sum %d under locks, and it is always %d", r.GID, *r.Sum, c.expected)
		}
	}
	if sum := c.final.sums[orders] + c.final.sums[billing] + c.final.sums[stock]; sum != c.expected {
		c.fail("BANK", "the sum over the SQL databases is %d at the end, and was %d", sum, c.expected)
	}
	if sum := c.final.sums[desk] + c.final.sums[ledger]; sum != accounts*opening {
		c.fail("BANK", "the sum behind the agent is %d at the end, and was %d", sum, accounts*opening)
	}
}

// numbers: every database has drawn the same numbers for the same transactions, none of them twice, none missing.
func (c *checker) numbers() {
	first := c.final.drawn[orders]
	for _, name := range sqlNames {
		drawn := c.final.drawn[name]
		if !maps.Equal(drawn, first) {
			c.fail("ORDER", "%s has drawn %d numbers, %s %d, and they differ: %s", name, len(drawn), orders, len(first),
				differ(drawn, first))
		}
		seen := map[string]bool{}
		for n, gid := range drawn {
			if n < 1 || n > len(drawn) {
				c.fail("ORDER", "%s has drawn %d numbers, and %d is one of them", name, len(drawn), n)
			}
			if seen[gid] {
				c.fail("IDEM", "%s has drawn two numbers in %s", gid, name)
			}
			if s := c.byGID[gid]; s == nil || c.decided(gid, s) == aborted {
				c.fail("AC1", "%s has drawn a number in %s, and is aborted or nobody's", gid, name)
			}
			seen[gid] = true
		}
		for _, gid := range c.sorted() {
			if s := c.byGID[gid]; s.begun.Kind == "counter" && c.decided(gid, s) == committed && !seen[gid] {
				c.fail("DUR1", "%s is committed, and has drawn no number in %s", gid, name)
			}
		}
	}
}

func differ(a, b map[int]string) string {
	for n := range max(len(a), len(b)) + 2 {
		if a[n] != b[n] {
			return fmt.Sprintf("number %d is %q and %q", n, a[n], b[n])
		}
	}
	return "beyond"
}

// keys: what is asked for under one key happens once as soon as anybody was told that it did, and never twice.
func (c *checker) keys() {
	committedKeys, begunKeys := map[string]string{}, map[string]bool{}
	for _, r := range c.history {
		if r.Key == "" {
			continue
		}
		begunKeys[r.Key] = true
		if r.Op != told {
			continue
		}
		if r.Outcome == wrong {
			c.fail("API", "key %s: %s", r.Key, r.Error)
		}
		if r.Outcome == committed {
			if before := committedKeys[r.Key]; before != "" && before != r.GID {
				c.fail("IDEM", "key %s was committed as %s and as %s", r.Key, before, r.GID)
			}
			committedKeys[r.Key] = r.GID
		}
	}
	for _, key := range slices.Sorted(maps.Keys(begunKeys)) {
		at, there := c.final.keyed[desk][key], c.final.keyed[ledger][key]
		if at != there {
			c.fail("AC1", "key %s was done %d times at %s, and %d times at %s", key, at, desk, there, ledger)
		}
		if at > 1 || there > 1 {
			c.fail("IDEM", "key %s was done %d times", key, max(at, there))
		}
		if committedKeys[key] != "" && at == 0 {
			c.fail("DUR1", "key %s is committed, and was not done", key)
		}
	}
	for name, keys := range c.final.keyed {
		for key := range keys {
			if !begunKeys[key] {
				c.fail("SETS", "key %s is at %s, and nobody's", key, name)
			}
		}
	}
}

// rest: nothing is left over, nothing of others was touched, and what was done by hand is reported, and no more.
func (c *checker) rest() {
	for _, left := range c.final.left {
		c.fail("AC5", "left over: %s", left)
	}
	for _, canary := range c.final.canaries {
		c.fail("FOREIGN", "%s is gone", canary)
	}
	for what, outcome := range c.final.reported {
		if c.final.injected[what] != outcome {
			c.fail("HEUR", "%s is reported as %s, and was made %q", what, outcome, c.final.injected[what])
		}
	}
	for what, outcome := range c.final.injected {
		if c.final.reported[what] != outcome {
			c.fail("HEUR", "%s was made %s by hand, and is reported as %q", what, outcome, c.final.reported[what])
		}
	}
}

func sumOf(texts []string) (sum int64, err error) {
	for _, text := range texts {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// elements are those of one list as it is stored.
func elements(texts []string) (all []int, err error) {
	for _, text := range texts {
		for _, field := range strings.Fields(text) {
			n, err := strconv.Atoi(field)
			if err != nil {
				return nil, err
			}
			all = append(all, n)
		}
	}
	return all, nil
}
