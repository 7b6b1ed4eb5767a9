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
				require.Contains(t, []string{"doc.go", "main.go"}, file, "%s: the package comment is in %s", p.name(),
					file)
				commented = file
			}
		}
		require.NotEmpty(t, commented, "package %s has no comment: write doc.go, or main.go for a command", p.name())
	}
}

// nodeCores are cores that know what time it is, because events say so. They read no clock.
var nodeCores = []string{"coordinator/replica", "coordinator/commit", "coordinator/deadlock"}

// A core is a plain struct: what it does follows from the events alone.
func TestCoresTouchNoClockNoRandomnessAndNoGoroutines(t *testing.T) {
	checked := map[string]bool{}
	for _, p := range packages(t) {
		timed := slices.Contains(nodeCores, p.name())
		if !timed && !strings.HasPrefix(p.name(), "protocol/") {
			continue
		}
		for _, file := range p.GoFiles {
			checked[p.name()] = true
			content, err := os.ReadFile(filepath.Join(p.Dir, file))
			require.NoError(t, err)
			require.Empty(t, breaches(t, content, timed),
				"%s/%s: a core decides from its events alone; the rest belongs to its driver", p.name(), file)
		}
	}
	for _, name := range append(nodeCores, "protocol/zab", "protocol/twopc") {
		require.True(t, checked[name], "%s was not looked at", name)
	}
	for _, bad := range []string{
		`import r "math/rand/v2"`, `import "crypto/rand"`, `import "context"`, `import "net/http"`, `import "os"`,
		`import "sync/atomic"`,
		"func f() { go f() }", "func f() { select {} }", "var c chan int", "func f(c C) { c <- 1 }",
		"func f() { _ = time.Now() }", "func f(t time.Time) { _ = time.Since(t) }", "func f() { time.Sleep(1) }",
		"var a = time.NewTimer",
	} {
		for _, timed := range []bool{false, true} {
			require.NotEmpty(t, breaches(t, []byte("package p\n"+bad), timed), "%s is not found", bad)
		}
	}
	require.NotEmpty(t, breaches(t, []byte("package p\nimport \"time\""), false))
	require.Empty(t, breaches(t, []byte("package p\nimport \"time\"\nfunc f(t time.Time) { _ = t.Add(time.Second) }"),
		true))
}

// breaches lists what a file of a core must not have. A timed core may speak of times.
func breaches(t *testing.T, source []byte, timed bool) (found []string) {
	t.Helper()
	outside := []string{"math/rand", "crypto/rand", "context", "net", "os", "sync", "log", "io/fs", "runtime",
		"syscall", "unsafe", "database"}
	if !timed {
		outside = append(outside, "time")
	}
	clock := []string{"Now", "Since", "Until", "After", "AfterFunc", "Sleep", "Tick", "NewTimer", "NewTicker"}
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
		switch n := n.(type) {
		case *ast.GoStmt, *ast.SelectStmt, *ast.ChanType, *ast.SendStmt:
			found = append(found, fmt.Sprintf("line %d: a goroutine or a channel", set.Position(n.Pos()).Line))
		case *ast.SelectorExpr:
			if of, ok := n.X.(*ast.Ident); ok && of.Name == "time" && slices.Contains(clock, n.Sel.Name) {
				found = append(found, fmt.Sprintf("line %d: reads a clock", set.Position(n.Pos()).Line))
			}
		}
		return true
	})
	return found
}

func TestSourceFilesNameTheirLicense(t *testing.T) {
	eachFile(t, func(path string, content []byte) {
		if !generated(content) {
			require.True(t, strings.HasPrefix(string(content), "// SPDX-License-Identifier: Apache-2.0\n"),
				"%s does not begin with its licence", path)
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
