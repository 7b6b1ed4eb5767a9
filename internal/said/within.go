// SPDX-License-Identifier: Apache-2.0

package said

import (
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

// Within checks packages, by their directories, of which only some errors come before people:
// those of requests, which package txn makes, and what is formatted within some functions. Each
// needs a row, in a table of a test there, whose field says has all of it, or has a part of its
// text among those that are unmet, because only a race of some kind shows them.
func Within(t testing.TB, dirs, unmet, within []string) {
	t.Helper()
	var found, rows []string
	for _, dir := range dirs {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		require.NoError(t, err)
		require.NotEmpty(t, files, dir)
		for _, file := range files {
			f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
			require.NoError(t, err)
			if strings.HasSuffix(file, "_test.go") {
				rows = append(rows, says(f)...)
			} else {
				found = append(found, formats(f, within)...)
			}
		}
	}
	require.NotEmpty(t, found, "the errors were not found")
	require.NotEmpty(t, rows, "the rows were not found")
	for _, text := range unmet {
		require.True(t, slices.ContainsFunc(found, func(f string) bool { return strings.Contains(f, text) }),
			"no error says %q: take it off the list of those without a row", text)
	}
	for _, format := range found {
		words := aVerb.Split(format, -1)
		if strings.TrimSpace(strings.Join(words, "")) == "" {
			continue // it only passes on a text
		}
		for i := range words {
			words[i] = regexp.QuoteMeta(words[i])
		}
		like := regexp.MustCompile("(?s)" + strings.Join(words, ".*"))
		if !slices.ContainsFunc(rows, like.MatchString) && !slices.ContainsFunc(unmet,
			func(u string) bool { return strings.Contains(format, u) }) {
			t.Errorf("no row shows this error: %q: add how one meets it, and all that it says then, with a true "+
				"next step", format)
		}
	}
}

// says returns what the rows of the tables in a test say.
func says(f *ast.File) (rows []string) {
	ast.Inspect(f, func(n ast.Node) bool {
		if kv, ok := n.(*ast.KeyValueExpr); ok {
			if name, _ := nameOf(kv.Key); name == "says" {
				rows = append(rows, literals(kv.Value))
			}
		}
		return true
	})
	return rows
}

var aVerb = regexp.MustCompile(`%[-+#0-9.]*[a-z]`)

// formats returns what is formatted in a file, as far as Within looks at it.
func formats(f *ast.File, within []string) (found []string) {
	for _, d := range f.Decls {
		fn, ok := d.(*ast.FuncDecl)
		all := ok && slices.Contains(within, fn.Name.Name)
		ast.Inspect(d, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok {
				name, of := nameOf(call.Fun)
				if of == "txn" && slices.Contains(ofTxn, name) || all && (name == "Errorf" || name == "Sprintf") {
					found = append(found, literals(call.Args[0]))
				}
			}
			return true
		})
	}
	return found
}

// literals joins the parts of a text that are written there.
func literals(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.BasicLit:
		text, _ := strconv.Unquote(e.Value) // of a number it is an error, and empty
		return text
	case *ast.BinaryExpr:
		return literals(e.X) + literals(e.Y)
	}
	return ""
}
