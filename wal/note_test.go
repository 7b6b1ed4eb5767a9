// SPDX-License-Identifier: Apache-2.0

package wal

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"
)

func TestNotesAreKeptBesideTheStore(t *testing.T) {
	fs := vfs.NewMem()
	open := func() *Store {
		s, err := Open("/data", Options{FS: fs, Node: 1})
		require.NoError(t, err)
		return s
	}
	s := open()
	_, found, err := s.ReadNote(DistrustNote)
	require.NoError(t, err)
	require.False(t, found)
	for _, text := range []string{"first", "", "several\nlines\x00"} {
		require.NoError(t, s.WriteNote(DistrustNote, text))
		require.NoError(t, s.Close())
		s = open()
		got, found, err := s.ReadNote(DistrustNote)
		require.NoError(t, err)
		require.True(t, found)
		require.Equal(t, text, got)
	}
	_, found, err = s.ReadNote(MembersNote)
	require.NoError(t, err)
	require.False(t, found, "each has its own")

	f, err := fs.Create(fs.PathJoin("/data", string(DistrustNote)), vfs.WriteCategoryUnspecified)
	require.NoError(t, err)
	_, err = f.Write([]byte("concord note check=00000000\nsomething else"))
	require.NoError(t, err)
	require.NoError(t, f.Close())
	_, _, err = s.ReadNote(DistrustNote)
	require.ErrorIs(t, err, ErrCorrupt, "a note that is damaged says nothing")
	require.NoError(t, s.Close())
}
