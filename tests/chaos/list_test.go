// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// lists looks for what no serial order explains, as Elle does (Kingsbury and Alvaro, VLDB 2020): each value is
// appended once, so the order of a list tells who wrote before whom, and a read tells what it saw. All accesses
// are under locks that are held to the end, so there has to be a serial order.
func (c *checker) lists() {
	writer := map[int]string{} // of each value
	for _, gid := range c.sorted() {
		for _, a := range c.byGID[gid].appends {
			writer[a.Append] = gid
		}
	}
	g := graph{}
	for k := range lists {
		c.order(g, writer, k)
	}
	for _, gid := range c.sorted() {
		for _, r := range c.byGID[gid].told {
			if r.Outcome != committed {
				continue
			}
			for _, a := range r.Lists {
				c.access(g, writer, gid, a)
			}
		}
	}
	for _, circle := range g.circles() {
		kind := g.kind(circle)
		c.fail("LIST", "%s: %s", kind, strings.Join(circle, ", "))
	}
}

// order looks at the final state of a list.
func (c *checker) order(g graph, writer map[int]string, k int) {
	seen := map[int]bool{}
	for i, v := range c.final.lists[k] {
		gid, ok := writer[v]
		switch {
		case !ok:
			c.fail("LIST", "list %d holds %d, which nobody has appended", k, v)
		case c.decided(gid, c.byGID[gid]) == aborted:
			c.fail("LIST", "list %d holds %d of %s, which is aborted (G1a)", k, v, gid)
		case !c.byGID[gid].asked:
			c.fail("K01", "list %d holds %d of %s, and nobody has asked for its commit", k, v, gid)
		}
		if seen[v] {
			c.fail("LIST", "list %d holds %d twice", k, v)
		}
		seen[v] = true
		if i > 0 {
			g.add(writer[c.final.lists[k][i-1]], gid, "ww")
		}
	}
	for v, gid := range writer {
		for _, a := range c.byGID[gid].appends {
			if a.Append == v && a.List == k && !seen[v] && c.decided(gid, c.byGID[gid]) == committed {
				c.fail("LIST", "%s is committed, and its %d is not in list %d (lost)", gid, v, k)
			}
			if a.Append == v && a.List == k && seen[v] && len(c.byGID[gid].appends) > 1 {
				c.whole(gid)
			}
		}
	}
}

// whole: if one append of a transaction is there, all are.
func (c *checker) whole(gid string) {
	for _, a := range c.byGID[gid].appends {
		if !slices.Contains(c.final.lists[a.List], a.Append) {
			c.fail("AC1", "%s is in one list, and its %d is not in list %d", gid, a.Append, a.List)
		}
	}
}

// access looks at what a committed transaction did to a list.
func (c *checker) access(g graph, writer map[int]string, gid string, a access) {
	if a.Append != 0 {
		return
	}
	all := c.final.lists[a.List]
	if len(a.Read) > len(all) || !slices.Equal(a.Read, all[:len(a.Read)]) {
		c.fail("LIST", "%s read %v of list %d, which is not how %v begins", gid, a.Read, a.List, all)
		return
	}
	if n := len(a.Read); n > 0 {
		g.add(writer[a.Read[n-1]], gid, "wr")
	}
	if len(a.Read) < len(all) {
		g.add(gid, writer[all[len(a.Read)]], "rw")
	}
}

// graph has an edge from each transaction to those that come after it, and says why.
type graph map[string]map[string]string

func (g graph) add(from, to, why string) {
	if from == to || from == "" || to == "" {
		return
	}
	if g[from] == nil {
		g[from] = map[string]string{}
	}
	if g[from][to] == "" || why != "rw" {
		g[from][to] = why
	}
}

// kind names an anomaly by the edges within it.
func (g graph) kind(circle []string) string {
	count := map[string]int{}
	for _, from := range circle {
		for to, why := range g[from] {
			if slices.Contains(circle, to) {
				count[why]++
			}
		}
	}
	switch {
	case count["rw"] == 0 && count["wr"] == 0:
		return "G0"
	case count["rw"] == 0:
		return "G1c"
	case count["rw"] == 1:
		return "G-single"
	}
	return fmt.Sprintf("G2 (%d rw)", count["rw"])
}

// circles are the strongly connected components of more than one transaction (Tarjan 1972).
func (g graph) circles() (found [][]string) {
	index, low, on := map[string]int{}, map[string]int{}, map[string]bool{}
	var stack []string
	next := 1
	var visit func(string)
	visit = func(v string) {
		index[v], low[v] = next, next
		next++
		stack = append(stack, v)
		on[v] = true
		for _, to := range slices.Sorted(maps.Keys(g[v])) {
			if index[to] == 0 {
				visit(to)
				low[v] = min(low[v], low[to])
			} else if on[to] {
				low[v] = min(low[v], index[to])
			}
		}
		if low[v] != index[v] {
			return
		}
		at := slices.Index(stack, v)
		circle := slices.Clone(stack[at:])
		stack = stack[:at]
		for _, w := range circle {
			on[w] = false
		}
		if len(circle) > 1 {
			found = append(found, circle)
		}
	}
	for _, v := range slices.Sorted(maps.Keys(g)) {
		if index[v] == 0 {
			visit(v)
		}
	}
	return found
}
