// SPDX-License-Identifier: Apache-2.0

package wal

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/protocol/zab"
)

// Syncs are cheap because the log on disk is already longer than what is written to it. A
// store that died opens on such a log, with all that it had, again and again.
func TestTheLogOnDiskIsLongerThanWhatIsWritten(t *testing.T) {
	dir := t.TempDir()
	all := bigRun(zab.Zxid{}, 1, 3, 700)
	for range 3 {
		s, err := Open(dir, Options{Node: 1, Logger: quiet()})
		require.NoError(t, err)
		_, _, last, _ := s.Initial()
		got, err := s.Entries(zab.Zxid{}, last, 1<<30)
		require.NoError(t, err)
		if len(got) > 0 {
			require.Equal(t, all, got)
			all = append(all, bigRun(last, 1, 3, lengthStep/2)...)
		}
		persist(t, s, zab.Write{Entries: all[len(got):]})

		logs, err := filepath.Glob(filepath.Join(dir, dbDir, "*.log"))
		require.NoError(t, err)
		sizes := 0
		for _, l := range logs {
			info, err := os.Stat(l)
			require.NoError(t, err)
			require.Zero(t, info.Size()%lengthStep, l)
			sizes += int(info.Size())
		}
		require.Greater(t, sizes, len(all[len(got):])*700)

		dead := t.TempDir() // what a process that is killed now would leave behind
		_, err = vfs.Clone(vfs.Default, vfs.Default, dir, dead)
		require.NoError(t, err)
		require.NoError(t, s.Close())
		dir = dead
	}
}
