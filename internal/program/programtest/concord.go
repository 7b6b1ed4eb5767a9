// SPDX-License-Identifier: Apache-2.0

package programtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// BinaryEnv names a binary to test, in place of one that is built from the source.
const BinaryEnv = "CONCORD_TEST_BINARY"

// Patience bounds every wait for something that must happen soon. It is generous: a slow machine is no failure.
const Patience = 60 * time.Second

// Run builds cmd/concord, unless BinaryEnv names a binary, says in binary where it is, and runs the tests. It returns
// the exit code.
func Run(m *testing.M, binary *string) int {
	dir, err := os.MkdirTemp("", "concord-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if *binary = os.Getenv(BinaryEnv); *binary == "" {
		*binary = filepath.Join(dir, "concord")
		if out, err := exec.Command("go", "build", "-o", *binary,
			"github.com/concordtx/concord/cmd/concord").CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build concord: %v\n%s", err, out)
			return 1
		}
	}
	return m.Run()
}

// Eventually polls a condition that must come true within Patience. Unlike testify's it asks on the test's own
// goroutine, so that the condition may end the test.
func Eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(Patience)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", Patience, what)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
