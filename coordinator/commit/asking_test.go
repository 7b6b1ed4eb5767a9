// SPDX-License-Identifier: Apache-2.0

package commit

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// Every event with a Request can be refused by a node that has stopped: else whoever asked would
// wait for an answer that never comes.
func TestEveryEventWithARequestIsAsking(t *testing.T) {
	events, asking, asks := map[string]bool{}, map[string]bool{}, map[string]bool{}
	look := func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			if n.Recv != nil {
				if of, ok := n.Recv.List[0].Type.(*ast.Ident); ok {
					events[of.Name] = events[of.Name] || n.Name.Name == "IsEvent"
					asking[of.Name] = asking[of.Name] || n.Name.Name == "RequestNo"
				}
			}
		case *ast.TypeSpec:
			if s, ok := n.Type.(*ast.StructType); ok {
				for _, f := range s.Fields.List {
					for _, name := range f.Names {
						asks[n.Name.Name] = asks[n.Name.Name] || name.Name == "Request"
					}
				}
			}
		}
		return true
	}
	names, err := filepath.Glob("*.go")
	require.NoError(t, err)
	ofLog, err := filepath.Glob("../replica/*.go")
	require.NoError(t, err)
	names = append(names, ofLog...)
	for _, name := range names {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		require.NoError(t, err)
		ast.Inspect(file, look)
	}
	found := 0
	for name := range events {
		if events[name] && asks[name] {
			found++
			require.True(t, asking[name], "%s has a Request: give it the method RequestNo", name)
		}
	}
	require.Greater(t, found, 10)
}
