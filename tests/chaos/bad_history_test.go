// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// small is a history of three transactions that is right, and what the databases hold after it.
func small() ([]record, final) {
	sum := int64(3 * accounts * opening)
	h := []record{
		{At: 1, Op: begun, GID: "a", Kind: "transfer", Rows: []string{orders, billing}, Payload: "pa"},
		{At: 2, Op: "appends", GID: "a", Lists: []access{{List: 0, Append: 1}}},
		{At: 2, Op: "appends", GID: "a", Lists: []access{{List: 1, Append: 2}}},
		{At: 3, Op: asked, GID: "a"},
		{At: 4, Op: told, GID: "a", Outcome: committed, Lists: []access{{List: 0, Append: 1}, {List: 1, Append: 2}}},
		{At: 5, Op: polled, GID: "a", Outcome: committed, Since: 5},
		{At: 6, Op: begun, GID: "b", Kind: "counter"},
		{At: 6, Op: "appends", GID: "b", Lists: []access{{List: 0, Append: 3}}},
		{At: 7, Op: asked, GID: "b"},
		{At: 8, Op: told, GID: "b", Outcome: committed, Sum: &sum,
			Lists: []access{{List: 0, Append: 3}, {List: 1, Read: []int{2}}}},
		{At: 9, Op: begun, GID: "c", Kind: "transfer", Rows: []string{orders, stock}, Payload: "pc"},
		{At: 10, Op: told, GID: "c", Outcome: aborted},
		{At: 11, Op: begun, GID: "d", Kind: "transfer", Rows: []string{orders, stock}, Payload: "pd"},
		{At: 12, Op: asked, GID: "d"},
		{At: 13, Op: told, GID: "d", Outcome: unknown},
		{At: 14, Op: begun, Key: "k", Kind: "run"}, {At: 15, Op: asked, Key: "k"},
		{At: 16, Op: told, Key: "k", GID: "e", Outcome: committed},
		{At: 17, Op: told, Key: "k", GID: "e", Outcome: committed},
	}
	f := final{
		rows: map[string]map[string]string{orders: {"a": "pa", "d": "pd"}, billing: {"a": "pa"}, stock: {"d": "pd"}},
		sums: map[string]int64{orders: accounts*opening - 5, billing: accounts*opening + 5, stock: accounts * opening,
			desk: accounts*opening - 7, ledger: 7},
		lists:    map[int][]int{0: {1, 3}, 1: {2}},
		drawn:    map[string]map[int]string{orders: {1: "b"}, billing: {1: "b"}, stock: {1: "b"}},
		keyed:    map[string]map[string]int{desk: {"k": 1}, ledger: {"k": 1}},
		outcomes: map[string]string{"d": committed, "a": committed},
		reported: map[string]string{"x/0": "heuristic-commit"}, injected: map[string]string{"x/0": "heuristic-commit"},
	}
	return h, f
}

func TestGoodHistory(t *testing.T) {
	h, f := small()
	require.Empty(t, check(h, f))
}

// Every history that must be rejected is, by the rule that is meant to notice.
func TestBadHistory(t *testing.T) {
	for _, bad := range []struct {
		name, rule string
		spoil      func(h []record, f *final) []record
	}{
		{"a half commit", "AC1", func(h []record, f *final) []record { delete(f.rows[billing], "a"); return h }},
		{"a commit that is lost", "DUR1", func(h []record, f *final) []record {
			delete(f.rows[billing], "a")
			delete(f.rows[orders], "a")
			return h
		}},
		{"an empty branch in place of the work", "AC3w",
			func(h []record, f *final) []record { f.rows[billing]["a"] = ""; return h }},
		{"an abort that happened", "AC1", func(h []record, f *final) []record {
			f.rows[orders]["c"], f.rows[stock]["c"] = "pc", "pc"
			return h
		}},
		{"a commit that nobody asked for", "K01", func(h []record, f *final) []record {
			f.rows[orders]["c"], f.rows[stock]["c"] = "pc", "pc"
			return h
		}},
		{"an unknown outcome that is aborted, and happened", "AC1",
			func(h []record, f *final) []record { f.outcomes["d"] = aborted; return h }},
		{"a row of nobody", "SETS", func(h []record, f *final) []record { f.rows[stock]["z"] = "p"; return h }},
		{"the cluster says something else than the client was told", "AC2",
			func(h []record, f *final) []record { f.outcomes["a"] = aborted; return h }},
		{"the cluster has forgotten what it decided", "DUR1",
			func(h []record, f *final) []record { f.outcomes["a"] = "unrecorded"; return h }},
		{"somebody is told something else", "LIN", func(h []record, _ *final) []record {
			return append(h, record{At: 20, Op: polled, GID: "a", Outcome: aborted, Since: 19})
		}},
		{"pending after the commit was told", "LIN", func(h []record, _ *final) []record {
			return append(h, record{At: 20, Op: polled, GID: "a", Outcome: pending, Since: 19})
		}},
		{"two answers", "AC2", func(h []record, _ *final) []record {
			return append(h, record{At: 20, Op: told, GID: "a", Outcome: aborted})
		}},
		{"an answer of no kind", "API", func(h []record, _ *final) []record {
			return append(h, record{At: 20, Op: told, GID: "d", Outcome: wrong})
		}},
		{"money is made", "BANK", func(h []record, f *final) []record { f.sums[stock]++; return h }},
		{"money is lost behind the agent", "BANK", func(h []record, f *final) []record { f.sums[ledger]--; return h }},
		{"somebody sees another sum", "BANK", func(h []record, _ *final) []record {
			*h[9].Sum++
			return h
		}},
		{"two databases drew in another order", "ORDER", func(h []record, f *final) []record {
			f.drawn[stock] = map[int]string{1: "d"}
			return h
		}},
		{"a number is missing", "ORDER", func(h []record, f *final) []record {
			for _, name := range sqlNames {
				f.drawn[name] = map[int]string{2: "b"}
			}
			return h
		}},
		{"a transaction drew twice", "IDEM", func(h []record, f *final) []record {
			for _, name := range sqlNames {
				f.drawn[name] = map[int]string{1: "b", 2: "b"}
			}
			return h
		}},
		{"a key did its work twice", "IDEM", func(h []record, f *final) []record {
			f.keyed[desk]["k"], f.keyed[ledger]["k"] = 2, 2
			return h
		}},
		{"a key did half of its work", "AC1", func(h []record, f *final) []record {
			delete(f.keyed[ledger], "k")
			return h
		}},
		{"a key has two transactions", "IDEM", func(h []record, _ *final) []record {
			return append(h, record{At: 20, Op: told, Key: "k", GID: "f", Outcome: committed})
		}},
		{"a key that is committed did nothing", "DUR1", func(h []record, f *final) []record {
			f.keyed = map[string]map[string]int{}
			return h
		}},
		{"an append is lost", "LIST", func(h []record, f *final) []record { f.lists[0] = []int{1}; return h }},
		{"an append is there twice", "LIST",
			func(h []record, f *final) []record { f.lists[0] = []int{1, 3, 3}; return h }},
		{"an append of nobody", "LIST", func(h []record, f *final) []record { f.lists[0] = []int{1, 3, 9}; return h }},
		{"half of the appends", "AC1", func(h []record, f *final) []record {
			f.lists[1] = nil
			return h
		}},
		{"an aborted append is there (G1a)", "LIST", func(h []record, f *final) []record {
			f.lists[2] = []int{8}
			return append(h, record{Op: "appends", GID: "c", Lists: []access{{List: 2, Append: 8}}})
		}},
		{"a read that is no beginning", "LIST", func(h []record, _ *final) []record {
			h[9].Lists[1].Read = []int{5}
			return h
		}},
		{"a fractured read (G-single)", "LIST", func(h []record, _ *final) []record {
			h[9].Lists[1].Read = nil // it saw a's append to list 0, and not that to list 1
			return h
		}},
		{"two orders (G0)", "LIST", func(h []record, f *final) []record {
			f.lists[1] = []int{4, 2}
			return append(h, record{Op: "appends", GID: "b", Lists: []access{{List: 1, Append: 4}}})
		}},
		{"a circle of reads (G1c)", "LIST", func(h []record, f *final) []record {
			h[4].Lists = append(h[4].Lists, access{List: 3, Read: []int{6}})
			f.lists[3] = []int{6}
			return append(h, record{Op: "appends", GID: "b", Lists: []access{{List: 3, Append: 6}}})
		}},
		{"write skew (G2)", "LIST", func(h []record, f *final) []record {
			f.lists[4], f.lists[5] = []int{11}, []int{12}
			return append(h,
				record{Op: begun, GID: "p"}, record{Op: begun, GID: "q"}, record{Op: asked, GID: "p"},
				record{Op: asked, GID: "q"}, record{Op: "appends", GID: "p", Lists: []access{{List: 4, Append: 11}}},
				record{Op: "appends", GID: "q", Lists: []access{{List: 5, Append: 12}}},
				record{Op: told, GID: "p", Outcome: committed, Lists: []access{{List: 5}, {List: 4, Append: 11}}},
				record{Op: told, GID: "q", Outcome: committed, Lists: []access{{List: 4}, {List: 5, Append: 12}}})
		}},
		{"a branch is left over", "AC5", func(h []record, f *final) []record { f.left = []string{"x"}; return h }},
		{"a branch of others is gone", "FOREIGN",
			func(h []record, f *final) []record { f.canaries = []string{"x"}; return h }},
		{"what was done by hand is not reported", "HEUR", func(h []record, f *final) []record {
			f.reported = nil
			return h
		}},
		{"a false alarm", "HEUR", func(h []record, f *final) []record { f.injected = nil; return h }},
	} {
		t.Run(bad.name, func(t *testing.T) {
			h, f := small()
			h = bad.spoil(h, &f)
			var rules []string
			for _, v := range check(h, f) {
				rules = append(rules, v.rule)
			}
			require.Contains(t, rules, bad.rule, fmt.Sprint(check(h, f)))
		})
	}
}
