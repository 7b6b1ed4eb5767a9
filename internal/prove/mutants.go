// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/concordtx/concord/internal/mutant"
)

// killLine is what TestMutants logs of a mutant, as package mutant says.
var killLine = regexp.MustCompile(`MUTANT (X\d\d) killed by (\S+): (.*)`)

// mutants builds the product with each planted mistake and demands that it is noticed, in every
// package that the table names.
func mutants(ctx context.Context, t *table, _ options, _ time.Duration) error {
	var packages []string
	for _, m := range mutant.Table() {
		for _, in := range m.In {
			if pkg := "./" + strings.TrimPrefix(in, "."); !slices.Contains(packages, pkg) {
				packages = append(packages, pkg)
			}
		}
	}
	lines, err := goTest(ctx, append([]string{"-count=1", "-p=1", "-v", "-tags", "mutant", "-run", "^TestMutants$"},
		packages...)...)
	kills := map[string]string{}
	for _, line := range lines {
		if m := killLine.FindStringSubmatch(line); m != nil {
			kills[m[1]] = m[2]
		}
	}
	killed, nowhere := 0, 0
	for _, m := range mutant.Table() {
		switch {
		case m.NotHere != "":
			nowhere++
		case kills[m.ID] != "":
			killed++
		default:
			err = errors.Join(err, fmt.Errorf("%s survived: %s", m.ID, m.What))
		}
	}
	found := "all killed, each by the check that is named for it"
	if err != nil {
		found = "**SURVIVORS**"
	}
	t.add("planted mistakes", fmt.Sprintf("%d of %d, and %d without a place in the product", killed,
		len(mutant.Table())-nowhere, nowhere), found)
	return err
}
