// SPDX-License-Identifier: Apache-2.0

package tidy

import (
	"go/ast"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
)

// notInTheSuite are adapters that do not run adaptertest themselves, each with the reason.
var notInTheSuite = map[string]string{
	"adapters/agent": "its branches are those of other adapters, which run it",
}

// Who writes an adapter asserts that it is one, and has it pass the suite.
func TestEveryAdapterPassesTheSuite(t *testing.T) {
	asserts, runs := regexp.MustCompile(`_ +adapters\.Adapter += `), regexp.MustCompile(`\badaptertest\.Run\(`)
	found := map[string]bool{}
	for _, p := range packages(t) {
		if !holds(t, p.Dir, p.GoFiles, asserts) {
			continue
		}
		found[p.name()] = true
		tested := holds(t, p.Dir, p.TestGoFiles, runs) || holds(t, p.Dir, p.XTestGoFiles, runs)
		if tested == (notInTheSuite[p.name()] != "") {
			t.Errorf("%s: an adapter calls adaptertest.Run in its tests, or notInTheSuite says why not: neither, "+
				"or both", p.name())
		}
	}
	require.Greater(t, len(found), 3, "the adapters were not found")
	for name := range notInTheSuite {
		require.True(t, found[name], "notInTheSuite has %s, which is no adapter: remove the line", name)
	}
}

func holds(t *testing.T, dir string, files []string, what *regexp.Regexp) bool {
	t.Helper()
	for _, file := range files {
		content, err := os.ReadFile(filepath.Join(dir, file))
		require.NoError(t, err)
		if what.Match(content) {
			return true
		}
	}
	return false
}

// Who writes an adapter reads one page, which names all that it may be asked for.
func TestTheContractNamesAllOfItsInterfaces(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(root, "adapters", "doc.go"))
	require.NoError(t, err)
	files, err := filepath.Glob(filepath.Join(root, "adapters", "*.go"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		path, err := filepath.Rel(root, file)
		require.NoError(t, err)
		ast.Inspect(parseFile(t, path), func(n ast.Node) bool {
			if spec, ok := n.(*ast.TypeSpec); ok && spec.Name.IsExported() {
				if _, ok := spec.Type.(*ast.InterfaceType); ok &&
					!regexp.MustCompile(`\b`+spec.Name.Name+`\b`).Match(page) {
					t.Errorf("adapters.%s: adapters/doc.go does not say what it is for", spec.Name.Name)
				}
			}
			return true
		})
	}
}
