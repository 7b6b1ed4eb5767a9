// SPDX-License-Identifier: Apache-2.0

//go:build unix

package main

import (
	"os"
	"syscall"
)

// hints are signals that programs send to others which they take for something else.
func hints() []os.Signal { return []os.Signal{syscall.SIGUSR1, syscall.SIGUSR2} }
