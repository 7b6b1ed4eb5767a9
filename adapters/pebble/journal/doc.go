// SPDX-License-Identifier: Apache-2.0

// Package journal keeps undo and redo of branches that update a Pebble store in place. It
// lives in that store, under keys of its own, so that an update and its record are
// one atomic batch: a crash shows both or neither.
package journal
