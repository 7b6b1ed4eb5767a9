// SPDX-License-Identifier: Apache-2.0

package recovery

import (
	"go/ast"
	"go/parser"
	"go/token"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/txn"
)

// planned plans for one branch that was listed before, at now and a second later.
func planned(p adapters.Prepared, l log, r Rules) Action {
	var s Sightings
	s.Plan("orders", []adapters.Prepared{p}, l, r, now)
	s.Date(now)
	return s.Plan("orders", []adapters.Prepared{p}, l, r, now.Add(time.Second))[0]
}

// knows is a log with one transaction, that of the branch.
func knows(p adapters.Prepared, x txn.Txn) log {
	x.ID = p.XID.ID
	return log{txns: map[txn.ID]txn.Txn{x.ID: x}}
}

// whys are all that a plan says, with GID for the id of the transaction.
var whys = []struct {
	name string
	meet func() Action
	kind Kind
	says string
}{
	{"young", func() Action { return planned(prepared(now), log{}, rules) }, Leave,
		"no decision, may be alive: younger than 1m0s"},
	{"new", func() Action {
		return (&Sightings{}).Plan("orders", []adapters.Prepared{prepared(now.Add(-time.Hour))}, log{}, rules, now)[0]
	}, Leave, "no decision, seen for the first time"},
	{"old", func() Action { return planned(prepared(now.Add(-time.Hour)), log{}, rules) }, Abort,
		"no decision, and older than 1m0s: whoever began it is gone"},
	{"without a lease", func() Action {
		p := prepared(now)
		p.XID.ID = p.XID.ID.WithLease(3)
		return planned(p, log{leases: txn.Leases{Last: 3}}, rules)
	}, Abort, "no decision, and lease 3 of the client has ended: it was closed, or the cluster had not heard from " +
		"it for too long"},
	{"aborted", func() Action {
		p := prepared(now)
		return planned(p, knows(p, txn.Txn{Decision: txn.Abort}), rules)
	}, Rollback, "the log says abort"},
	{"aborted for a reason", func() Action {
		p := prepared(now)
		return planned(p, knows(p, txn.Txn{Decision: txn.Abort, Reason: "asked for its outcome before it was decided"}),
			rules)
	}, Rollback, "the log says abort: asked for its outcome before it was decided"},
	{"committed", func() Action {
		p := prepared(now)
		return planned(p, knows(p, txn.Txn{Decision: txn.Commit, Branches: []txn.Branch{{No: 1, Resource: "orders"}}}),
			rules)
	}, Commit, "the log says commit"},
	{"back", func() Action {
		p := prepared(now)
		return planned(p, knows(p, txn.Txn{Decision: txn.Commit, Ended: true,
			Branches: []txn.Branch{{No: 1, Resource: "orders"}}}), rules)
	}, Commit, "the log says commit, and the branch is back after it was finished"},
	{"another branch", func() Action {
		p := prepared(now)
		return planned(p, knows(p, txn.Txn{Decision: txn.Commit, Branches: []txn.Branch{{No: 2, Resource: "orders"}}}),
			rules)
	}, Report, "the log says commit, but for other branches than this one: look into the databases, then " +
		`end it with "concord tx settle GID/1 --commit" or "--abort"`},
	{"given up", func() Action {
		p := prepared(now)
		h := txn.Heuristic{Branch: 1, Outcome: txn.HeuristicHazard, By: txn.FromOperator, Who: "ann", Why: "poison"}
		return planned(p, knows(p, txn.Txn{Decision: txn.Commit, Heuristics: []txn.Heuristic{h}}), rules)
	}, Report, `ann has given it up (poison): end it with "concord tx settle GID/1 --commit" or "--abort"`},
	{"of another class", func() Action {
		p := prepared(now)
		p.XID.ID = p.XID.ID.WithClass(txn.ThreePhase)
		return planned(p, log{}, rules)
	}, Report, `of the class three_phase, which is not switched on in this cluster, so the lack of a decision here ` +
		`says nothing: look into the databases, then end it with "concord tx settle GID/1 --commit" or "--abort"`},
	{"open", func() Action {
		p := prepared(now.Add(-time.Hour))
		p.XID.ID = p.XID.ID.WithClass(txn.ThreePhase)
		r := rules
		r.ThreePhase = true
		return planned(p, log{witnesses: map[txn.ID]txn.Witness{p.XID.ID: {ID: p.XID.ID}}}, r)
	}, Leave, "its members decide it: the agents that hold its branches, and the cluster"},
	{"of three phases, and never heard of", func() Action {
		p := prepared(now.Add(-time.Hour))
		p.XID.ID = p.XID.ID.WithClass(txn.ThreePhase)
		r := rules
		r.ThreePhase = true
		return planned(p, log{}, r)
	}, Abort, "no decision, and older than 1m0s: whoever began it is gone"},
	{"forgotten", func() Action { return planned(prepared(now.Add(-time.Hour)), log{old: now}, rules) }, Report,
		"older than what the log remembers, so its decision is unknown: look into the databases, then " +
			`end it with "concord tx settle GID/1 --commit" or "--abort"`},
	{"from the future", func() Action {
		r := rules
		r.Horizon = now.Add(24 * time.Hour)
		return planned(prepared(now.Add(48*time.Hour)), log{}, r)
	}, Report, "dated 2023-11-16T22:13:20Z, so far ahead that no client of this cluster can have begun it: " +
		`run "concord tx resolve GID --abort"`},
}

func TestWhatAPlanSays(t *testing.T) {
	for _, w := range whys {
		t.Run(w.name, func(t *testing.T) {
			a := w.meet()
			require.Equal(t, w.kind, a.Kind)
			require.Equal(t, w.says, strings.ReplaceAll(a.Why, a.XID.ID.String(), "GID"))
		})
	}
}

// All that judge says is written in it, so that none can be forgotten here.
func TestEveryReasonHasARow(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "plan.go", nil, parser.SkipObjectResolution)
	require.NoError(t, err)
	found := 0
	for _, d := range file.Decls {
		if fn, ok := d.(*ast.FuncDecl); !ok || fn.Name.Name != "judge" {
			continue
		}
		ast.Inspect(d, func(n ast.Node) bool {
			lit, ok := n.(*ast.BasicLit)
			if !ok || lit.Kind != token.STRING {
				return true
			}
			text, err := strconv.Unquote(lit.Value)
			require.NoError(t, err)
			if len(text) < 12 || text == "no decision" { // of mutants
				return true
			}
			found++
			words := regexp.MustCompile(`%[-+#0-9.]*[a-z]`).Split(text, -1)
			for i := range words {
				words[i] = regexp.QuoteMeta(words[i])
			}
			like := regexp.MustCompile(strings.Join(words, ".*"))
			for _, w := range whys {
				if like.MatchString(w.says) {
					return true
				}
			}
			t.Errorf("no row of whys, in texts_test.go, shows %q: add how a plan comes to it, and all that it says "+
				"then, with a true next step", text)
			return true
		})
	}
	require.Greater(t, found, 10, "the reasons were not found")
}
