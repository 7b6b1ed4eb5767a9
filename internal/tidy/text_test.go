// SPDX-License-Identifier: Apache-2.0

package tidy

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// What belongs to one machine or to one way of fetching packages has no place in the
// repository. The words are put together here so that this file may be searched too.
func TestNoFileSpeaksOfTheMachineThatItWasWrittenOn(t *testing.T) {
	unwanted := map[string]*regexp.Regexp{
		"a path of somebody's machine": regexp.MustCompile(`(^|[^\w.$}-])/(wo` + `rk|ro` + `ot|ho` + `me|Us` + `ers)/`),
		"a host of a package registry": regexp.MustCompile(`(proxy|sum)\.gol` + `ang\.org|registry\.np` + `mjs\.|\bpy` +
			`pi\.org|goproxy\.(io|cn)`),
		"the choice of a module proxy": regexp.MustCompile(`\bGO` + `PROXY\b|\bGONO` + `SUMDB\b`),
	}
	for _, bad := range []string{"see /wo" + "rk/x", "cd '/ho" + "me/me/go'", "=/ro" + "ot/.ssh",
		"https://proxy.gol" + "ang.org", "export GO" + "PROXY=off"} {
		found := false
		for _, pattern := range unwanted {
			found = found || pattern.MatchString(bad)
		}
		require.True(t, found, "%s is not found", bad)
	}
	eachFile(t, func(path string, content []byte) {
		if !utf8.Valid(content) {
			return
		}
		for i, line := range strings.Split(string(content), "\n") {
			for what, pattern := range unwanted {
				require.False(t, pattern.MatchString(line), "%s:%d names %s: %.200s", path, i+1, what, line)
			}
		}
	})
}

var markdownLink = regexp.MustCompile(`\]\(([^)\s]+)(?:\s+"[^"]*")?\)`)

func TestLinksOfTheDocumentsLeadToFiles(t *testing.T) {
	require.Equal(t, "a/b.md#c", markdownLink.FindStringSubmatch(`see [the page](a/b.md#c "title").`)[1])
	documents, err := filepath.Glob(filepath.Join(root, "*.md"))
	require.NoError(t, err)
	if len(documents) == 0 {
		t.Fatal("the repository has no README")
	}
	eachFile(t, func(path string, content []byte) {
		for _, link := range markdownLink.FindAllStringSubmatch(string(content), -1) {
			target, _, _ := strings.Cut(link[1], "#")
			if target == "" || strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				continue
			}
			_, err := os.Stat(filepath.Join(root, filepath.Dir(path), target))
			require.NoError(t, err, "%s links to %s", path, link[1])
		}
	}, ".md")
}

// A cell too many is not shown, and with it the words of the last one.
func TestRowsOfTablesHaveTheCellsOfTheirHeading(t *testing.T) {
	code, tables := regexp.MustCompile("`[^`]*`"), 0
	eachFile(t, func(path string, content []byte) {
		want := 0
		for i, line := range strings.Split(string(content), "\n") {
			if !strings.HasPrefix(line, "|") {
				want = 0
				continue
			}
			cells := strings.Count(strings.ReplaceAll(code.ReplaceAllString(line, ""), `\|`, ""), "|")
			if want == 0 {
				want = cells
				tables++
			}
			if cells != want {
				t.Errorf("%s:%d: a row of %d cells, in a table of %d", path, i+1, cells-1, want-1)
			}
		}
	}, ".md")
	require.NotZero(t, tables)
}

var (
	testName = regexp.MustCompile(`\b(?:Test|Fuzz)[A-Z]\w+`)
	testFunc = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)[A-Z]\w+)\(`)
)

// A fault that a document calls covered is covered by a test that is still there.
func TestTestsThatTheDocumentsNameExist(t *testing.T) {
	tests := map[string]bool{}
	eachFile(t, func(_ string, content []byte) {
		for _, f := range testFunc.FindAllSubmatch(content, -1) {
			tests[string(f[1])] = true
		}
	}, "_test.go")
	require.True(t, tests["TestTestsThatTheDocumentsNameExist"])
	named := 0
	eachFile(t, func(path string, content []byte) {
		for _, name := range testName.FindAllString(string(content), -1) {
			require.True(t, tests[name], "%s names %s, which does not exist", path, name)
			named++
		}
	}, ".md")
	require.NotZero(t, named)
}
