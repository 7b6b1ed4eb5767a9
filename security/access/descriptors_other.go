// SPDX-License-Identifier: Apache-2.0

//go:build !unix

package access

// descriptors is how many the process may have; 0 if that is not known.
func descriptors() int { return 0 }
