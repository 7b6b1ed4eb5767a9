// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// target is a native fuzz test.
type target struct{ pkg, name string }

// fuzz gives every fuzz target of the module the same time.
func fuzz(ctx context.Context, t *table, o options, budget time.Duration) error {
	lines, err := goTest(ctx, "-list", "^Fuzz", "./...")
	if err != nil {
		return err
	}
	targets := targetsOf(lines)
	if len(targets) == 0 {
		return errors.New("no fuzz target was found")
	}
	each := max(budget/time.Duration(len(targets)), 5*time.Second)
	var execs uint64
	for _, f := range targets {
		out, ferr := goTest(ctx, f.pkg, "-run", "^$", "-fuzz", "^"+f.name+"$", "-fuzztime", each.String(), "-parallel", strconv.Itoa(o.workers))
		execs += execsOf(out)
		err = errors.Join(err, ferr)
	}
	found := "no crasher"
	if err != nil {
		found = "**CRASHERS**"
	}
	t.add("decoders under fuzzing", fmt.Sprintf("%d targets, %s executions", len(targets), count(execs)), found)
	return err
}

// targetsOf reads what "go test -list" prints: the names of a package, then the package.
func targetsOf(lines []string) (targets []target) {
	var names []string
	for _, line := range lines {
		fields := strings.Fields(line)
		switch {
		case strings.HasPrefix(line, "Fuzz"):
			names = append(names, fields[0])
		case len(fields) > 1 && fields[0] == "ok":
			for _, name := range names {
				targets = append(targets, target{fields[1], name})
			}
			names = nil
		}
	}
	return targets
}

var execCount = regexp.MustCompile(`execs: (\d+)`)

// execsOf reads the last count of executions that "go test -fuzz" printed.
func execsOf(lines []string) (n uint64) {
	for _, line := range lines {
		if m := execCount.FindStringSubmatch(line); m != nil {
			n, _ = strconv.ParseUint(m[1], 10, 64)
		}
	}
	return n
}
