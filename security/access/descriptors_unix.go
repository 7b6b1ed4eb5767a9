// SPDX-License-Identifier: Apache-2.0

//go:build unix

package access

import "syscall"

// descriptors is how many the process may have; 0 if that is not known.
func descriptors() int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0
	}
	return int(min(limit.Cur, 1<<20)) //nolint:gosec // it is bounded
}
