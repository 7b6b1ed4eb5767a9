// SPDX-License-Identifier: Apache-2.0

// Command summary reads "go test -json" from standard input and prints what a
// person wants to know: a line per package, failures in full, and at the end
// every skipped test with its reason, the slowest tests, the names of those that
// failed, then "N passed, N failed, N skipped".
//
// It exits 1 if a test or package failed, if nothing ran, or if a test was
// skipped for another reason than a MySQL server or a container engine that cannot be
// had: a suite that passes because its databases are missing proves nothing.
package main

import (
	"fmt"
	"os"
)

func main() {
	r := newReport(os.Stdout)
	if err := r.read(os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, "summary: read the test events:", err)
		os.Exit(1)
	}
	if !r.finish() {
		os.Exit(1)
	}
}
