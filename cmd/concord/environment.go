// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/viper"
	"go.yaml.in/yaml/v3"
)

const envPrefix = "CONCORD_"

// envLists are the keys whose value in the environment is a list, in YAML or JSON.
var envLists = []string{"members", "resources"}

// envOf is the variable that overrides a key of the configuration.
func envOf(key string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

// knownVariables are all that this program looks at.
func knownVariables() []string {
	known := []string{envPrefix + "ADDR"}
	for key := range configDefaults() {
		known = append(known, envOf(key))
	}
	for _, key := range envLists {
		known = append(known, envOf(key))
	}
	slices.Sort(known)
	return known
}

// othersVariables are set by others than who configures concord: by Kubernetes and Docker for every
// service whose name begins with "concord", and by the tests of concord itself.
var othersVariables = regexp.MustCompile(`^CONCORD_(([A-Z0-9_]+_)?(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)|(TEST|E2E)_[A-Z0-9_]+)$`)

// checkEnvironment refuses variables that look like ours and that nobody reads: a typing error
// must not become a default. Values may be secrets and are not shown.
func checkEnvironment(environ []string) error {
	known := knownVariables()
	for _, entry := range environ {
		name, _, _ := strings.Cut(entry, "=")
		if !strings.HasPrefix(name, envPrefix) || slices.Contains(known, name) || slices.Contains(agentVariables(), name) || othersVariables.MatchString(name) {
			continue
		}
		return usagef("the environment has %s, which is no variable of concord: the nearest is %s; correct or remove it (\"concord serve --help\" lists them)", cell(name), nearest(name, known))
	}
	return nil
}

// listsFromEnvironment puts the lists of the environment over those of the file.
func listsFromEnvironment(v *viper.Viper) error {
	return listsFrom(v, envLists, envOf, `"concord serve --help"`)
}

func listsFrom(v *viper.Viper, keys []string, envOf func(string) string, help string) error {
	for _, key := range keys {
		text := os.Getenv(envOf(key))
		if text == "" {
			continue
		}
		var list []any
		if err := yaml.Unmarshal([]byte(text), &list); err != nil {
			return fmt.Errorf("%s is no list in YAML or JSON%s: an example is in %s", envOf(key), line(err), help)
		}
		v.Set(key, list)
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
