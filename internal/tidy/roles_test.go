// SPDX-License-Identifier: Apache-2.0

package tidy

import (
	"fmt"
	"go/ast"
	"os"
	"path"
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

var aPage = regexp.MustCompile(`^"(?:[A-Z]+ )?(/[^"]+)"$`)

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

// Every id that docs/security.md owes an answer has a row, and every test that a row names is there. A test without a
// package is in tests/attack.
func TestEveryRequirementHasARowAndItsTestsExist(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(root, "docs", "security.md"))
	require.NoError(t, err)
	_, tables, found := strings.Cut(string(page), "\n## What is tried, and where\n")
	require.True(t, found)
	for _, ids := range []struct {
		form        string
		first, last int
	}{{"A%02d", 1, 24}, {"R%d", 1, 16}, {"SEC%02d", 1, 6}, {"SEC%02d", 10, 15}, {"SEC%02d", 20, 30},
		{"SEC%02d", 40, 48}, {"SEC%02d", 50, 51}, {"SEC%02d", 60, 66}} {
		for n := ids.first; n <= ids.last; n++ {
			id := fmt.Sprintf(ids.form, n)
			if !regexp.MustCompile(`(?m)^\| (SEC\d+, )?` + id + `[ ,|]`).MatchString(tables) {
				t.Errorf("docs/security.md has no row for %s", id)
			}
		}
	}
	tests := testsByFolder(t)
	named := 0
	for row := range strings.Lines(tables) {
		if !strings.HasPrefix(row, "| ") {
			continue
		}
		for _, part := range regexp.MustCompile(`[;|()]`).Split(row, -1) {
			folders := []string{"tests/attack"}
			if in, _, ok := strings.Cut(part, ": "); ok && inBackticks(in) != nil {
				folders = inBackticks(in)
			}
			for _, name := range inBackticks(part) {
				if !regexp.MustCompile(`^((Test|Fuzz)\w+|\w+_test\.go)$`).MatchString(name) {
					continue
				}
				named++
				for _, folder := range folders {
					if !tests[folder][name] {
						t.Errorf("docs/security.md: %s: %s has no %s", strings.Fields(row)[1], folder, name)
					}
				}
			}
		}
	}
	require.Greater(t, named, 100, "the names were not found")
}

func inBackticks(s string) (texts []string) {
	for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(s, -1) {
		texts = append(texts, m[1])
	}
	return texts
}

// testsByFolder returns the files with tests of each folder, and the tests in them.
func testsByFolder(t *testing.T) map[string]map[string]bool {
	tests := map[string]map[string]bool{}
	test := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	eachFile(t, func(file string, content []byte) {
		folder := path.Dir(file)
		if tests[folder] == nil {
			tests[folder] = map[string]bool{}
		}
		tests[folder][path.Base(file)] = true
		for _, m := range test.FindAllSubmatch(content, -1) {
			tests[folder][string(m[1])] = true
		}
	}, "_test.go")
	return tests
}
