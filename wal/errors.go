// SPDX-License-Identifier: Apache-2.0

package wal

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/cockroachdb/pebble/v2"
)

// Errors of a store. Each comes wrapped in a sentence that names the directory and
// ends with the next step.
var (
	// ErrCorrupt: bytes on disk are not what was written.
	ErrCorrupt = errors.New("the store is damaged")
	// ErrLostPromise: the store is whole, but older than what the node has promised on
	// the strength of it.
	ErrLostPromise = errors.New("the disk took back a promise")
	// ErrLocked: another process, or another Store of this one, has the directory.
	ErrLocked = errors.New("the store is in use")
	// ErrOtherNode: the store was made for a node with another id.
	ErrOtherNode = errors.New("the store belongs to another node")
	// ErrNotStore: the directory holds files, and they are not a concord store.
	ErrNotStore = errors.New("not a concord store")
	// ErrNewer: a later version of concord wrote the store.
	ErrNewer = errors.New("the store was written by a newer version")
	// ErrDiskFull: there is too little space to open the store.
	ErrDiskFull = errors.New("the disk is full")
	// ErrBadSnapshot: what was staged is not the snapshot that was taken.
	ErrBadSnapshot = errors.New("the snapshot is damaged")
	// ErrCut: the entries asked for were cut off the log; only a snapshot has them.
	ErrCut = errors.New("the log no longer reaches back so far")
)

// damaged makes the error for bytes that are not what was written.
func damaged(dir, format string, args ...any) error {
	return fmt.Errorf("store %s: %s: %w; keep a copy of the directory, do not repair it in place: "+
		"the other nodes have the log, so replace this node, see docs/operations.md",
		dir, fmt.Sprintf(format, args...), ErrCorrupt)
}

// tookBack makes the error for a store that is older than its watermark.
func tookBack(dir, format string, args ...any) error {
	return fmt.Errorf("store %s: %s: %w; do not use this directory any longer, it has forgotten what others count "+
		"on: keep a copy, check the disk, and replace this node, see docs/operations.md",
		dir, fmt.Sprintf(format, args...), ErrLostPromise)
}

// readError explains an error of the engine during op.
func readError(dir, op string, err error) error {
	switch {
	case pebble.IsCorruptionError(err), errors.Is(err, fs.ErrNotExist):
		return damaged(dir, "%s: %v", op, err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("store %s: %s: %w; give the user that runs concord read and write access to the directory",
			dir, op, err)
	default:
		return fmt.Errorf("store %s: %s: %w; check the disk and the kernel's log", dir, op, err)
	}
}
