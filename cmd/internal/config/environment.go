// SPDX-License-Identifier: Apache-2.0

package config

import (
	"regexp"
	"slices"
	"strings"

	"github.com/concordtx/concord/cmd/internal/terminal"
	"github.com/concordtx/concord/security"
)

const envPrefix = "CONCORD_"

// KnownVariables are all that a node or a command looks at.
func KnownVariables() []string {
	known := append(NodeProgram.Variables(), envPrefix+"ADDR", security.EnvUser, security.EnvTokenFile)
	slices.Sort(known)
	return known
}

// othersVariables are set by others than who configures concord: by Kubernetes and Docker for every
// service whose name begins with "concord", and by the tests of concord itself.
var othersVariables = regexp.MustCompile(
	`^CONCORD_(([A-Z0-9_]+_)?(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|` +
		`PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)|(TEST|E2E)_[A-Z0-9_]+)$`)

// CheckEnvironment refuses variables that look like ours and that nobody reads: a typing error
// must not become a default. Values may be secrets and are not shown.
func CheckEnvironment(environ []string) error {
	known := KnownVariables()
	for _, entry := range environ {
		name, _, _ := strings.Cut(entry, "=")
		if !strings.HasPrefix(name, envPrefix) || slices.Contains(known, name) ||
			slices.Contains(AgentProgram.Variables(), name) || othersVariables.MatchString(name) {
			continue
		}
		return terminal.Usagef("the environment has %s, which is no variable of concord: the nearest is %s; correct "+
			"or remove it (\"concord serve --help\" lists them)", terminal.Cell(name), nearest(name, known))
	}
	return nil
}

// nearest returns the word that takes the fewest typing errors.
func nearest(word string, known []string) string {
	return slices.MinFunc(known, func(a, b string) int { return typos(word, a) - typos(word, b) })
}

// typos counts the letters to insert, remove, replace or swap with the next, to make b of a.
func typos(a, b string) int {
	d := make([][]int, len(a)+1)
	for i := range d {
		d[i] = make([]int, len(b)+1)
		d[i][0] = i
	}
	for j := range d[0] {
		d[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			replace := d[i-1][j-1]
			if a[i-1] != b[j-1] {
				replace++
			}
			d[i][j] = min(d[i-1][j]+1, d[i][j-1]+1, replace)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d[i][j] = min(d[i][j], d[i-2][j-2]+1)
			}
		}
	}
	return d[len(a)][len(b)]
}
