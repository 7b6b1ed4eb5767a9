// SPDX-License-Identifier: Apache-2.0

package tidy

import (
	"fmt"
	"go/ast"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
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
	ruled := map[string]bool{}
	for _, file := range []string{"server/access.go", "gateway/access.go", "participant/service/access.go"} {
		for _, row := range rulesOf(t, file) {
			if !documented[row] {
				t.Errorf("%s: docs/security.md does not say: %s", file, row)
			}
			ruled[row] = true
		}
	}
	for row := range documented {
		if !ruled[row] {
			t.Errorf("docs/security.md says what no rule of access.go says: %s", row)
		}
	}
}

// A page without a rule is shown to nobody, which whoever adds one finds out here.
func TestEveryPageHasARule(t *testing.T) {
	found := 0
	for _, file := range []string{"server/server.go", "participant/service/server.go"} {
		rules := strings.Join(rulesOf(t, filepath.Join(filepath.Dir(file), "access.go")), "\n")
		ast.Inspect(parseFile(t, file), func(n ast.Node) bool {
			text, ok := n.(*ast.BasicLit)
			if !ok {
				return true
			}
			if page := aPage.FindStringSubmatch(text.Value); page != nil {
				found++
				if !strings.Contains(rules, "| `"+page[1]+"` |") {
					t.Errorf("%s: access.go has no rule about the page %s: who may see it?", file, page[1])
				}
			}
			return true
		})
	}
	require.NotZero(t, found, "the pages were not found")
}

var aPage = regexp.MustCompile(`^"(?:[A-Z]+ )?(/[^"]*)"$`)

// rulesOf returns the rules about calls and pages as rows of the table.
func rulesOf(t *testing.T, file string) (rows []string) {
	t.Helper()
	ast.Inspect(parseFile(t, file), func(n ast.Node) bool {
		rule, ok := n.(*ast.KeyValueExpr)
		if !ok {
			return true
		}
		var name string
		switch key := rule.Key.(type) {
		case *ast.BasicLit: // a page
			page, err := strconv.Unquote(key.Value)
			require.NoError(t, err)
			name = page
		case *ast.SelectorExpr:
			service, method, ok := strings.Cut(strings.TrimSuffix(key.Sel.Name, "Procedure"), "Service")
			require.True(t, ok, "%s: %s", file, key.Sel.Name)
			name = service + "Service/" + method
		default:
			return true
		}
		rows = append(rows, fmt.Sprintf("| `%s` | %s |", name, strings.Join(rolesOf(t, name, rule.Value), ", ")))
		return true
	})
	require.NotEmpty(t, rows, "%s has no rules", file)
	return rows
}

// rolesOf returns the roles of which a rule wants one.
func rolesOf(t *testing.T, name string, rule ast.Expr) (roles []string) {
	t.Helper()
	switch rule := rule.(type) {
	case *ast.CallExpr:
		for _, e := range rule.Args {
			roles = append(roles, strings.ToLower(strings.TrimSuffix(e.(*ast.SelectorExpr).Sel.Name, "Role")))
		}
	case *ast.CompositeLit:
		require.Equal(t, []string{"Open", "true"}, wordsOf(rule), "the rule of %s", name)
		roles = append(roles, "everybody")
	}
	require.NotEmpty(t, roles, "the rule of %s is no access.Needs or access.Streams, nor open", name)
	return roles
}

// wordsOf returns the names in an expression.
func wordsOf(e ast.Expr) (words []string) {
	ast.Inspect(e, func(n ast.Node) bool {
		if name, ok := n.(*ast.Ident); ok {
			words = append(words, name.Name)
		}
		return true
	})
	return words
}
