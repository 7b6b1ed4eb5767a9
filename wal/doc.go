// SPDX-License-Identifier: Apache-2.0

// Package wal is the durable store of a coordinator node: what the node has
// promised (the hard state), the log of the atomic broadcast, and the state that
// was built from that log. All three live in one Pebble store.
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
// The directory holds LOCK (one process at a time), db/, the Pebble store with a file
// STORE that says whose it is, WATERMARK, and BALLAST. A store is made in db.creating/
// and renamed, so a crash leaves either no store or a whole one.
//
// WATERMARK says in two halves, written in turn, what the node has promised on the strength
// of the store: the acknowledged end of the log, the hard state, the count of starts,
// and which files the write-ahead log has.
// Open compares. It never claims what is not durable, so a healthy store is never
// refused; see watermark. BALLAST is space set aside for a full disk; see guard.
//
// # What damage is found, and what is not
//
// Found, when the store is opened or when the bytes are read, and never passed over:
//
//   - A flipped bit, anywhere: in a table, the manifest, STORE, one half of WATERMARK (the
//     other serves, and the damaged one is made good), and the write-ahead log. In its
//     last 32 KiB block and last batch Pebble takes damage for the torn tail of a
//     crash and goes on without the writes in and behind it; then the log ends below
//     its watermark, which is ErrLostPromise. What was never acknowledged is cut silently.
//   - A missing table, manifest, STORE or WATERMARK, both halves of it damaged, a missing
//     db/, files of two stores side by side: ErrCorrupt or ErrLostPromise.
//   - A db/ set back to an older moment than WATERMARK, any file of the write-ahead log
//     removed, also one with nothing but applied state in it: ErrLostPromise.
//   - A gap in the log, a log that is shorter than the applied state, an entry between
//     the applied state and the end of the log that does not match its checksum or its
//     predecessor. Entries before the applied state are not read at opening, so that a
//     restart takes the same time however long the log is; they are checked when a peer
//     needs them.
//
// Not found:
//
//   - A directory set back as a whole, WATERMARK included: a restored backup or volume
//     snapshot. Nothing on the disk itself can tell. Never restore one node's directory.
//   - After a power failure or a killed process, and only then: the loss, by damage at the
//     very end of the write-ahead log, of entries that were acknowledged within the
//     last 100 ms and the time of one sync before it (markInterval). Two faults at one
//     time; it counts as the loss of that node's copy of those entries. After Close, and for
//     the hard state at any time, there is no such window.
//
// # A full disk, a slow disk
//
// Below Options.Reserve free bytes Space says Low: the owner takes no new work. A write that
// finds the disk full all the same gets the ballast. When that is used up, too, a
// write of the log fails, which ends the process, and Open says ErrDiskFull until there
// is room to replay the log. A write that does not end within Options.StallLimit, or an
// opening within six of them, ends the process with the reason. Latency tells how long
// the syncs take.
package wal
