// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// timerSlack is how late a timer of a node may be. The shortest that matters is the tick, 50 ms.
	timerSlack = time.Millisecond
	// relaxedVar tells the program that it has been started again.
	relaxedVar = "_CONCORD_RELAXED"
)

// relaxTimers starts this program again, in the same process, with timers that may be late
// by timerSlack. While anything runs in a process, a thread of Go's runtime looks around
// every 20 µs. In a busy node something runs a thousand times a second, for a moment each, and
// with Linux' usual slack of 50 µs that thread made half of all context switches and took
// a quarter of the CPU. A thread has its slack from the one that made it, and this thread is
// older than main: hence the new start. Where that is not possible, the node is as correct,
// and needs more CPU.
func relaxTimers() {
	if os.Getenv(relaxedVar) != "" {
		_ = os.Unsetenv(relaxedVar)
		return
	}
	program, err := os.Executable()
	if err != nil {
		return
	}
	runtime.LockOSThread() // what is set is the thread's, and goes on with the thread that starts the program
	defer runtime.UnlockOSThread()
	if slack, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0); err != nil ||
		time.Duration(slack) >= timerSlack {
		return
	}
	if unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(timerSlack), 0, 0, 0) == nil {
		// #nosec G204 G702 -- this very program, with its own arguments
		_ = syscall.Exec(program, os.Args, append(os.Environ(), relaxedVar+"=1"))
	}
}
