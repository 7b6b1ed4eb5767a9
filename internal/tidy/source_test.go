// SPDX-License-Identifier: Apache-2.0

package tidy

import (
	"fmt"
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
	checked := 0
	for _, p := range packages(t) {
		if !strings.HasPrefix(p.name(), "protocol/") {
			continue
		}
		for _, file := range p.GoFiles {
			checked++
			content, err := os.ReadFile(filepath.Join(p.Dir, file))
			require.NoError(t, err)
			require.Empty(t, breaches(t, content), "%s/%s: a core decides from its events alone; the rest belongs to its driver", p.name(), file)
		}
	}
	require.NotZero(t, checked)
	for _, bad := range []string{
		`import "time"`, `import r "math/rand/v2"`, `import "crypto/rand"`, `import "context"`, `import "net/http"`, `import "os"`, `import "sync/atomic"`,
		"func f() { go f() }", "func f() { select {} }", "var c chan int", "func f(c C) { c <- 1 }",
	} {
		require.NotEmpty(t, breaches(t, []byte("package p\n"+bad)), "%s is not found", bad)
	}
}

// breaches lists what a file of a core must not have.
func breaches(t *testing.T, source []byte) (found []string) {
	t.Helper()
	outside := []string{"time", "math/rand", "crypto/rand", "context", "net", "os", "sync", "log", "io/fs", "runtime", "syscall", "unsafe", "database"}
	set := token.NewFileSet()
	f, err := parser.ParseFile(set, "", source, parser.SkipObjectResolution)
	require.NoError(t, err)
	for _, spec := range f.Imports {
		path, err := strconv.Unquote(spec.Path.Value)
		require.NoError(t, err)
		if slices.ContainsFunc(outside, func(o string) bool { return path == o || strings.HasPrefix(path, o+"/") }) {
			found = append(found, "imports "+path)
		}
	}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n.(type) {
		case *ast.GoStmt, *ast.SelectStmt, *ast.ChanType, *ast.SendStmt:
			found = append(found, fmt.Sprintf("line %d: a goroutine or a channel", set.Position(n.Pos()).Line))
		}
		return true
	})
	return found
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
