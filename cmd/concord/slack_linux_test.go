// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// The program starts itself again once, keeps its process, and all of its threads then have
// relaxed timers.
func TestTimersAreRelaxedInTheSameProcess(t *testing.T) {
	if os.Getenv("CONCORD_TEST_RELAX") != "" { // the program that starts itself again
		relaxTimers()
		slack := make(chan int)
		go func() { // on another thread, or this one
			n, _ := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
			slack <- n
		}()
		_, again := os.LookupEnv(relaxedVar)
		fmt.Printf("says %d %d %v\n", os.Getpid(), <-slack, again)
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run", "^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), "CONCORD_TEST_RELAX=1")
	out, err := cmd.Output()
	require.NoError(t, err)
	require.Contains(t, string(out), fmt.Sprintf("says %d %d false\n", cmd.Process.Pid, timerSlack.Nanoseconds()))
}
