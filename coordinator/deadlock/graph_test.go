// SPDX-License-Identifier: Apache-2.0

package deadlock

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// circles lists all simple circles, each beginning with its least node, by trying every path.
func (g *graph) circles() (all [][]step) {
	var path []step
	var walk func(root, at node)
	walk = func(root, at node) {
		for _, a := range g.arcs[at] {
			if _, there := g.arcs[a.to]; !there || a.to.compare(root) < 0 ||
				slices.ContainsFunc(path, func(s step) bool { return s.from == a.to && a.to != root }) {
				continue
			}
			path = append(path, step{at, a})
			if a.to == root {
				all = append(all, slices.Clone(path))
			} else {
				walk(root, a.to)
			}
			path = path[:len(path)-1]
		}
	}
	for _, n := range g.sorted() {
		walk(n, n)
	}
	return all
}

func (g *graph) String() (text string) {
	for _, n := range g.sorted() {
		for _, a := range g.arcs[n] {
			text += fmt.Sprintf("%v>%v@%s ", n, a.to, a.resource)
		}
	}
	return text
}

// Small random graphs, and what is found in them against what a search through all paths finds.
func TestCirclesAgainstBruteForce(t *testing.T) {
	var withCircle, without, unendable int
	for seed := range uint64(4000) {
		r := rand.New(rand.NewPCG(seed, 1))
		g := newGraph()
		var nodes []node
		for i := range 2 + r.IntN(5) {
			n := node{id: id(string(rune('A' + i)))}
			if r.IntN(4) == 0 {
				n = node{session: Session{"orders", fmt.Sprint(i)}}
			}
			nodes = append(nodes, n)
		}
		for range 1 + r.IntN(9) {
			g.add(nodes[r.IntN(len(nodes))], nodes[r.IntN(len(nodes))], []string{"orders", "billing",
				"ledger"}[r.IntN(3)])
		}
		voting := nodes[r.IntN(len(nodes))]
		mayEnd := func(n node) bool { return !n.id.IsZero() && n != voting }
		text := g.String()

		// whoever is in a circle of one database
		left := map[node]bool{}
		for _, c := range g.circles() {
			if !slices.ContainsFunc(c, func(s step) bool { return s.resource != c[0].resource }) {
				for _, s := range c {
					left[s.from] = true
				}
			}
		}
		before := slices.Clone(g.sorted())
		g.leaveToDatabases()
		for _, n := range before {
			require.Equal(t, !left[n], slices.Contains(g.nodes, n), "%s: %v", text, n)
		}

		if len(g.circles()) == 0 {
			without++
		}
		for {
			all := g.circles()
			victim, circle := g.circle(mayEnd)
			if circle == nil {
				for _, c := range all {
					require.False(t, slices.ContainsFunc(c, func(s step) bool { return mayEnd(s.from) }), "%s: %v",
						text, c)
					unendable++
				}
				break
			}
			withCircle++
			require.True(t, mayEnd(victim), text)
			require.Equal(t, victim, circle[0].from, text)
			for i, s := range circle {
				require.Contains(t, g.arcs[s.from], s.arc, text)
				require.Equal(t, circle[(i+1)%len(circle)].from, s.to, text)
			}
			// no circle that the victim is in is shorter, and it is the youngest of some circle or
			// of those who hang together with one
			mine := 0
			for _, c := range all {
				if slices.ContainsFunc(c, func(s step) bool { return s.from == victim }) {
					require.GreaterOrEqual(t, len(c), len(circle), text)
					mine++
				}
			}
			require.Positive(t, mine, text)
			require.Condition(t, func() bool {
				for _, s := range circle {
					if mayEnd(s.from) && s.from.compare(victim) > 0 {
						return false
					}
				}
				return true
			}, "%s: %v is the youngest of %v", text, victim, circle)
			g.remove(victim)
		}
	}
	t.Logf("%d circles, %d graphs without, %d circles in which nobody may be ended", withCircle, without, unendable)
	require.Greater(t, withCircle, 500)
	require.Greater(t, without, 500)
	require.Positive(t, unendable)
}

// A long chain of waits is no matter of the stack, and a knot of many is broken.
func TestManyWaiters(t *testing.T) {
	g := newGraph()
	const many = 20_000
	at := func(i int) node { return node{session: Session{"orders", fmt.Sprintf("%05d", i)}} }
	for i := range many {
		g.add(at(i), at(i+1), []string{"orders", "billing"}[i%2])
	}
	_, circle := g.circle(func(node) bool { return true })
	require.Nil(t, circle)
	g.add(at(many), at(0), "billing")
	_, circle = g.circle(func(node) bool { return true })
	require.Len(t, circle, many+1)
}
