// SPDX-License-Identifier: Apache-2.0

package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// maxLogFiles bounds the files of the write-ahead log that a watermark names. There are
// a handful, because a few memtables are all that waits for its flush.
const maxLogFiles = 64

// logFiles are the numbers of files of the write-ahead log, ascending, then zeros.
type logFiles [maxLogFiles]uint64

func (l *logFiles) add(n uint64) {
	if i := slices.Index(l[:], 0); i >= 0 && !slices.Contains(l[:], n) {
		l[i] = n
		slices.Sort(l[:i+1])
	}
}

func (l *logFiles) remove(n uint64) {
	if i := slices.Index(l[:], n); i >= 0 && n != 0 {
		copy(l[i:], l[i+1:])
		l[maxLogFiles-1] = 0
	}
}

// logNumber reads the number off the name of a file of the write-ahead log.
func logNumber(name string) (n uint64, ok bool) {
	digits, ok := strings.CutSuffix(name, ".log")
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	return n, err == nil && n != 0
}

// logsPresent refuses a store without a file of the write-ahead log that it had. To the
// engine a file that is gone is one that it does not need any more.
func (m mark) logsPresent(files vfs.FS, dir, db string) error {
	for _, n := range m.logs {
		if n == 0 {
			return nil
		}
		name := fmt.Sprintf("%06d.log", n)
		switch _, err := files.Stat(files.PathJoin(db, name)); {
		case errors.Is(err, fs.ErrNotExist):
			return tookBack(dir, "the file %s of the write-ahead log is missing", name)
		case err != nil:
			return readError(dir, "find the write-ahead log", err)
		}
	}
	return nil
}

// logFS tells the watermark which files the write-ahead log has: of a new one when its
// name is durable, of an old one before it goes.
type logFS struct {
	vfs.FS
	mark *watermark
}

func (f logFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	file, err := f.FS.Create(name, category)
	f.born(name, err)
	return file, err
}

// ReuseForWrite makes an old log a new one.
func (f logFS) ReuseForWrite(from, to string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f.gone(from)
	file, err := f.FS.ReuseForWrite(from, to, category)
	f.born(to, err)
	return file, err
}

func (f logFS) Remove(name string) error {
	f.gone(name)
	return f.FS.Remove(name)
}

func (f logFS) OpenDir(name string) (vfs.File, error) {
	file, err := f.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return logDir{File: file, mark: f.mark}, nil
}

// Unwrap returns the file system underneath.
func (f logFS) Unwrap() vfs.FS { return f.FS }

func (f logFS) born(name string, err error) {
	if n, ok := logNumber(f.PathBase(name)); ok && err == nil {
		f.mark.logBorn(n)
	}
}

func (f logFS) gone(name string) {
	if n, ok := logNumber(f.PathBase(name)); ok {
		f.mark.logGone(n)
	}
}

// logDir is a directory whose Sync makes names durable.
type logDir struct {
	vfs.File
	mark *watermark
}

func (d logDir) Sync() error {
	named := d.mark.unnamed()
	err := d.File.Sync()
	if err == nil {
		d.mark.logsNamed(named)
	}
	return err
}

// logBorn notes a file that has a name, but not yet a durable one.
func (w *watermark) logBorn(n uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.born = append(w.born, n)
}

// unnamed returns the files whose names were not durable until now.
func (w *watermark) unnamed() []uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.born)
}

// logsNamed claims files whose names are durable.
func (w *watermark) logsNamed(ns []uint64) {
	if len(ns) == 0 {
		return
	}
	w.mu.Lock()
	for _, n := range ns {
		if i := slices.Index(w.born, n); i >= 0 { // else it went meanwhile
			w.born = slices.Delete(w.born, i, i+1)
			w.wanted.logs.add(n)
		}
	}
	w.mu.Unlock()
	w.poke()
}

// logGone lets go of a file. When it returns neither slot claims it.
func (w *watermark) logGone(n uint64) {
	w.writeAll(func() {
		w.born = slices.DeleteFunc(w.born, func(b uint64) bool { return b == n })
		w.wanted.logs.remove(n)
	})
}
