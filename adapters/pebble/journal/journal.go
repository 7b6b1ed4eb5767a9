// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/concordtx/concord/internal/seal"
	"github.com/concordtx/concord/txn"
)

// Journal is the journal of one store.
//
// The life of a branch is Do for each update, unsynced; Prepare, the one synced
// write that makes all of them durable, since they stand before it in the same
// write-ahead log; then Commit, which drops the records and leaves a marker as
// evidence, or Undo, which puts the before images back. After a crash, whoever owns
// the store does Redo for what is prepared and Undo for what is not (Mohan et al.,
// "ARIES", TODS 1992, restricted to updates under exclusive locks).
//
// What always holds of the journal on disk:
//  1. the updates of a branch are numbered from 0 without a gap;
//  2. a prepared branch has as many updates as its head says;
//  3. a branch has a head and updates, or a commit marker, never both.
//
// Methods may be called concurrently for different branches. The caller holds the
// locks of the keys that it updates, from Do to the end of the branch. Pebble ends
// the process when a write fails, so an error of a method means that nothing was
// written.
type Journal struct {
	db    *pebble.DB
	space []byte
}

// Branch is a branch as the journal knows it. The owner of the journal keeps it and
// hands it to every call.
type Branch struct {
	XID      txn.XID
	Updates  uint32
	Bytes    int // keys and images of all updates
	Prepared bool
	Since    time.Time // when it was prepared, to the millisecond
	// Last is the tag of the last resource that decides it; zero if none does.
	Last txn.LastTag
}

// Update is one change of one key: what was there and what is there now.
type Update struct {
	Key  []byte
	Undo Image
	Redo Image
}

// Image is the value of a key. The zero Image says that the key is absent.
type Image struct {
	Present bool
	Value   []byte
}

// MaxBranchBytes bounds the updates of one branch: undoing them is one batch, which
// is built in memory.
const MaxBranchBytes = 256 << 20

// ErrCorrupt says that bytes on disk are not what was written. It comes wrapped in a sentence that
// ends with the next step.
var ErrCorrupt = errors.New("the store is damaged")

var errFlags = errors.New("has flags that mean nothing here")

// ErrBranchTooLarge says that a branch would outgrow MaxBranchBytes.
var ErrBranchTooLarge = errors.New("the branch has too many updates; split the transaction")

// The kinds of journal keys, behind the space's prefix.
const (
	headKind   = 'h' // xid → number of updates, time of preparing
	markerKind = 'm' // xid → nothing: committed after it was prepared
	updateKind = 'u' // xid, number → update
	endOfKinds = 'v'
)

const (
	xidLen  = 4 + 16 + 1
	headLen = seal.Len + 4 + 8
	tagLen  = 4 // more has the head of a branch that a last resource decides
)

// New returns the journal under the keys that start with space. The store
// must order keys by their bytes (Pebble's default comparer) and must have a
// write-ahead log.
func New(db *pebble.DB, space []byte) *Journal {
	return &Journal{db: db, space: bytes.Clone(space)}
}

// Do makes an update and records it. It is not synced: until Prepare a crash may
// take back this update and all later ones.
func (j *Journal) Do(b *Branch, u Update) error {
	size := len(u.Key) + len(u.Undo.Value) + len(u.Redo.Value)
	if b.Bytes+size > MaxBranchBytes {
		return fmt.Errorf("%s: more than %d MiB: %w", b.XID, MaxBranchBytes>>20, ErrBranchTooLarge)
	}
	batch := j.db.NewBatch()
	defer batch.Close()
	key := j.updateKey(b.XID, b.Updates)
	if err := batch.Set(key, updateValue(key, u), nil); err != nil {
		return err
	}
	if err := put(batch, u.Key, u.Redo); err != nil {
		return err
	}
	if err := batch.Commit(pebble.NoSync); err != nil {
		return err
	}
	b.Updates++
	b.Bytes += size
	return nil
}

// Prepare makes the branch and all of its updates durable.
func (j *Journal) Prepare(b *Branch, at time.Time) error {
	key, value := j.key(headKind, b.XID), make([]byte, headLen)
	binary.BigEndian.PutUint32(value[seal.Len:], b.Updates)
	binary.BigEndian.PutUint64(value[seal.Len+4:], uint64(at.UnixMilli()))
	if b.Last != 0 {
		value = binary.BigEndian.AppendUint32(value, uint32(b.Last))
	}
	seal.Put(key, value)
	if err := j.db.Set(key, value, pebble.Sync); err != nil {
		return err
	}
	b.Prepared, b.Since = true, time.UnixMilli(at.UnixMilli())
	return nil
}

// Commit ends a branch durably. The updates stay. A branch that was prepared leaves a
// marker; of one that was not nobody will ask.
func (j *Journal) Commit(b Branch) error {
	batch := j.db.NewBatch()
	defer batch.Close()
	if err := j.drop(batch, b); err != nil {
		return err
	}
	if b.Prepared {
		key, value := j.key(markerKind, b.XID), make([]byte, seal.Len)
		seal.Put(key, value)
		if err := batch.Set(key, value, nil); err != nil {
			return err
		}
	}
	return batch.Commit(pebble.Sync)
}

// Undo ends a branch and puts the before images back, in one batch. For a prepared
// branch the batch is synced; an unprepared one is undone after a crash anyway.
func (j *Journal) Undo(b Branch) error {
	updates, err := j.Updates(b)
	if err != nil {
		return err
	}
	batch := j.db.NewBatch()
	defer batch.Close()
	for i := len(updates) - 1; i >= 0; i-- {
		if err := put(batch, updates[i].Key, updates[i].Undo); err != nil {
			return err
		}
	}
	if err := j.drop(batch, b); err != nil {
		return err
	}
	if b.Prepared {
		return batch.Commit(pebble.Sync)
	}
	return batch.Commit(pebble.NoSync)
}

// Redo makes the updates of a branch again, in one unsynced batch. Doing it twice is
// the same as doing it once.
func (j *Journal) Redo(b Branch) error {
	updates, err := j.Updates(b)
	if err != nil {
		return err
	}
	batch := j.db.NewBatch()
	defer batch.Close()
	for _, u := range updates {
		if err := put(batch, u.Key, u.Redo); err != nil {
			return err
		}
	}
	return batch.Commit(pebble.NoSync)
}

// Updates returns the updates of a branch in the order in which they were made. What
// does not fit together wraps ErrCorrupt.
func (j *Journal) Updates(b Branch) (updates []Update, err error) {
	err = j.scan(j.key(updateKind, b.XID), j.updateKey(b.XID, b.Updates), func(key, value []byte) error {
		n := binary.BigEndian.Uint32(key[len(key)-4:])
		if int(n) != len(updates) {
			return j.damaged("%s: update %d is missing", b.XID, len(updates))
		}
		u, err := parseUpdate(key, value)
		if err != nil {
			return j.damaged("%s: update %d %v", b.XID, n, err)
		}
		updates = append(updates, u)
		return nil
	})
	if err == nil && len(updates) != int(b.Updates) {
		err = j.damaged("%s: %d updates of %d are there", b.XID, len(updates), b.Updates)
	}
	return updates, err
}

// Branches returns every branch that has not ended, in the order of their names.
func (j *Journal) Branches() (branches []Branch, err error) {
	err = j.scan(j.kind(updateKind), j.kind(endOfKinds), func(key, value []byte) error {
		x := getXID(key[len(j.space)+1:])
		if n := len(branches); n == 0 || branches[n-1].XID != x {
			branches = append(branches, Branch{XID: x})
		}
		b := &branches[len(branches)-1]
		u, err := parseUpdate(key, value)
		if err != nil || binary.BigEndian.Uint32(key[len(key)-4:]) != b.Updates {
			return j.damaged("%s: update %d is missing or damaged", x, b.Updates)
		}
		b.Updates++
		b.Bytes += len(u.Key) + len(u.Undo.Value) + len(u.Redo.Value)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return branches, j.readHeads(branches)
}

// readHeads completes the prepared ones among the branches that have updates.
func (j *Journal) readHeads(branches []Branch) error {
	byXID := make(map[txn.XID]*Branch, len(branches))
	for i := range branches {
		byXID[branches[i].XID] = &branches[i]
	}
	return j.scan(j.kind(headKind), j.kind(headKind+1), func(key, value []byte) error {
		x := getXID(key[len(j.space)+1:])
		body, err := seal.Open(key, value)
		tagged := len(value) == headLen+tagLen && x.ID.Class() == txn.LastResource
		if err != nil || len(value) != headLen && !tagged {
			return j.damaged("%s: the head is damaged", x)
		}
		b, n := byXID[x], binary.BigEndian.Uint32(body)
		if b == nil || b.Updates != n {
			return j.damaged("%s: the head counts %d updates, but there are others", x, n)
		}
		b.Prepared = true
		b.Since = time.UnixMilli(int64(binary.BigEndian.Uint64(body[4:])))
		if tagged {
			b.Last = txn.LastTag(binary.BigEndian.Uint32(body[12:]))
		}
		return nil
	})
}

// Committed tells whether there is evidence that a prepared branch committed.
func (j *Journal) Committed(x txn.XID) (bool, error) {
	key := j.key(markerKind, x)
	value, closer, err := j.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read the marker of %s: %w", x, err)
	}
	defer closer.Close()
	if _, err := seal.Open(key, value); err != nil {
		return false, j.damaged("%s: the marker %v", x, err)
	}
	return true, nil
}

// Markers lists the branches behind after that have left a marker, at most so many, in the
// order of their names.
func (j *Journal) Markers(after txn.XID, most int) (xs []txn.XID, err error) {
	from := append(j.key(markerKind, after), 0) // the next key that there can be
	err = j.scan(from, j.kind(markerKind+1), func(key, _ []byte) error {
		if len(xs) == most {
			return errEnough
		}
		xs = append(xs, getXID(key[len(j.space)+1:]))
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		return nil, err
	}
	return xs, nil
}

var errEnough = errors.New("enough was read")

// Forget drops the markers of branches that nobody will ask for any more. It is not
// synced: a crash may bring markers back, and that harms nobody.
func (j *Journal) Forget(xs []txn.XID) error {
	batch := j.db.NewBatch()
	defer batch.Close()
	for _, x := range xs {
		if err := batch.Delete(j.key(markerKind, x), nil); err != nil {
			return err
		}
	}
	return batch.Commit(pebble.NoSync)
}

// drop removes head and updates. Single deletes of known keys keep Pebble free of the
// range tombstones that would slow down every later scan.
func (j *Journal) drop(batch *pebble.Batch, b Branch) error {
	for n := range b.Updates {
		if err := batch.Delete(j.updateKey(b.XID, n), nil); err != nil {
			return err
		}
	}
	if !b.Prepared {
		return nil
	}
	return batch.Delete(j.key(headKind, b.XID), nil)
}

func (j *Journal) scan(from, to []byte, visit func(key, value []byte) error) (err error) {
	it, err := j.db.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: to})
	if err != nil {
		return fmt.Errorf("read the journal: %w", err)
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for valid := it.First(); valid; valid = it.Next() {
		kind := it.Key()[len(j.space)]
		if want := len(j.space) + 1 + xidLen; len(it.Key()) != want && (kind != updateKind || len(it.Key()) != want+4) {
			return j.damaged("a key has the wrong length")
		}
		if err := visit(it.Key(), it.Value()); err != nil {
			return err
		}
	}
	return nil // Close returns what stopped the iteration
}

func (j *Journal) damaged(format string, args ...any) error {
	return fmt.Errorf("journal of branches: %s: %w; keep a copy of the store and restore it from a backup",
		fmt.Sprintf(format, args...), ErrCorrupt)
}

func put(batch *pebble.Batch, key []byte, i Image) error {
	if !i.Present {
		return batch.Delete(key, nil)
	}
	return batch.Set(key, i.Value, nil)
}

func (j *Journal) kind(kind byte) []byte {
	return append(bytes.Clone(j.space), kind)
}

func (j *Journal) key(kind byte, x txn.XID) []byte {
	key := make([]byte, 0, len(j.space)+1+xidLen+4)
	key = append(append(key, j.space...), kind)
	key = binary.BigEndian.AppendUint32(key, uint32(x.Cluster))
	return append(append(key, x.ID[:]...), byte(x.Branch))
}

func (j *Journal) updateKey(x txn.XID, n uint32) []byte {
	return binary.BigEndian.AppendUint32(j.key(updateKind, x), n)
}

func getXID(b []byte) txn.XID {
	x := txn.XID{Cluster: txn.ClusterID(binary.BigEndian.Uint32(b)), Branch: txn.BranchNo(b[xidLen-1])}
	copy(x.ID[:], b[4:])
	return x
}

// updateValue is: checksum, two flags, lengths of key and undo value, key, undo
// value, redo value.
func updateValue(key []byte, u Update) []byte {
	v := make([]byte, seal.Len, seal.Len+1+2*binary.MaxVarintLen32+len(u.Key)+len(u.Undo.Value)+len(u.Redo.Value))
	var flags byte
	if u.Undo.Present {
		flags |= 1
	}
	if u.Redo.Present {
		flags |= 2
	}
	v = append(v, flags)
	v = binary.AppendUvarint(v, uint64(len(u.Key)))
	v = binary.AppendUvarint(v, uint64(len(u.Undo.Value)))
	v = append(append(append(v, u.Key...), u.Undo.Value...), u.Redo.Value...)
	seal.Put(key, v)
	return v
}

// parseUpdate copies: what an iterator hands out is valid until its next step.
func parseUpdate(key, value []byte) (Update, error) {
	body, err := seal.Open(key, value)
	if err != nil {
		return Update{}, err
	}
	body = bytes.Clone(body)
	if len(body) == 0 {
		return Update{}, seal.ErrLength
	}
	flags, body := body[0], body[1:]
	keyLen, n := binary.Uvarint(body)
	if n <= 0 {
		return Update{}, seal.ErrLength
	}
	body = body[n:]
	undoLen, n := binary.Uvarint(body)
	if n <= 0 || keyLen > uint64(len(body)-n) || undoLen > uint64(len(body)-n)-keyLen {
		return Update{}, seal.ErrLength
	}
	body = body[n:]
	u := Update{
		Key:  body[:keyLen:keyLen],
		Undo: Image{Present: flags&1 != 0, Value: body[keyLen : keyLen+undoLen : keyLen+undoLen]},
		Redo: Image{Present: flags&2 != 0, Value: body[keyLen+undoLen:]},
	}
	if flags > 3 || !u.Undo.Present && len(u.Undo.Value) > 0 || !u.Redo.Present && len(u.Redo.Value) > 0 {
		return Update{}, errFlags // a later version's, whose meaning is not known here
	}
	return u, nil
}
