// SPDX-License-Identifier: Apache-2.0

package deadlock

import (
	"cmp"
	"slices"

	"github.com/concordtx/concord/txn"
)

// node is a transaction, or a session of which nobody knows whose it is.
type node struct {
	id      txn.ID
	session Session // if id is zero
}

func (n node) compare(o node) int { return cmp.Or(n.id.Compare(o.id), n.session.compare(o.session)) }

// arc leads to who is waited for in a database.
type arc struct {
	to       node
	resource string
}

// graph says who waits for whom. Its methods go through nodes and arcs in order, so that equal graphs have
// equal victims.
type graph struct {
	nodes []node // in order, once ordered
	arcs  map[node][]arc
	order bool
}

func newGraph() *graph { return &graph{arcs: map[node][]arc{}} }

// add notes that one waits for another. Who waits for himself waits for a thread of his own.
func (g *graph) add(from, to node, resource string) {
	if from == to {
		return
	}
	for _, n := range []node{from, to} {
		if _, known := g.arcs[n]; !known {
			g.arcs[n], g.nodes, g.order = nil, append(g.nodes, n), false
		}
	}
	g.arcs[from] = append(g.arcs[from], arc{to, resource})
}

// remove takes a node out.
func (g *graph) remove(n node) {
	delete(g.arcs, n)
	g.nodes = slices.DeleteFunc(g.nodes, func(o node) bool { return o == n })
}

func (g *graph) sorted() []node {
	if !g.order {
		slices.SortFunc(g.nodes, node.compare)
		g.order = true
	}
	return g.nodes
}

// leaveToDatabases takes those out who are in a circle within one database.
func (g *graph) leaveToDatabases() {
	var resources []string
	for _, arcs := range g.arcs {
		for _, a := range arcs {
			if !slices.Contains(resources, a.resource) {
				resources = append(resources, a.resource)
			}
		}
	}
	var out []node
	for _, resource := range resources {
		for _, component := range g.components(func(a arc) bool { return a.resource == resource }) {
			out = append(out, component...)
		}
	}
	for _, n := range out {
		g.remove(n)
	}
}

// circle returns the youngest node that may be ended among those of some knot of circles, and a
// shortest circle through it. Knots in which nobody may be ended are passed over.
func (g *graph) circle(mayEnd func(node) bool) (victim node, circle []step) {
	for _, knot := range g.components(func(arc) bool { return true }) {
		slices.SortFunc(knot, func(a, b node) int { return b.compare(a) })
		if i := slices.IndexFunc(knot, mayEnd); i >= 0 {
			return knot[i], g.shortest(knot[i])
		}
	}
	return node{}, nil
}

// step is one wait of a circle.
type step struct {
	from node
	arc
}

// shortest returns a shortest circle through a node that is in one.
func (g *graph) shortest(n node) []step {
	by := map[node]step{} // the step by which a node was reached
	for next := []node{n}; len(next) > 0; next = next[1:] {
		for _, a := range g.arcs[next[0]] {
			if _, there := g.arcs[a.to]; !there {
				continue
			}
			if _, been := by[a.to]; been {
				continue
			}
			by[a.to] = step{next[0], a}
			if a.to != n {
				next = append(next, a.to)
				continue
			}
			circle := []step{by[n]}
			for at := by[n].from; at != n; at = by[at].from {
				circle = append(circle, by[at])
			}
			slices.Reverse(circle)
			return circle
		}
	}
	return nil
}

// components returns the sets of two or more nodes that all reach each other along the arcs that
// count (Tarjan 1972, without recursion: a chain of waits may be long).
func (g *graph) components(counts func(arc) bool) (found [][]node) {
	type frame struct {
		n    node
		done int // of its arcs
	}
	number, low, onStack := map[node]int{}, map[node]int{}, map[node]bool{}
	var stack []node
	var frames []frame
	enter := func(n node) {
		number[n] = len(number) + 1
		low[n] = number[n]
		stack, onStack[n] = append(stack, n), true
		frames = append(frames, frame{n: n})
	}
	for _, root := range g.sorted() {
		if number[root] != 0 {
			continue
		}
		enter(root)
		for len(frames) > 0 {
			f := &frames[len(frames)-1]
			if arcs := g.arcs[f.n]; f.done < len(arcs) {
				a := arcs[f.done]
				f.done++
				_, there := g.arcs[a.to]
				switch {
				case !there || !counts(a):
				case number[a.to] == 0:
					enter(a.to)
				case onStack[a.to]:
					low[f.n] = min(low[f.n], number[a.to])
				}
				continue
			}
			n := f.n
			frames = frames[:len(frames)-1]
			if len(frames) > 0 {
				above := frames[len(frames)-1].n
				low[above] = min(low[above], low[n])
			}
			if low[n] != number[n] {
				continue
			}
			i := len(stack) - 1
			for stack[i] != n {
				i--
			}
			component := slices.Clone(stack[i:])
			for _, m := range component {
				onStack[m] = false
			}
			stack = stack[:i]
			if len(component) > 1 {
				found = append(found, component)
			}
		}
	}
	return found
}
