// SPDX-License-Identifier: Apache-2.0

package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/concordtx/concord/protocol/zab"
)

const (
	dbDir       = "db"
	creatingDir = "db.creating"
	lockFile    = "LOCK"
)

// Options of a store. Only Node has no default.
type Options struct {
	// FS is where the store lives. Nil: the real file system.
	FS vfs.FS
	// Node is whose store it is: written at creation, checked each time.
	Node zab.NodeID
	// Logger gets what an operator must know. Nil: slog.Default().
	Logger *slog.Logger
	// Exit ends the process after a write error and must not return. Nil: os.Exit.
	Exit func(code int)
	// Reserve is the free space in bytes below which Space says Low. Half of it is set
	// aside besides, for a disk that is full. 0: DefaultReserve.
	Reserve uint64
	// StallLimit is how long a write may take before the process ends. 0:
	// DefaultStallLimit.
	StallLimit time.Duration
}

// Open opens the store in dir, and makes one if dir is empty or does not exist. It
// counts the opening (Boot) before it returns.
//
// Errors wrap ErrLocked, ErrNotStore, ErrOtherNode, ErrNewer, ErrCorrupt,
// ErrLostPromise, ErrDiskFull or fs.ErrPermission where one of them is the reason.
func Open(dir string, o Options) (*Store, error) {
	if o.Node == 0 {
		return nil, fmt.Errorf("store %s: node 0 cannot have a store; set \"node\" in the configuration", dir)
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Exit == nil {
		o.Exit = os.Exit
	}
	files := o.FS
	if files == nil {
		abs, err := filepath.Abs(dir) // two spellings of one directory must meet at one lock
		if err != nil {
			return nil, readError(dir, "find the directory", err)
		}
		dir, files = abs, vfs.Default
	}
	if err := prepareDir(files, dir); err != nil {
		return nil, err
	}
	lock, err := lockDir(files, dir)
	if err != nil {
		return nil, err
	}
	s, err := openLocked(files, dir, o)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	s.lock = lock
	return s, nil
}

// prepareDir makes dir if it is not there, and refuses one with files of somebody else.
func prepareDir(files vfs.FS, dir string) error {
	if err := MakeDirs(files, dir); err != nil {
		return readError(dir, "make the directory", err)
	}
	names, err := files.List(dir)
	if err != nil {
		return readError(dir, "list the directory", err)
	}
	foreign := ""
	for _, name := range names {
		switch name {
		case dbDir:
			return nil
		case lockFile, creatingDir, markFile, ballastFile, string(MembersNote), string(DistrustNote):
		default:
			foreign = name
		}
	}
	if foreign != "" {
		return fmt.Errorf("store %s: %w, it holds %q; choose an empty directory for the store", dir, ErrNotStore,
			foreign)
	}
	return nil
}

// MakeDirs makes dir and its parents, for their owner alone, and syncs each directory that got a new name,
// so that a crash does not take the store away with its directory.
func MakeDirs(files vfs.FS, dir string) error {
	if _, err := files.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := files.PathDir(dir)
	if parent != dir {
		if err := MakeDirs(files, parent); err != nil {
			return err
		}
	}
	if err := files.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return syncDir(files, parent)
}

func syncDir(files vfs.FS, dir string) error {
	d, err := files.OpenDir(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return err
}

func lockDir(files vfs.FS, dir string) (*pebble.Lock, error) {
	lock, err := pebble.LockDirectory(dir, files)
	switch {
	case err == nil:
		return lock, nil
	case errors.Is(err, fs.ErrPermission):
		return nil, readError(dir, "lock the directory", err)
	default:
		return nil, fmt.Errorf("store %s: %w (%v); stop the other concord process that uses this directory, or give "+
			"each node a data_dir of its own", dir, ErrLocked, err)
	}
}

func openLocked(files vfs.FS, dir string, o Options) (*Store, error) {
	log := newEngineLog(o.Logger, o.Exit)
	s := &Store{files: files, dir: dir, fatal: log.fatal, guard: newGuard(files, dir, o.Reserve, o.Logger)}
	if err := s.guard.admit(); err != nil {
		return nil, err
	}
	s.watchdog = startWatchdog(o.StallLimit, log.fatal)
	s.watchdog.open.begin()
	err := s.openEngine(files, o, log)
	s.watchdog.open.end()
	if err != nil {
		s.watchdog.close()
		return nil, err
	}
	s.guard.measure()
	go s.guard.run()
	return s, nil
}

// openEngine finds or makes the store, checks all that can be checked, and counts the
// opening.
func (s *Store) openEngine(files vfs.FS, o Options, log *engineLog) error {
	dir, db := s.dir, files.PathJoin(s.dir, dbDir)
	if _, err := files.Stat(db); errors.Is(err, fs.ErrNotExist) {
		if err := unused(files, dir); err != nil {
			return err
		}
		if err := create(files, dir, o, log, s.guard); err != nil {
			return err
		}
	} else if err != nil {
		return readError(dir, "find the store", err)
	}
	who, err := checkIdentity(files, dir, db, o.Node)
	if err != nil {
		return err
	}
	promised, err := loadMark(files, dir, who.id, log)
	if err != nil {
		return err
	}
	if err := promised.logsPresent(files, dir, db); err != nil {
		return err
	}
	if s.mark, err = startMark(files, dir, promised, &s.watchdog.mark, log.fatal); err != nil {
		return err
	}
	options := engineOptions(o.FS, log, s.guard, s.mark)
	options.ErrorIfNotExists = true
	s.id = who.id
	if s.engine, err = pebble.Open(db, options); err != nil {
		return errors.Join(engineError(dir, err), s.mark.close())
	}
	if err = s.load(promised.mark); err != nil {
		return errors.Join(err, s.engine.Close(), s.mark.close())
	}
	s.mark.begin(s.log.last(), s.hard, s.boot)
	return nil
}

// create makes the store under another name and renames it when it is whole. Pebble
// picks the format of a new store's first write-ahead log before it knows the format
// that was asked for, and the old one hides damage; so that log ends here, empty.
func create(files vfs.FS, dir string, o Options, log *engineLog, g *guard) error {
	staged := files.PathJoin(dir, creatingDir)
	if err := files.RemoveAll(staged); err != nil {
		return readError(dir, "remove an unfinished store", err)
	}
	options := engineOptions(o.FS, log, g, nil)
	options.ErrorIfExists = true
	engine, err := pebble.Open(staged, options)
	if err != nil {
		return readError(dir, "make the store", err)
	}
	if err := engine.Close(); err != nil {
		return readError(dir, "make the store", err)
	}
	who, stagedMark := newIdentity(o.Node), files.PathJoin(staged, markFile)
	err = writeIdentity(files, files.PathJoin(staged, identityFile), who)
	if err == nil {
		err = createMark(files, stagedMark, who.id)
	}
	if err == nil {
		err = syncDir(files, staged)
	}
	if err == nil {
		err = files.Rename(stagedMark, files.PathJoin(dir, markFile))
	}
	if err == nil {
		err = syncDir(files, dir) // no store is ever seen without its watermark
	}
	if err == nil {
		err = files.Rename(staged, files.PathJoin(dir, dbDir))
	}
	if err == nil {
		err = syncDir(files, dir)
	}
	if err != nil {
		return readError(dir, "make the store", err)
	}
	return nil
}

func engineError(dir string, err error) error {
	switch {
	case errors.Is(err, pebble.ErrDBDoesNotExist), errors.Is(err, pebble.ErrDBNotPristine):
		return damaged(dir, "files of the store are missing: %v", err)
	case strings.Contains(err.Error(), "unknown format major version"): // Pebble has no sentinel for it
		return fmt.Errorf("store %s: %w (%v); start the version of concord that wrote it, or a later one", dir,
			ErrNewer, err)
	default:
		return readError(dir, "open the store", err)
	}
}

// load reads what the meta space says, finds the segments of the log, checks that
// they fit together and to what was promised, and counts the opening.
func (s *Store) load(promised mark) error {
	boot, err := s.meta(bootKey, 4)
	if err != nil {
		return err
	}
	hard, err := s.meta(hardKey, 16)
	if err != nil {
		return err
	}
	base, err := s.meta(baseKey, zxidLen)
	if err != nil {
		return err
	}
	applied, err := s.meta(appliedKey, zxidLen+digestLen)
	if err != nil {
		return err
	}
	if err := s.loadSpace(); err != nil {
		return err
	}
	if hard != nil {
		s.hard = getHard(hard)
	}
	if base != nil {
		s.log.base = getZxid(base)
	}
	if applied != nil {
		s.applied = getZxid(applied)
		copy(s.digest[:], applied[zxidLen:])
	}
	if err := s.findSegments(); err != nil {
		return err
	}
	if err := s.check(); err != nil {
		return err
	}
	if boot != nil {
		s.boot = binary.BigEndian.Uint32(boot)
	}
	if s.size, err = s.measureLog(); err != nil {
		return err
	}
	if err := promised.verify(s.dir, s.hard, s.log, s.boot); err != nil {
		return err
	}
	if s.boot == math.MaxUint32 {
		return fmt.Errorf("store %s: opened %d times, the counter is used up; replace the node", s.dir, s.boot)
	}
	s.boot++
	return s.engine.Set([]byte(bootKey), bootValue(s.boot), pebble.Sync)
}

// loadSpace finds out where the state is, and removes what a crash left of a snapshot
// that was being staged, or of a state that a snapshot has replaced.
func (s *Store) loadSpace() error {
	value, err := s.meta(spaceKey, 1)
	if err != nil {
		return err
	}
	home := byte(stateSpace)
	if value != nil {
		home = value[0]
	}
	if home != stateSpace && home != otherSpace {
		return damaged(s.dir, "the state is in an unknown space %d", home)
	}
	s.home.Store(uint32(home))
	return s.wipe(theOther(home))
}

// meta returns the body of a sealed meta value, nil if there is none.
func (s *Store) meta(key string, length int) ([]byte, error) {
	value, found, err := s.get([]byte(key))
	if err != nil || !found {
		return nil, err
	}
	body, err := unsealMeta(key, value, length)
	if err != nil {
		return nil, damaged(s.dir, "value %q %v", key[1:], err)
	}
	return body, nil
}

// findSegments jumps from epoch to epoch: two seeks for each.
func (s *Store) findSegments() (err error) {
	it, err := s.engine.NewIter(&pebble.IterOptions{LowerBound: []byte{logSpace}, UpperBound: []byte{logSpace + 1}})
	if err != nil {
		return readError(s.dir, "read the log", err)
	}
	defer func() {
		if cerr := it.Close(); err == nil && cerr != nil {
			err = readError(s.dir, "read the log", cerr)
		}
	}()
	for ok := it.First(); ok; {
		first, err := s.entryAt(it)
		if err != nil {
			return err
		}
		if tail := s.log.last(); first.Prev != tail || !s.log.follows(first.Zxid) {
			return damaged(s.dir, "entry %v (after %v) stands behind %v, so entries are missing", first.Zxid,
				first.Prev, tail)
		}
		it.SeekLT(logKey(zab.Zxid{Epoch: first.Zxid.Epoch, Counter: math.MaxUint64}))
		last, err := s.entryAt(it)
		if err != nil {
			return err
		}
		s.log.segments = append(s.log.segments,
			segment{epoch: first.Zxid.Epoch, first: first.Zxid.Counter, last: last.Zxid.Counter})
		ok = it.Next()
	}
	return nil
}

// check verifies what must hold between hard state, log and applied state, and reads
// the entries that were not applied: they are all that a restart acts upon.
func (s *Store) check() error {
	if s.hard.Accepted < s.hard.Current {
		return damaged(s.dir, "the current epoch %d is beyond the accepted epoch %d", s.hard.Current, s.hard.Accepted)
	}
	if !s.log.has(s.applied) {
		return damaged(s.dir, "the state was built up to %v, which the log (%v to %v) does not hold", s.applied,
			s.log.base, s.log.last())
	}
	for after := s.applied; after != s.log.last(); {
		const chunk = 1 << 20
		entries, err := s.Entries(after, s.log.last(), chunk)
		if err != nil {
			return err
		}
		after = entries[len(entries)-1].Zxid
	}
	return nil
}
