// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// goTest runs "go test" and returns the lines that it printed. On failure the error has the
// last of them.
func goTest(ctx context.Context, args ...string) ([]string, error) {
	cmd := exec.CommandContext(ctx, "go", append([]string{"test"}, args...)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	lines := strings.Split(string(bytes.TrimSpace(out)), "\n")
	if err != nil {
		err = fmt.Errorf("go test %s: %w\n%s", strings.Join(args, " "), err,
			strings.Join(lines[max(0, len(lines)-60):], "\n"))
	}
	return lines, err
}

// passedTests counts the tests, subtests included, that "go test -v" says passed.
func passedTests(lines []string) int {
	n := 0
	for _, line := range lines {
		if strings.HasPrefix(strings.TrimSpace(line), "--- PASS: ") {
			n++
		}
	}
	return n
}
