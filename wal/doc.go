// SPDX-License-Identifier: Apache-2.0

// Package wal is the durable store of a coordinator node: what the node has
// promised (the hard state), the log of the atomic broadcast, and the state that
// was built from that log. All three live in one Pebble store.
//
// Journal, in the same package, is something else: the undo and redo records that the
// embedded Pebble resource keeps in its own database.
//
// # What it owes its caller
//
//   - What Persist returned for is on disk: it is there after any crash that
//     leaves the disk's synced bytes intact.
//   - One Persist is atomic: after a crash all of its writes are there or none, and
//     none of a later Persist without all earlier ones. A truncation and the entries
//     that replace what it cut are never seen apart.
//   - The applied state never runs ahead of the log: state is written unsynced, but
//     into the same write-ahead log and behind its entries, so a crash that loses an
//     entry loses the state that came from it as well. A crash may lose state that
//     Apply returned for; the entries behind it are still in the log, and the caller
//     applies them again.
//   - A cut of the log and its new base are one. A snapshot in place of the state, the
//     base that comes with it and the end of the old log are one, too: after a crash there
//     is the old state with the old log, or the new one, never some of each. What was
//     staged of a snapshot that was not installed is gone after a restart.
//   - Nothing is believed on sight. An entry carries a CRC-32C over its zxid, its
//     predecessor and its data; it is checked, with the chain of predecessors, before
//     it is written and after it is read. Damage is ErrCorrupt, never a shorter log.
//   - A write error ends the process (Options.Exit). Nothing is retried: after a
//     failed fsync nobody knows what the disk holds (Rebello et al., "Can
//     Applications Recover from fsync Failures?", ATC 2020).
//
// # What its caller owes it
//
// One goroutine calls Persist (a Writer is one), one calls Apply, one uses the Stage;
// everything else is safe from any goroutine, at any time before Close. Each Snapshot is
// read by one goroutine and closed before the Store is. Apply is called only for
// entries that are committed by the cluster and that Persist returned for. Entries
// follow on each other without a gap, promises only grow, and nothing that was
// applied is truncated: a breach is a bug in the caller, and panics before anything
// is written.
//
// # Snapshots
//
// The state is in one of two key spaces, and a key of the meta space says in which. A
// snapshot is staged in the other, unsynced, read back and compared with the hash of
// what was taken. The write that installs it names the other space, sets the base and
// the applied point and empties the log, in one synced batch that stands behind the
// staged pairs in the write-ahead log. What the old space holds is removed afterwards,
// or at the next start. A snapshot is taken of one instant by the engine, so it needs no
// pause, and keeps what it refers to on disk until it is closed.
//
// # Files
//
// The directory holds LOCK (one process at a time) and db/, the Pebble store with a
// file STORE that says whose it is. A store is made in db.creating/ and renamed, so
// a crash leaves either no store or a whole one.
//
// # What damage is found, and what is not
//
// Found, when the store is opened or when the bytes are read: a flipped bit in a
// table, in the manifest, in the STORE file, and in the write-ahead log before its
// last 32 KiB block and its last batch; a missing table, manifest or STORE file; a gap
// in the log; a log that is shorter than the applied state; an entry between the
// applied state and the end of the log that does not match its checksum or its
// predecessor.
//
// Not found: a flipped bit in the last 32 KiB block of the write-ahead log, or in the
// batch that was synced last. Pebble takes it for the torn tail of a crash, so the
// synced writes in and behind the damaged record are dropped silently. Nor a file of
// the write-ahead log that was removed, nor a volume that was set back to an older
// moment. In all three the store is a consistent but older one, and a node that comes
// back with it has forgotten promises. Entries before the applied state are not read
// at opening, so that a restart takes the same time however long the log is; they are
// checked when a peer needs them.
//
// A full disk is not handled here beyond the rule that a write error ends the
// process; where Pebble only waits, the node stops making progress and says so in
// its log.
package wal
