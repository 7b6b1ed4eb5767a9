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
		out, ferr := goTest(ctx, f.pkg, "-run", "^$", "-fuzz", "^"+f.name+"$", "-fuzztime", each.String(), "-parallel",
			strconv.Itoa(o.workers))
		execs += execsOf(out)
		if !ranOut(out) {
			err = errors.Join(err, ferr)
		}
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

// ranOut says that all that ended a run was its time: before Go 1.27 the end of -fuzztime
// is now and then printed as a failure of the target (golang/go#75804). What fails for an
// input always names the file that it was written to, or the seed.
func ranOut(lines []string) bool {
	for i, line := range lines {
		if strings.HasPrefix(line, "--- FAIL: ") {
			rest := lines[i+1:]
			return len(rest) > 1 && strings.TrimSpace(rest[0]) == "context deadline exceeded" && rest[1] == "FAIL"
		}
	}
	return false
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
