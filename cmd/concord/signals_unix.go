// SPDX-License-Identifier: Apache-2.0

//go:build unix

package main

import (
	"os"
	"syscall"
)

// hints are signals that programs send to others which they take for something else.
func hints() []os.Signal { return []os.Signal{syscall.SIGUSR1, syscall.SIGUSR2} }

// leaveNoCore keeps the memory of the process, with its keys and the passwords of databases, out of files, should a
// mistake end it. A limit of one byte, unlike none, also counts for programs to which the kernel hands cores.
func leaveNoCore() {
	_ = syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{Cur: 1, Max: 1}) // a hard limit of 0 is as good
}
