// SPDX-License-Identifier: Apache-2.0

package tidy

import (
	"fmt"
	"go/ast"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Who may make which call is written in docs/security.md as well, so that nobody gets more by an edit of
// one line.
func TestWhoMayDoWhatIsDocumented(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(root, "docs", "security.md"))
	require.NoError(t, err)
	_, table, found := strings.Cut(string(page), "| call | roles |\n|---|---|\n")
	require.True(t, found, "docs/security.md has no table of calls")
	table, _, _ = strings.Cut(table, "\n\n")
	documented := map[string]bool{}
	for row := range strings.Lines(table) {
		documented[strings.TrimSpace(row)] = true
	}
	for _, file := range []string{"server/access.go", "gateway/access.go", "participant/service/access.go"} {
		for _, row := range rulesOf(t, file) {
			if !documented[row] {
				t.Errorf("%s: docs/security.md does not say: %s", file, row)
			}
			delete(documented, row)
		}
	}
	for row := range documented {
		t.Errorf("docs/security.md says what no rule of access.go says: %s", row)
	}
}

// rulesOf returns the rules about calls as rows of the table.
func rulesOf(t *testing.T, file string) (rows []string) {
	t.Helper()
	ast.Inspect(parseFile(t, file), func(n ast.Node) bool {
		rule, ok := n.(*ast.KeyValueExpr)
		if !ok {
			return true
		}
		key, ok := rule.Key.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		call, ok := rule.Value.(*ast.CallExpr)
		require.True(t, ok, "%s: %s is no access.Needs or access.Streams", file, key.Sel.Name)
		var roles []string
		for _, e := range call.Args {
			roles = append(roles, strings.ToLower(strings.TrimSuffix(e.(*ast.SelectorExpr).Sel.Name, "Role")))
		}
		service, method, ok := strings.Cut(strings.TrimSuffix(key.Sel.Name, "Procedure"), "Service")
		require.True(t, ok, "%s: %s", file, key.Sel.Name)
		rows = append(rows, fmt.Sprintf("| `%sService/%s` | %s |", service, method, strings.Join(roles, ", ")))
		return true
	})
	require.NotEmpty(t, rows, "%s has no rules", file)
	return rows
}
