// SPDX-License-Identifier: Apache-2.0

package explore

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// World is one of the worlds that are worth a search.
type World struct {
	Name string
	Run  func(Limits) Result
}

// Move is one step of a world, in the world's own encoding.
type Move uint32

// world is what can be explored. S is one of its states, a value without pointers to
// anything that is ever written.
type world[S any] interface {
	Start() S
	// Moves appends what can happen in s, always in the same order.
	Moves(s *S, moves []Move) []Move
	// Do changes s into the state after a move.
	Do(s *S, m Move)
	Fingerprint(s *S) uint64
	// Broken names a property that does not hold in s, or is empty.
	Broken(s *S) string
	// Settled reports whether nothing is left to be done in s.
	Settled(s *S) bool
	// Trace tells the way from the start.
	Trace(way []Move) string
}

// Limits bound a search. Zero means no bound.
type Limits struct {
	States int
	Depth  int
	Time   time.Duration
	// Settle demands that every state has a way to a settled one (AC5). It is checked only
	// when the search is complete, and costs four bytes for each edge.
	Settle bool
}

// Result is what a search found.
type Result struct {
	Name string
	// States that are different, and Edges between them.
	States, Edges int
	// Depth is the greatest distance from the start among the states.
	Depth int
	// Complete says that all was visited. If not, everything that is at most Whole away from the
	// start was, and Bound says what ended the search.
	Complete bool
	Whole    int
	Bound    string
	// Settled counts the states in which nothing is left to do; AllSettle says that every
	// state was found to have a way to one of them.
	Settled   int
	AllSettle bool
	// Broken names the property that was broken first, Trace the shortest way to it.
	Broken string
	Trace  string
	Took   time.Duration
}

// String prints the result in one line.
func (r Result) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s states, %s edges, depth %d, ", r.Name, thousands(r.States), thousands(r.Edges), r.Depth)
	switch {
	case r.Broken != "":
		fmt.Fprintf(&b, "BROKEN: %s", r.Broken)
	case r.Complete:
		b.WriteString("complete")
		if r.AllSettle {
			b.WriteString(", every state can settle")
		}
	default:
		fmt.Fprintf(&b, "not complete: %s, everything visited up to depth %d", r.Bound, r.Whole)
	}
	fmt.Fprintf(&b, ", %.1f s", r.Took.Seconds())
	return b.String()
}

// Counted is one part of a name, empty for none.
func Counted(n int, one, many string) string {
	switch n {
	case 0:
		return ""
	case 1:
		return ", 1 " + one
	}
	return fmt.Sprintf(", %d %s", n, many)
}

func thousands(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// search is a breadth-first search under way. States are numbered in the order in which they
// are met. Only those of the last two distances are kept; the others can be made again by
// doing the moves that led to them.
type search[S any] struct {
	world  world[S]
	limits Limits
	result Result
	began  time.Time

	seen numbering
	from []uint32 // the state that this one was met from
	by   []Move   // and the move

	settled []bool
	edges   []uint32 // in order of the state that they start at
	firsts  []int    // where the edges of a state begin
}

// Explore visits all states of a world within limits.
func Explore[S any](name string, w world[S], limits Limits) Result {
	s := &search[S]{world: w, limits: limits, began: time.Now(), result: Result{Name: name}}
	s.run()
	s.result.States = len(s.from)
	s.result.Took = time.Since(s.began)
	return s.result
}

func (s *search[S]) run() {
	start := s.world.Start()
	s.seen.number(s.world.Fingerprint(&start))
	s.from, s.by = append(s.from, 0), append(s.by, 0)
	if s.note(&start) {
		return
	}
	frontier, next := []S{start}, []S(nil)
	var moves []Move
	var t S
	at := uint32(0)
	for depth := 0; len(frontier) > 0; depth++ {
		if depth == s.limits.Depth && depth > 0 {
			s.result.Bound = fmt.Sprintf("depth %d", depth)
			return
		}
		for i := range frontier {
			if at%1024 == 0 && s.exhausted() {
				return
			}
			if s.limits.Settle {
				s.firsts = append(s.firsts, len(s.edges))
			}
			moves = s.world.Moves(&frontier[i], moves[:0])
			for _, m := range moves {
				t = frontier[i]
				s.world.Do(&t, m)
				id, fresh := s.seen.number(s.world.Fingerprint(&t))
				if id == at {
					continue
				}
				s.result.Edges++
				if s.limits.Settle {
					s.edges = append(s.edges, id)
				}
				if !fresh {
					continue
				}
				s.from, s.by = append(s.from, at), append(s.by, m)
				s.result.Depth = depth + 1
				if s.note(&t) {
					return
				}
				next = append(next, t)
			}
			at++
		}
		s.result.Whole = depth + 1
		frontier, next = next, frontier[:0]
	}
	s.result.Complete = true
	s.mustSettle()
}

// note looks at a new state, and reports whether the search is over because of it.
func (s *search[S]) note(t *S) bool {
	settled := s.world.Settled(t)
	if settled {
		s.result.Settled++
	}
	if s.limits.Settle {
		s.settled = append(s.settled, settled)
	}
	if b := s.world.Broken(t); b != "" {
		s.fail(b, len(s.from)-1)
		return true
	}
	return false
}

func (s *search[S]) fail(broken string, at int) {
	var way []Move
	for ; at != 0; at = int(s.from[at]) {
		way = append(way, s.by[at])
	}
	slices.Reverse(way)
	s.result.Broken, s.result.Trace = broken, s.world.Trace(way)
}

func (s *search[S]) exhausted() bool {
	switch {
	case s.limits.States > 0 && len(s.from) >= s.limits.States:
		s.result.Bound = thousands(s.limits.States) + " states"
	case s.limits.Time > 0 && time.Since(s.began) >= s.limits.Time:
		s.result.Bound = s.limits.Time.String()
	default:
		return false
	}
	return true
}

// mustSettle finds a state without a way to a settled one. Edges mostly lead to later states,
// so going backwards needs few rounds.
func (s *search[S]) mustSettle() {
	if !s.limits.Settle {
		return
	}
	can := s.settled
	s.firsts = append(s.firsts, len(s.edges))
	for changed := true; changed; {
		changed = false
		for at := len(can) - 1; at >= 0; at-- {
			if !can[at] && slices.ContainsFunc(s.edges[s.firsts[at]:s.firsts[at+1]],
				func(to uint32) bool { return can[to] }) {
				can[at], changed = true, true
			}
		}
	}
	if at := slices.Index(can, false); at >= 0 {
		s.fail("AC5: nothing leads from here to an end", at)
		return
	}
	s.result.AllSettle = true
}
