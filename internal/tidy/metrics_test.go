// SPDX-License-Identifier: Apache-2.0

package tidy

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const prometheus = "github.com/prometheus/client_golang/prometheus"

// A metric is described, and so has a row in docs/operations.md, or it is found here: the names of all
// others come from what describes them.
func TestEveryMetricIsDescribed(t *testing.T) {
	eachFile(t, func(path string, content []byte) {
		if strings.HasSuffix(path, "_test.go") || !strings.Contains(string(content), `"`+prometheus+`"`) {
			return
		}
		for _, found := range undescribed(t, content) {
			t.Errorf("%s:%s: describe it in server/metrics.go, so that docs/operations.md has it, and take its name "+
				"from there", path, found)
		}
	}, ".go")
	for _, bad := range []string{
		`var _ = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "concord_calls"}, nil)`,
		`var _ = prometheus.GaugeOpts{Help: "x"}`,
		`func f() { _ = prometheus.NewDesc("concord_calls", "x", nil, nil) }`,
	} {
		require.NotEmpty(t, undescribed(t, []byte("package p\n"+bad)), "%s is not found", bad)
	}
	require.Empty(t, undescribed(t, []byte("package p\nvar _ = prometheus.GaugeOpts{Name: ofCalls.name}")))
}

// undescribed lists the metrics of a file whose names are their own.
func undescribed(t *testing.T, source []byte) (found []string) {
	t.Helper()
	set := token.NewFileSet()
	f, err := parser.ParseFile(set, "", source, parser.SkipObjectResolution)
	require.NoError(t, err)
	for _, d := range f.Decls {
		if function, ok := d.(*ast.FuncDecl); ok && function.Name.Name == "describe" {
			continue
		}
		ast.Inspect(d, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CompositeLit:
				if name := ofPrometheus(n.Type); strings.HasSuffix(name, "Opts") && name != "HandlerOpts" && !named(n) {
					found = append(found, fmt.Sprintf("%d: a metric by %s", set.Position(n.Pos()).Line, name))
				}
			case *ast.CallExpr:
				if ofPrometheus(n.Fun) == "NewDesc" {
					found = append(found, fmt.Sprintf("%d: a metric by NewDesc", set.Position(n.Pos()).Line))
				}
			}
			return true
		})
	}
	return found
}

func ofPrometheus(e ast.Expr) string {
	if s, ok := e.(*ast.SelectorExpr); ok {
		if of, ok := s.X.(*ast.Ident); ok && of.Name == "prometheus" {
			return s.Sel.Name
		}
	}
	return ""
}

// named reports whether options take the name of something that is described.
func named(options *ast.CompositeLit) bool {
	for _, e := range options.Elts {
		if field, ok := e.(*ast.KeyValueExpr); ok {
			key, _ := field.Key.(*ast.Ident)
			value, isField := field.Value.(*ast.SelectorExpr)
			if key != nil && key.Name == "Name" {
				return isField && value.Sel.Name == "name"
			}
		}
	}
	return false
}

// What is described is in one of the two lists that the table of docs/operations.md is compared with.
func TestEveryDescribedMetricIsListed(t *testing.T) {
	described, listed := map[string]bool{}, map[string]bool{}
	for _, file := range []string{"metrics.go", "metrics_test.go"} {
		content, err := os.ReadFile(filepath.Join(root, "server", file))
		require.NoError(t, err)
		f, err := parser.ParseFile(token.NewFileSet(), file, content, parser.SkipObjectResolution)
		require.NoError(t, err)
		ast.Inspect(f, func(n ast.Node) bool {
			v, ok := n.(*ast.ValueSpec)
			if !ok || len(v.Values) != 1 {
				return true
			}
			switch value := v.Values[0].(type) {
			case *ast.CallExpr:
				if name, ok := value.Fun.(*ast.Ident); ok && name.Name == "describe" {
					described[v.Names[0].Name] = true
				}
			case *ast.CompositeLit:
				for _, e := range value.Elts {
					if name, ok := e.(*ast.Ident); ok && (v.Names[0].Name == "fromStatus" ||
						v.Names[0].Name == "kept") {
						listed[name.Name] = true
					}
				}
			}
			return true
		})
	}
	require.NotEmpty(t, described)
	for name := range described {
		if !listed[name] {
			t.Errorf("%s is described and in no list: add it to fromStatus in server/metrics.go if it is made of "+
				"the status, or else to kept in server/metrics_test.go", name)
		}
	}
}
