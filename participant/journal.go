// SPDX-License-Identifier: Apache-2.0

package participant

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/concordtx/concord/txn"
	"github.com/concordtx/concord/wal"
)

// Journal is what an agent remembers over restarts: who it is, how often it has started, and the
// branches that it voted Yes for. It is one Pebble store.
//
// What it owes its caller:
//   - What a forced Apply returned for is there after any crash that leaves the synced bytes of the
//     disk intact, and so is all that was applied before.
//   - One Apply is atomic. An Apply that is not forced survives the death of the process only by
//     luck, and is there once a later one was forced.
//   - Nothing is believed on sight: each value has a checksum over its key and itself.
//   - A write error ends the process: after a failed sync nobody knows what the disk holds.
//
// One goroutine calls Apply. A journal must not be restored from a backup: it would have forgotten
// what others count on. The cluster notices by the epoch.
type Journal struct {
	dir  string
	lock *pebble.Lock
	db   *pebble.DB
	head head
}

// head is the first record of a journal.
type head struct {
	id      txn.JournalID
	name    string
	epoch   Epoch
	cluster txn.ClusterID
}

var (
	// ErrJournalLocked says that another process has the journal.
	ErrJournalLocked = errors.New("the journal is in use")
	// ErrJournalDamaged says that bytes on disk are not what was written.
	ErrJournalDamaged = errors.New("the journal is damaged")
	// ErrOtherAgent says that the journal was made for an agent of another name.
	ErrOtherAgent = errors.New("the journal belongs to another agent")
	// ErrOtherCluster says that the agent belongs to another cluster.
	ErrOtherCluster = errors.New("the agent belongs to another cluster")
	// ErrNotJournal says that the directory holds something else.
	ErrNotJournal = errors.New("not the journal of an agent")
)

// The keys.
const (
	headKey    = "\x01head"
	entrySpace = 0x02 // and the gid
)

const (
	headVersion = 1
	crcLen      = 4
	storeDir    = "journal"
)

// JournalOptions open a journal. The zero value works.
type JournalOptions struct {
	FS     vfs.FS         // nil: the real file system
	Logger *slog.Logger   // nil: slog.Default()
	Exit   func(code int) // ends the process after a write error; nil: os.Exit
}

// OpenJournal opens the journal in dir, or makes one, and begins the next epoch before it returns.
// The errors wrap those of this file.
func OpenJournal(dir, name string, o JournalOptions) (*Journal, error) {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Exit == nil {
		o.Exit = os.Exit
	}
	files := o.FS
	if files == nil {
		abs, err := filepath.Abs(dir)
		if err != nil {
			return nil, fmt.Errorf("journal %s: %w; give \"data_dir\" as an absolute path", dir, err)
		}
		dir, files = abs, vfs.Default
	}
	err := wal.MakeDirs(files, dir)
	if err == nil {
		if err := onlyOurs(files, dir); err != nil {
			return nil, err
		}
		err = wal.MakeDirs(files, files.PathJoin(dir, storeDir))
	}
	if err != nil {
		return nil, fmt.Errorf("journal %s: %w; correct \"data_dir\", or let the user that runs concord write there",
			dir, err)
	}
	lock, err := pebble.LockDirectory(dir, files)
	if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("journal %s: %w; let the user that runs concord write there", dir, err)
	}
	if err != nil {
		return nil, fmt.Errorf("journal %s: %w (%w); one process at a time: stop the other agent, or give this one "+
			"a \"data_dir\" of its own", dir, ErrJournalLocked, err)
	}
	j := &Journal{dir: dir, lock: lock}
	if err := j.open(files, name, o); err != nil {
		return nil, errors.Join(err, j.Close())
	}
	return j, nil
}

// onlyOurs refuses a directory in which somebody else keeps something.
func onlyOurs(files vfs.FS, dir string) error {
	names, err := files.List(dir)
	if err != nil {
		return fmt.Errorf("journal %s: %w; let the user that runs concord read it", dir, err)
	}
	for _, name := range names {
		if name != storeDir && name != "LOCK" {
			return fmt.Errorf("journal %s: %w: it holds %q; choose an empty directory", dir, ErrNotJournal, name)
		}
	}
	return nil
}

func (j *Journal) open(files vfs.FS, name string, o JournalOptions) error {
	db, err := pebble.Open(files.PathJoin(j.dir, storeDir), &pebble.Options{
		FS: files, FormatMajorVersion: pebble.FormatNewest, Logger: engineLog{o.Logger, o.Exit},
	})
	if pebble.IsCorruptionError(err) {
		return j.damaged("%v", err)
	}
	if err != nil {
		return fmt.Errorf("journal %s: open the store: %w; check the disk and the rights of the directory", j.dir, err)
	}
	j.db = db
	found, err := j.readHead()
	if err != nil {
		return err
	}
	if !found {
		if entries, err := j.Entries(); err != nil || len(entries) > 0 {
			return errors.Join(j.damaged("its head is missing"), err)
		}
		j.head.name = name
		rand.Read(j.head.id[:]) // never fails: crypto/rand ends the process itself
	}
	if j.head.name != name {
		return fmt.Errorf("journal %s: %w: it was made for %q, this is %q; correct \"name\" or \"data_dir\" in the "+
			"configuration", j.dir, ErrOtherAgent, j.head.name, name)
	}
	j.head.epoch++
	return j.writeHead()
}

func (j *Journal) damaged(format string, args ...any) error {
	return fmt.Errorf("journal %s: %s: %w; keep a copy of the directory, and start the agent with an empty "+
		"\"data_dir\" and another \"name\": it is a new member then, and finishes old branches as the cluster says",
		j.dir, fmt.Sprintf(format, args...), ErrJournalDamaged)
}

func (j *Journal) readHead() (found bool, err error) {
	body, err := j.get([]byte(headKey))
	if errors.Is(err, pebble.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	d := decoder{b: body}
	version := d.byte()
	if !d.bad && version > headVersion {
		return false, fmt.Errorf("journal %s: %w; start that version, or a later one", j.dir, ErrNewerEntry)
	}
	copy(j.head.id[:], d.take(uint64(len(j.head.id))))
	j.head.name, j.head.epoch, j.head.cluster = d.text(), Epoch(d.uint32()), txn.ClusterID(d.uint32())
	if d.bad || len(d.b) > 0 || version != headVersion {
		return false, j.damaged("its head cannot be read")
	}
	return true, nil
}

// writeHead is forced: nobody hears of an epoch that could come again.
func (j *Journal) writeHead() error {
	b := append([]byte{headVersion}, j.head.id[:]...)
	b = appendText(b, j.head.name)
	b = binary.BigEndian.AppendUint32(b, uint32(j.head.epoch))
	b = binary.BigEndian.AppendUint32(b, uint32(j.head.cluster))
	return j.db.Set([]byte(headKey), seal([]byte(headKey), b), pebble.Sync)
}

// ID, Epoch and Cluster say who the agent is. Cluster is 0 until Join.
func (j *Journal) ID() txn.JournalID      { return j.head.id }
func (j *Journal) Epoch() Epoch           { return j.head.epoch }
func (j *Journal) Cluster() txn.ClusterID { return j.head.cluster }

// Join notes for ever which cluster the agent belongs to. It is called before anything is applied
// beside it. The error wraps ErrOtherCluster if it is another one than before.
func (j *Journal) Join(c txn.ClusterID) error {
	switch j.head.cluster {
	case c:
		return nil
	case 0:
		j.head.cluster = c
		return j.writeHead()
	}
	return fmt.Errorf("journal %s: %w: it is %v, and the coordinators are of %v; correct \"coordinators\", or give "+
		"the agent an empty \"data_dir\"", j.dir, ErrOtherCluster, j.head.cluster, c)
}

// Entries returns what is remembered, in the order of age.
func (j *Journal) Entries() (list []Entry, err error) {
	it, err := j.db.NewIter(&pebble.IterOptions{LowerBound: []byte{entrySpace}, UpperBound: []byte{entrySpace + 1}})
	if err != nil {
		return nil, fmt.Errorf("journal %s: %w; check the disk", j.dir, err)
	}
	defer func() {
		if closing := it.Close(); err == nil && closing != nil {
			err = fmt.Errorf("journal %s: %w; check the disk", j.dir, closing)
		}
	}()
	for valid := it.First(); valid; valid = it.Next() {
		var id txn.ID
		if len(it.Key()) != 1+len(id) {
			return nil, j.damaged("a key has the wrong length")
		}
		copy(id[:], it.Key()[1:])
		body, ok := unseal(it.Key(), it.Value())
		if !ok {
			return nil, j.damaged("transaction %v does not match its checksum", id)
		}
		e, err := ParseEntry(id, bytes.Clone(body))
		if errors.Is(err, ErrNewerEntry) {
			return nil, fmt.Errorf("journal %s: transaction %v: %w; start that version, or a later one", j.dir, id, err)
		}
		if err != nil {
			return nil, j.damaged("transaction %v: %v", id, err)
		}
		list = append(list, e)
	}
	return list, nil
}

// Apply carries out writes, in their order and as one. It is forced if one of them is.
func (j *Journal) Apply(writes []Write) error {
	batch := j.db.NewBatch()
	defer batch.Close()
	how := pebble.NoSync
	for _, w := range writes {
		if w.Turn > 0 {
			how = pebble.Sync
		}
		if w.Entry.ID.IsZero() {
			continue
		}
		key := append([]byte{entrySpace}, w.Entry.ID[:]...)
		var err error
		if len(w.Entry.Branches) == 0 {
			err = batch.Delete(key, nil)
		} else {
			err = batch.Set(key, seal(key, w.Entry.AppendBinary(nil)), nil)
		}
		if err != nil {
			return err
		}
	}
	return batch.Commit(how)
}

// Close lets go of the directory.
func (j *Journal) Close() error {
	var errs []error
	if j.db != nil {
		errs = append(errs, j.db.Close())
	}
	return errors.Join(append(errs, j.lock.Close())...)
}

func (j *Journal) get(key []byte) ([]byte, error) {
	value, closer, err := j.db.Get(key)
	if err != nil {
		return nil, err
	}
	defer closer.Close()
	body, ok := unseal(key, value)
	if !ok {
		return nil, j.damaged("its head does not match its checksum")
	}
	return bytes.Clone(body), nil
}

// checksum is the CRC-32C over key and body, so that a value under a wrong key does not pass.
func checksum(key, body []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	return crc32.Update(crc32.Update(0, table, key), table, body)
}

func seal(key, body []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, checksum(key, body)), body...)
}

func unseal(key, value []byte) (body []byte, ok bool) {
	if len(value) < crcLen || binary.BigEndian.Uint32(value) != checksum(key, value[crcLen:]) {
		return nil, false
	}
	return value[crcLen:], true
}

// engineLog passes on Pebble's errors and drops its diary.
type engineLog struct {
	log  *slog.Logger
	exit func(int)
}

func (l engineLog) Infof(string, ...any) {}

func (l engineLog) Errorf(format string, args ...any) {
	l.log.Error("journal error", "err", fmt.Sprintf(format, args...))
}

// Fatalf ends the process, as Pebble asks.
func (l engineLog) Fatalf(format string, args ...any) {
	l.log.Error("the journal cannot be written, so the process exits: check the disk's free space and its health, "+
		"then start again",
		"err", fmt.Sprintf(format, args...))
	l.exit(1)
}
