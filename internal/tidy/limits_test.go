// SPDX-License-Identifier: Apache-2.0

package tidy

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/printer"
	"go/token"
	"go/types"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
)

// takesRequests are the packages that take requests, besides api, whose own test goes over its limits.
var takesRequests = []string{"api/member", "gateway", "participant", "participant/service", "server"}

// notForClients are limits of theirs that docs/protocol.md need not name, each with the reason.
var notForClients = map[string]string{
	"api/member/MaxElection":            "members of three-phase transactions alone count elections",
	"api/member/MaxMessages":            "members alone send them",
	"api/member/maxBytes":               "of what this process sends",
	"api/member/maxWaiting":             "of what this process sends",
	"participant/MaxRedo":               "of what the agent keeps of a branch for a redo: it refuses no request",
	"participant/MaxTimeout":            "said at the field timeout_ms of each request",
	"participant/MaxVoting":             "a vote is waited for that long at most, whatever is asked for",
	"participant/maxEnded":              "memory of the agent: an older answer is that of the cluster",
	"participant/maxEvents":             "one more is answered busy at once",
	"participant/maxQuestions":          "the agent alone asks",
	"gateway/maxEnded":                  "memory of the node: an older answer is that of the cluster",
	"gateway/maxTime":                   "far above what clusters allow: the answer says how much that is",
	"participant/service/maxForgotten":  "nodes alone ask, and send no more",
	"participant/service/maxCalls":      "one more is answered busy at once",
	"participant/service/maxStreams":    "one more is answered busy at once",
	"participant/service/maxUnanswered": "one more waits, and is read when another one is answered",
	"participant/service/maxAnswers":    "of a message of answers: more of them come in the next one",
	"server/maxCalls":                   "one more is answered busy at once",
	"server/maxStreams":                 "one more is answered busy at once",
	"server/maxUnanswered":              "one more waits, and is read when another one is answered",
	"server/maxKey":                     "of changes of members, which the command line asks for",
	"server/maxAddress":                 "of changes of members, which the command line asks for",
	"server/maxLevel":                   "of the listener for administrators",
}

var ofLimit = regexp.MustCompile(`^[mM]ax[A-Z]`)

// Who writes a client finds what a request may hold, or it is said here why he need not know.
func TestLimitsOfWhatTakesRequestsAreDocumented(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(root, "docs", "protocol.md"))
	require.NoError(t, err)
	found := map[string]bool{}
	for _, dir := range takesRequests {
		files, err := filepath.Glob(filepath.Join(root, dir, "*.go"))
		require.NoError(t, err)
		require.NotEmpty(t, files, dir)
		for _, file := range files {
			content, err := os.ReadFile(file)
			require.NoError(t, err)
			for name, value := range limitsOf(t, content) {
				limit := dir + "/" + name
				found[limit] = true
				row := fmt.Sprintf("| `%s` | %s |", name, value)
				if notForClients[limit] == "" && !bytes.Contains(page, []byte(row)) {
					t.Errorf("%s: docs/protocol.md has no row %s under \"Limits\": add it, or say in notForClients "+
						"why a client need not know it", limit, row)
				}
			}
		}
	}
	require.NotEmpty(t, found)
	for limit := range notForClients {
		if !found[limit] {
			t.Errorf("notForClients has %s, which does not exist: remove the line", limit)
		}
	}
}

// limitsOf returns the limits that a file names, with their values as documents write them.
func limitsOf(t *testing.T, source []byte) map[string]string {
	t.Helper()
	set := token.NewFileSet()
	f, err := parser.ParseFile(set, "", source, parser.SkipObjectResolution)
	require.NoError(t, err)
	limits := map[string]string{}
	for _, d := range f.Decls {
		group, ok := d.(*ast.GenDecl)
		if !ok || group.Tok != token.CONST {
			continue
		}
		for _, spec := range group.Specs {
			v := spec.(*ast.ValueSpec)
			for i, name := range v.Names {
				if !ofLimit.MatchString(name.Name) || i >= len(v.Values) {
					continue
				}
				var text bytes.Buffer
				require.NoError(t, printer.Fprint(&text, set, v.Values[i]))
				limits[name.Name] = text.String()
				if value, err := types.Eval(set, nil, token.NoPos, text.String()); err == nil {
					limits[name.Name] = value.Value.ExactString()
				}
			}
		}
	}
	return limits
}
