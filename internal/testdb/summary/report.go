// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
)

// allowedSkips begin the reasons for which a test may be skipped: see testdb.NotRun, and tests/compose.
var allowedSkips = []string{"MySQL: NOT RUN", "containers: NOT RUN"}

const (
	// maxOutput bounds what is kept of one test's output; the end is kept.
	maxOutput = 256 << 10
	// slow is when a test is worth a line, in seconds, and maxSlow how many have one.
	slow, maxSlow = 20, 12
)

// event is a line of "go test -json", as "go doc test2json" describes it.
type event struct {
	Action     string
	Package    string
	ImportPath string // instead of Package in the events of a build
	Test       string
	Output     string
	Elapsed    float64 // seconds
}

type testKey struct{ pkg, test string }

type skip struct {
	testKey
	reason string
}

type duration struct {
	testKey
	seconds float64
}

// report collects events and prints them as they can be told.
type report struct {
	out            io.Writer
	output         map[testKey]string // of tests and packages that have not ended
	build          map[string]string
	passed, failed int
	failedPackages []string
	failedTests    []testKey
	slowTests      []duration
	skips          []skip
}

func newReport(out io.Writer) *report {
	return &report{out: out, output: map[testKey]string{}, build: map[string]string{}}
}

func (r *report) read(in io.Reader) error {
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			r.line(line)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// line takes an event. What is no event comes from the go command itself, such
// as a complaint about its arguments, and is shown.
func (r *report) line(line []byte) {
	var e event
	if json.Unmarshal(line, &e) != nil || e.Action == "" {
		_, _ = r.out.Write(line)
		return
	}
	key := testKey{e.Package, e.Test}
	switch e.Action {
	case "build-output":
		r.build[e.ImportPath] += e.Output
	case "build-fail":
		fmt.Fprint(r.out, r.build[e.ImportPath])
	case "output":
		r.keep(key, e.Output)
	case "pass", "fail", "skip":
		if e.Test == "" {
			r.endPackage(e)
		} else {
			r.endTest(e)
		}
		delete(r.output, key)
	}
}

func (r *report) keep(key testKey, output string) {
	all := r.output[key] + output
	if len(all) > maxOutput {
		all = all[len(all)-maxOutput:]
	}
	r.output[key] = all
}

func (r *report) endTest(e event) {
	key := testKey{e.Package, e.Test}
	output := r.output[key]
	if e.Elapsed >= slow && !strings.Contains(e.Test, "/") {
		r.slowTests = append(r.slowTests, duration{key, e.Elapsed})
	}
	switch e.Action {
	case "pass":
		r.passed++
	case "fail":
		r.failed++
		r.failedTests = append(r.failedTests, key)
		fmt.Fprintf(r.out, "\n=== FAILED %s %s\n%s", e.Package, e.Test, output)
	case "skip":
		r.skips = append(r.skips, skip{key, reason(output)})
	}
}

func (r *report) endPackage(e event) {
	output := r.output[testKey{pkg: e.Package}]
	if strings.Contains(output, "[no test files]") {
		return
	}
	if e.Action == "fail" {
		r.failedPackages = append(r.failedPackages, e.Package)
		r.showUnended(e.Package)
		fmt.Fprintf(r.out, "%s", output)
	}
	fmt.Fprintf(r.out, "%-5s %s %.1fs\n", e.Action, e.Package, e.Elapsed)
}

// showUnended tells about tests that a panic or a time-out cut off: no event
// ends them, and the stack is in their output.
func (r *report) showUnended(pkg string) {
	var cut []string
	for key := range r.output {
		if key.pkg == pkg && key.test != "" {
			cut = append(cut, key.test)
		}
	}
	slices.Sort(cut)
	for _, test := range cut {
		key := testKey{pkg, test}
		r.failed++
		r.failedTests = append(r.failedTests, key)
		fmt.Fprintf(r.out, "\n=== DID NOT END %s %s\n%s", pkg, test, r.output[key])
		delete(r.output, key)
	}
}

// finish prints the end of the report and reports whether all is well.
func (r *report) finish() bool {
	forbidden := 0
	if len(r.skips) > 0 {
		fmt.Fprintln(r.out, "\nSkipped:")
	}
	for _, s := range r.skips {
		fmt.Fprintf(r.out, "  %s %s: %s\n", s.pkg, s.test, s.reason)
		if allowed(s.reason) == "" {
			forbidden++
		}
	}
	if forbidden > 0 {
		fmt.Fprintf(r.out, "FAIL: %d tests were skipped that must run; their reasons are above\n", forbidden)
	}
	r.showSlow()
	for _, t := range r.failedTests {
		fmt.Fprintf(r.out, "FAIL: %s %s\n", t.pkg, t.test)
	}
	if len(r.failedPackages) > 0 {
		fmt.Fprintf(r.out, "FAIL: %s\n", strings.Join(r.failedPackages, " "))
	}
	if r.passed+r.failed == 0 {
		fmt.Fprintln(r.out, "FAIL: no test was run")
	}
	r.warnOfSkips()
	fmt.Fprintf(r.out, "%d passed, %d failed, %d skipped\n", r.passed, r.failed, len(r.skips))
	return forbidden == 0 && r.failed == 0 && len(r.failedPackages) == 0 && r.passed > 0
}

// showSlow names the tests that took longest, because the time of a whole run is bounded.
func (r *report) showSlow() {
	if len(r.slowTests) == 0 {
		return
	}
	slices.SortStableFunc(r.slowTests, func(a, b duration) int { return cmp.Compare(b.seconds, a.seconds) })
	fmt.Fprintln(r.out, "\nSlowest:")
	for _, t := range r.slowTests[:min(len(r.slowTests), maxSlow)] {
		fmt.Fprintf(r.out, "  %6.1fs %s %s\n", t.seconds, t.pkg, t.test)
	}
}

// warnOfSkips says each allowed reason once.
func (r *report) warnOfSkips() {
	var said []string
	for _, s := range r.skips {
		if why := allowed(s.reason); why != "" && !slices.Contains(said, why) {
			said = append(said, why)
			fmt.Fprintln(r.out, why)
		}
	}
}

// allowed is the part of a reason that allows a test to be skipped; empty if nothing does.
func allowed(reason string) string {
	for _, a := range allowedSkips {
		if at := strings.Index(reason, a); at >= 0 {
			return reason[at:]
		}
	}
	return ""
}

var sourceLine = regexp.MustCompile(`^\s*[\w.-]+\.go:\d+: (.*)`)

// reason is what t.Skip was given: the last line with a source position. The
// lines of the framework around it have none.
func reason(output string) string {
	found := "no reason given"
	for line := range strings.Lines(output) {
		if m := sourceLine.FindStringSubmatch(strings.TrimRight(line, "\n")); m != nil {
			found = m[1]
		}
	}
	return found
}
