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
	"txn/class.go": nil,
	// a new id is plain, until somebody says otherwise; the text of ErrBadID has the characters of all
	"txn/id.go": {"Recorded", "ThreePhase", "LastResource"},
	// others have nothing more to store
	"txn/txn.go":                     {"Plain", "Recorded", "ThreePhase"},
	"coordinator/commit/protocol.go": nil,
	// their cores know what to do
	"coordinator/commit/decide.go": {"Plain", "Recorded", "ThreePhase"},
	// others have no last resource
	"coordinator/commit/last.go": {"Plain", "Recorded", "ThreePhase"},
	"txn/last.go":                {"Plain", "Recorded", "ThreePhase"},
	"api/last.go":                {"Plain", "Recorded", "ThreePhase"},
	"last.go":                    {"Plain", "ThreePhase"}, // three phases are known by their protocol
	// only a last resource has a tag in the names of other branches
	"adapters/mysql/finish.go":           {"Plain", "Recorded", "ThreePhase"},
	"adapters/mysql/xa.go":               {"Plain", "Recorded", "ThreePhase"},
	"adapters/postgres/sql.go":           {"Plain", "Recorded", "ThreePhase"},
	"adapters/pebble/journal/journal.go": {"Plain", "Recorded", "ThreePhase"},
	// what the cluster decides has to be prepared; others may be last, or alone
	"adapters/sqlite/session.go": {"Plain", "LastResource"},
	// the protocol tells the others
	"server/transactions.go": {"Plain", "Recorded", "ThreePhase"},
	// an operator may commit it, if it is decided here
	"coordinator/commit/resolve.go": {"Plain", "Recorded"},
	// whether the cluster decides three phases is asked for recovery/plan.go
	"coordinator/commit/orphan.go": nil,
	// others have no members
	"coordinator/commit/council.go": {"Plain", "Recorded", "LastResource"},
	"api/member/envelope.go":        {"Plain", "Recorded", "LastResource"},
	"recovery/plan.go":              nil,
	// it is refused, before the other places of an agent
	"participant/work.go": {"LastResource"},
	// whoever prepares asks for the vote
	"participant/vote.go": {"Plain", "Recorded", "LastResource"},
	// two phases; others do not come past work.go
	"participant/branch.go": {"Plain", "Recorded", "LastResource"},
	// two phases; others are refused by the node
	"api/convert.go": {"Plain", "Recorded", "LastResource"},
	// the key of a transaction that the cluster does not decide alone is refused
	"api/key.go": {"Plain", "ThreePhase", "LastResource"},
	// two phases
	"join.go": {"Plain", "Recorded"},
	// who began the outer transaction chose how it is decided; it may lack a record, and nothing else
	"client.go": {"Plain", "ThreePhase", "LastResource"},
	// what no option chooses is plain, or begun by no client
	"options.go": {"Plain", "LastResource"},
	// three phases are known by their protocol; in all others, branches tell
	"tx.go":               {"Plain", "ThreePhase", "LastResource"},
	"gateway/handlers.go": {"Recorded", "ThreePhase", "LastResource"},
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
	for _, p := range packages(t) {
		if house[p.name()].kind != layered {
			continue
		}
		for _, file := range p.GoFiles {
			place := filepath.ToSlash(filepath.Join(p.name(), file))
			if _, listed := asksForClass[place]; !listed && namesAny(namesIn(t, place), classes) {
				t.Errorf("%s goes by the class of a transaction: add it to asksForClass in "+
					"internal/tidy/classes_test.go, with the classes that it does not name", place)
			}
		}
	}
}

// What knows a class says its word, and reads it in a gid.
func TestEveryClassIsKnownWhereItIsDeclared(t *testing.T) {
	for _, function := range []string{"Known", "String"} {
		named := map[string]bool{}
		ast.Inspect(parseFile(t, "txn/class.go"), func(n ast.Node) bool {
			f, ok := n.(*ast.FuncDecl)
			if !ok || f.Name.Name != function {
				return true
			}
			ast.Inspect(f.Body, func(n ast.Node) bool {
				if name, ok := n.(*ast.Ident); ok {
					named[name.Name] = true
				}
				return true
			})
			return false
		})
		for _, class := range constantsOf(t, "txn/class.go", "Class") {
			if !named[class] {
				t.Errorf("txn/class.go: Class.%s does not know %s", function, class)
			}
		}
	}
}

func namesAny(names map[string]bool, of []string) bool {
	return slices.ContainsFunc(of, func(name string) bool { return names[name] })
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
