// SPDX-License-Identifier: Apache-2.0

package api_test

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

	"github.com/concordtx/concord/api"
	"github.com/concordtx/concord/txn"
)

// limits are what a request may hold, as docs/protocol.md tells those who write clients.
var limits = map[string]int{
	"MaxBranches":     txn.MaxBranches,
	"MaxAgents":       api.MaxAgents,
	"MaxResourceName": txn.MaxResourceName,
	"MaxAgentName":    api.MaxAgentName,
	"MaxAddr":         api.MaxAddr,
	"MaxEvidence":     txn.MaxEvidence,
	"MaxHolder":       txn.MaxHolder,
	"MaxReason":       txn.MaxReason,
	"MaxLabel":        txn.MaxLabel,
	"MaxKey":          txn.MaxKey,
	"MaxResult":       txn.MaxResult,
	"MaxFinished":     api.MaxFinished,
	"MaxDecided":      api.MaxDecided,
	"MaxPath":         api.MaxPath,
	"MaxPropagated":   api.MaxPropagated,
	"MaxWaiting":      api.MaxWaiting,
}

func TestEveryLimitOfARequestIsDocumented(t *testing.T) {
	doc, err := os.ReadFile("../docs/protocol.md")
	require.NoError(t, err)
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	for _, name := range append(files, "../txn/request.go") {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		require.NoError(t, err)
		for _, decl := range file.Decls {
			group, ok := decl.(*ast.GenDecl)
			if !ok || group.Tok != token.CONST {
				continue
			}
			for _, spec := range group.Specs {
				for _, ident := range spec.(*ast.ValueSpec).Names {
					if strings.HasPrefix(ident.Name, "Max") {
						if _, has := limits[ident.Name]; !has {
							t.Errorf("%s of %s: add it to limits, and to the table in docs/protocol.md", ident.Name,
								name)
						}
					}
				}
			}
		}
	}
	for name, value := range limits {
		row := fmt.Sprintf("| `%s` | %d |", name, value)
		require.True(t, strings.Contains(string(doc), row), "docs/protocol.md, under \"Limits\", has no row %s", row)
	}
}
