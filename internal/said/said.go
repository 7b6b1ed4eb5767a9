// SPDX-License-Identifier: Apache-2.0

package said

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// ofTxn are the functions of package txn that make the error of a request. They take its text first, and are looked
// at in every package.
var ofTxn = []string{"Refusedf", "Deniedf", "Busyf", "Unavailablef", "NotFoundf", "Invalidf", "Decidedf",
	"TooOldf"}

// fewest letters make a text: what has less only puts others together, such as "%w: %w".
const fewest = 4

// Check takes what the rows of a table say, and the texts, as the sources have them, that no row
// can have, each with the reason. It reads the sources in the working directory, which is that of
// the package under test. functions take the text of an error, before any other, beside those of errors, fmt and txn.
func Check(t testing.TB, rows []string, without map[string]string, functions ...string) {
	t.Helper()
	CheckIn(t, []string{"."}, rows, without, functions...)
}

// CheckIn is Check for packages that one table speaks for, by their directories.
func CheckIn(t testing.TB, dirs, rows []string, without map[string]string, functions ...string) {
	t.Helper()
	var files []string
	for _, dir := range dirs {
		more, err := filepath.Glob(filepath.Join(dir, "*.go"))
		require.NoError(t, err)
		require.NotEmpty(t, more, dir)
		files = append(files, more...)
	}
	CheckFiles(t, files, rows, without, functions...)
}

// CheckFiles is Check for some files of a package, by their paths.
func CheckFiles(t testing.TB, files, rows []string, without map[string]string, functions ...string) {
	t.Helper()
	found := map[string]bool{}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		set := token.NewFileSet()
		f, err := parser.ParseFile(set, file, nil, 0)
		require.NoError(t, err)
		for _, e := range texts(f, functions) {
			text := textOf(e)
			if letters(text) < fewest {
				continue
			}
			found[text] = true
			_, excused := without[text]
			if saidBy(text, rows) == excused {
				t.Errorf("%s: %s", set.Position(e.Pos()), advice(text, excused))
			}
		}
	}
	for text, why := range without {
		require.True(t, found[text], "no error says %q: take it off the list of those without a row", text)
		require.NotEmpty(t, why, "%q: say why it has no row", text)
	}
}

func advice(text string, excused bool) string {
	if excused {
		return fmt.Sprintf("%q has a row: take it off the list of those without one", text)
	}
	return fmt.Sprintf("no row says %q: add one with the whole text and see that its next step is true, or put it "+
		"on the list of those without a row, with the reason", text)
}

// texts are the expressions that become the text of an error, or the next step in one: the first
// argument of certain functions, what is given to a variable or field of a certain name, and what
// a function of such a name returns.
func texts(f *ast.File, functions []string) (all []ast.Expr) {
	add := func(e ast.Expr) {
		if textOf(e) != "" {
			all = append(all, e)
		}
	}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CallExpr:
			name, of := nameOf(n.Fun)
			known := of == "errors" && name == "New" || of == "fmt" && name == "Errorf" ||
				of == "txn" && slices.Contains(ofTxn, name)
			if known && len(n.Args) > 0 {
				add(n.Args[0])
			}
			if i := slices.IndexFunc(n.Args, isText); i >= 0 && slices.Contains(functions, name) {
				add(n.Args[i])
			}
		case *ast.AssignStmt:
			for i, left := range n.Lhs {
				if name, _ := nameOf(left); isStep(name) && len(n.Rhs) == len(n.Lhs) {
					add(n.Rhs[i])
				}
			}
		case *ast.KeyValueExpr:
			if name, _ := nameOf(n.Key); isStep(name) {
				add(n.Value)
			}
		case *ast.CompositeLit:
			if name, _ := nameOf(n.Type); name != "ExitError" {
				return true
			}
			for _, e := range n.Elts {
				field, ok := e.(*ast.KeyValueExpr)
				if !ok {
					continue
				}
				if key, _ := nameOf(field.Key); key != "Text" {
					continue
				}
				add(field.Value)
				if call, ok := field.Value.(*ast.CallExpr); ok && len(call.Args) > 0 {
					add(call.Args[0]) // of fmt.Sprintf
				}
			}
		case *ast.FuncDecl:
			if isStep(n.Name.Name) {
				ast.Inspect(n, func(n ast.Node) bool {
					if r, ok := n.(*ast.ReturnStmt); ok && len(r.Results) == 1 {
						add(r.Results[0])
					}
					return true
				})
			}
		}
		return true
	})
	return all
}

func isStep(name string) bool { return name == "step" || name == "nextStep" || name == "Fix" }

func nameOf(e ast.Expr) (name, of string) {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name, ""
	case *ast.SelectorExpr:
		of, _ := nameOf(e.X)
		return e.Sel.Name, of
	}
	return "", ""
}

// textOf puts together what is written in an expression, with %v for what is not.
func textOf(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.BasicLit:
		if text, err := strconv.Unquote(e.Value); err == nil && e.Kind == token.STRING {
			return text
		}
	case *ast.BinaryExpr:
		left, right := textOf(e.X), textOf(e.Y)
		if left+right == "" {
			return ""
		}
		return orAny(left) + orAny(right)
	}
	return ""
}

func isText(e ast.Expr) bool { return textOf(e) != "" }

func orAny(text string) string {
	if text == "" {
		return "%v"
	}
	return text
}

var verb = regexp.MustCompile(`%[-+# 0-9.*\[\]]*[a-zA-Z]`)

func letters(text string) (n int) {
	for _, r := range verb.ReplaceAllString(text, "") {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			n++
		}
	}
	return n
}

// saidBy reports whether a row has all constant words of a text, in its order.
func saidBy(text string, rows []string) bool {
	for _, row := range rows {
		rest, ok := row, true
		for _, words := range verb.Split(text, -1) {
			at := strings.Index(rest, strings.ReplaceAll(words, "%%", "%"))
			if ok = at >= 0; !ok {
				break
			}
			rest = rest[at+len(words):]
		}
		if ok {
			return true
		}
	}
	return false
}
