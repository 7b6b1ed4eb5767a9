// SPDX-License-Identifier: Apache-2.0

package tidy

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEveryPackageHasAComment(t *testing.T) {
	for _, p := range packages(t) {
		commented := ""
		for _, file := range p.GoFiles {
			content, err := os.ReadFile(filepath.Join(p.Dir, file))
			require.NoError(t, err)
			if generated(content) {
				commented = file
				continue
			}
			f, err := parser.ParseFile(token.NewFileSet(), file, content, parser.ParseComments|parser.PackageClauseOnly)
			require.NoError(t, err)
			if f.Doc != nil {
				require.Contains(t, []string{"doc.go", "main.go"}, file, "%s: the package comment is in %s", p.name(), file)
				commented = file
			}
		}
		require.NotEmpty(t, commented, "package %s has no comment: write doc.go, or main.go for a command", p.name())
	}
}

// A protocol core is a plain struct: what it does follows from the events alone.
func TestCoresTouchNoClockNoRandomnessAndNoGoroutines(t *testing.T) {
	outside := []string{"time", "math/rand", "crypto/rand", "context", "net", "os", "sync", "log", "io/fs", "runtime", "syscall", "unsafe", "database"}
	checked := 0
	for _, p := range packages(t) {
		if !strings.HasPrefix(p.name(), "protocol/") {
			continue
		}
		for _, file := range p.GoFiles {
			checked++
			set := token.NewFileSet()
			f, err := parser.ParseFile(set, filepath.Join(p.Dir, file), nil, parser.SkipObjectResolution)
			require.NoError(t, err)
			for _, spec := range f.Imports {
				path, err := strconv.Unquote(spec.Path.Value)
				require.NoError(t, err)
				for _, o := range outside {
					require.False(t, path == o || strings.HasPrefix(path, o+"/"), "%s/%s imports %s: a core decides from its events alone", p.name(), file, path)
				}
			}
			ast.Inspect(f, func(n ast.Node) bool {
				switch n.(type) {
				case *ast.GoStmt, *ast.SelectStmt, *ast.ChanType, *ast.SendStmt:
					t.Errorf("%s/%s:%d: goroutines and channels belong to drivers, not to a core", p.name(), file, set.Position(n.Pos()).Line)
				}
				return true
			})
		}
	}
	require.NotZero(t, checked)
}

func TestSourceFilesNameTheirLicense(t *testing.T) {
	eachFile(t, func(path string, content []byte) {
		if !generated(content) {
			require.True(t, strings.HasPrefix(string(content), "// SPDX-License-Identifier: Apache-2.0\n"), "%s does not begin with its licence", path)
		}
	}, ".go")
}

func TestNothingIsLeftToDoInTheSource(t *testing.T) {
	marks := []string{"TO" + "DO", "FIX" + "ME", "XX" + "X:"}
	eachFile(t, func(path string, content []byte) {
		if generated(content) {
			return
		}
		for i, line := range strings.Split(string(content), "\n") {
			for _, mark := range marks {
				require.NotContains(t, line, mark, "%s:%d", path, i+1)
			}
		}
	}, ".go", ".sh", "Makefile")
}

func TestNoPackageRunsCodeBeforeMain(t *testing.T) {
	eachFile(t, func(path string, content []byte) {
		if generated(content) {
			return
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, content, parser.SkipObjectResolution)
		require.NoError(t, err)
		require.False(t, slices.ContainsFunc(f.Decls, func(d ast.Decl) bool {
			function, ok := d.(*ast.FuncDecl)
			return ok && function.Recv == nil && function.Name.Name == "init"
		}), "%s has an init function", path)
	}, ".go")
}
