// SPDX-License-Identifier: Apache-2.0

package tidy

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// asksForClass are the places that go by the class of a transaction, and the classes that each of them
// does not name, because what it does with all others is right for these.
var asksForClass = map[string][]string{
	"coordinator/commit/vanish.go":   {"ThreePhase", "LastResource"}, // nothing is decided of it from here
	"coordinator/commit/protocol.go": {},
	"coordinator/commit/decide.go":   {"Plain", "Recorded", "ThreePhase"}, // their cores know what to do
	"coordinator/commit/resolve.go":  {"Plain", "Recorded"},
	// an operator may commit it, if it is decided here
	"recovery/plan.go":    {},
	"participant/work.go": {"LastResource"},
	// refused, before the other places of an agent
	"participant/vote.go":   {"Plain", "Recorded", "LastResource"}, // whoever prepares asks for the vote
	"participant/branch.go": {"Plain", "Recorded", "LastResource"}, // two phases; others came not past work.go
	"api/convert.go":        {"Plain", "Recorded", "LastResource"},
	// two phases; others are refused by the node
	"join.go": {"Plain", "Recorded"},
	// two phases
	"gateway/handlers.go": {"Recorded", "ThreePhase", "LastResource"},
	"txn/txn.go":          {"Plain", "Recorded", "ThreePhase"}, // have nothing more to store
}

// Whoever adds a class is told of every place that has to know what it means.
func TestEveryPlaceThatGoesByTheClassKnowsThemAll(t *testing.T) {
	classes := constantsOf(t, "txn/class.go", "Class")
	for place, others := range asksForClass {
		names := namesIn(t, place)
		for _, class := range classes {
			named := names[class]
			if listed := slices.Contains(others, class); named == listed {
				t.Errorf("%s: does it know what to do with %s? It has to name it, or asksForClass says that it is "+
					"as all others there: neither, or both", place, class)
			}
		}
	}
}

func parseFile(t *testing.T, file string) *ast.File {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root, file))
	require.NoError(t, err)
	f, err := parser.ParseFile(token.NewFileSet(), file, content, parser.SkipObjectResolution)
	require.NoError(t, err)
	return f
}

// constantsOf returns the names of the constants of a type.
func constantsOf(t *testing.T, file, typ string) (names []string) {
	t.Helper()
	ast.Inspect(parseFile(t, file), func(n ast.Node) bool {
		if v, ok := n.(*ast.ValueSpec); ok {
			if of, ok := v.Type.(*ast.Ident); ok && of.Name == typ {
				for _, name := range v.Names {
					names = append(names, name.Name)
				}
			}
		}
		return true
	})
	require.NotEmpty(t, names, "%s has no constants of type %s", file, typ)
	return names
}

// namesIn returns the names of txn that a file uses.
func namesIn(t *testing.T, file string) map[string]bool {
	t.Helper()
	f, names := parseFile(t, file), map[string]bool{}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.SelectorExpr:
			if of, ok := n.X.(*ast.Ident); ok && of.Name == "txn" {
				names[n.Sel.Name] = true
			}
		case *ast.Ident:
			if f.Name.Name == "txn" {
				names[n.Name] = true
			}
		}
		return true
	})
	return names
}
