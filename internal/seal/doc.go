// SPDX-License-Identifier: Apache-2.0

// Package seal puts a checksum before a value of a key-value store. It covers the key, too, so that a
// value under a wrong key does not pass.
package seal
