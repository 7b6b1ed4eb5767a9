// SPDX-License-Identifier: Apache-2.0

// Package lock keeps exclusive locks on keys for the branches of one embedded store:
// strict two-phase locking, first come first served, with deadlocks found at once.
//
// A branch collects locks while it works and gives all of them back when it ends. It
// waits for at most one key at a time; that is what makes the search for deadlocks a
// walk along one chain.
package lock
