// SPDX-License-Identifier: Apache-2.0

package wal

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// A Note is a short text that a node keeps beside its store for its next start, and for people:
// a file with a line that says its checksum. It concerns this node alone and is no part of the
// state.
type Note string

// The notes of a node: the list of members that it was first started with, and why its state is
// not to be trusted any more.
const (
	MembersNote  Note = "MEMBERS"
	DistrustNote Note = "DIVERGED"
)

const maxNote = 64 << 10

// WriteNote makes a text durable in place of the one before.
func (s *Store) WriteNote(n Note, text string) error {
	path := s.files.PathJoin(s.dir, string(n))
	err := s.writeNote(path+".new", noteLine(text)+text)
	if err == nil {
		err = s.files.Rename(path+".new", path)
	}
	if err == nil {
		err = syncDir(s.files, s.dir)
	}
	if err != nil {
		return fmt.Errorf("store %s: write %s: %w", s.dir, n, err)
	}
	return nil
}

func (s *Store) writeNote(path, text string) error {
	f, err := s.files.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	if _, err = io.Copy(f, strings.NewReader(text)); err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// ReadNote returns a text that was written, and false if none was.
func (s *Store) ReadNote(n Note) (string, bool, error) {
	f, err := s.files.Open(s.files.PathJoin(s.dir, string(n)))
	if errors.Is(err, fs.ErrNotExist) {
		return "", false, nil
	}
	if err != nil {
		return "", false, readError(s.dir, "read "+string(n), err)
	}
	whole, err := io.ReadAll(io.LimitReader(f, maxNote))
	if err := errors.Join(err, f.Close()); err != nil {
		return "", false, readError(s.dir, "read "+string(n), err)
	}
	_, text, _ := strings.Cut(string(whole), "\n")
	if noteLine(text)+text != string(whole) {
		return "", false, damaged(s.dir, "the file %s does not match its checksum", n)
	}
	return text, true, nil
}

func noteLine(text string) string {
	return fmt.Sprintf("concord note check=%08x\n", crc32.Checksum([]byte(text), crc32.MakeTable(crc32.Castagnoli)))
}
