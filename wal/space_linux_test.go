// SPDX-License-Identifier: Apache-2.0

package wal

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/protocol/zab"
)

const smallDisk = 96 << 20

// smallFS mounts a file system of its own in memory: really full when it is full.
func smallFS(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	err := syscall.Mount("concord-test", dir, "tmpfs", 0, fmt.Sprintf("size=%d", smallDisk))
	if err != nil {
		why := fmt.Sprintf("a file system cannot be mounted (%v): run the tests as root", err)
		if os.Getenv("CONCORD_TEST_REQUIRE") != "" {
			require.FailNow(t, why)
		}
		t.Skip(why)
	}
	t.Cleanup(func() { require.NoError(t, syscall.Unmount(dir, syscall.MNT_DETACH)) })
	return dir
}

// filler is somebody else's file.
type filler struct{ *os.File }

func newFiller(t *testing.T, dir string) filler {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "filler"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, f.Close()) })
	return filler{f}
}

// leave takes all but that much. The store may take some of it between the question how much there is and the taking.
func (f filler) leave(t *testing.T, bytes uint64) {
	t.Helper()
	for full := syscall.ENOSPC; full == syscall.ENOSPC; {
		var st syscall.Statfs_t
		require.NoError(t, syscall.Fstatfs(int(f.Fd()), &st))
		free := st.Bavail * uint64(st.Bsize)
		if free <= bytes {
			return
		}
		at, err := f.Seek(0, io.SeekEnd)
		require.NoError(t, err)
		full = 0
		if err := syscall.Fallocate(int(f.Fd()), 0, at, int64(free-bytes)); err != nil {
			require.ErrorAs(t, err, &full)
			require.Equal(t, syscall.ENOSPC, full)
		}
	}
}

func (f filler) giveBack(t *testing.T) {
	t.Helper()
	require.NoError(t, f.Truncate(0))
}

func TestAFullDiskIsSurvivedOnTheBallastAndHealsWhenThereIsSpaceAgain(t *testing.T) {
	root := smallFS(t)
	dir := filepath.Join(root, "node")
	s, err := Open(dir, Options{Node: 1, Logger: quiet(), Reserve: smallReserve})
	require.NoError(t, err)
	low := func(want bool) {
		t.Helper()
		require.Eventually(t, func() bool { return s.Space().Low == want }, 20*time.Second, 10*time.Millisecond)
	}
	ballast := func() bool {
		_, err := os.Stat(filepath.Join(dir, ballastFile))
		return err == nil
	}
	require.False(t, s.Space().Low)
	require.True(t, ballast())
	all := bigRun(zab.Zxid{}, 1, 10, 100<<10)
	persist(t, s, zab.Write{Entries: all})

	other := newFiller(t, root)
	other.leave(t, smallReserve-(1<<20))
	low(true)
	more := func(n int) {
		t.Helper()
		es := bigRun(all[len(all)-1].Zxid, 1, n, 100<<10)
		for _, e := range es {
			persist(t, s, zab.Write{Entries: []zab.Entry{e}})
		}
		all = append(all, es...)
	}
	more(10) // what was begun goes on
	require.True(t, ballast())

	other.leave(t, 0)
	more(50) // 5 MiB: more than is left anywhere but in the ballast
	require.False(t, ballast(), "given back")
	require.True(t, s.Space().Low)

	other.giveBack(t)
	low(false)
	require.Eventually(t, ballast, 20*time.Second, 10*time.Millisecond)
	more(50)
	require.NoError(t, s.Close())
	s, err = Open(dir, Options{Node: 1, Logger: quiet(), Reserve: smallReserve})
	require.NoError(t, err)
	got, err := s.Entries(zab.Zxid{}, all[len(all)-1].Zxid, 1<<30)
	require.NoError(t, err)
	require.Equal(t, all, got)
	require.NoError(t, s.Close())
}

func TestAProcessOnADiskThatStaysFullEndsAndLosesNothing(t *testing.T) {
	for _, room := range []uint64{1 << 20, 9 << 20, 30 << 20} {
		t.Run(bytesText(room), func(t *testing.T) {
			root := smallFS(t)
			dir := filepath.Join(root, "node")
			s, err := Open(dir, Options{Node: 1, Logger: quiet(), Reserve: smallReserve})
			require.NoError(t, err)
			require.NoError(t, s.Close())
			other := newFiller(t, root)
			other.leave(t, room)

			begun := time.Now()
			var said strings.Builder
			c := child(t, "full disk", dir)
			c.Stderr = &said
			out, err := c.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, c.Start())
			acked := uint64(0)
			for lines := bufio.NewScanner(out); lines.Scan(); {
				_, err := fmt.Sscan(lines.Text(), &acked)
				require.NoError(t, err)
			}
			err = c.Wait() // the deadline of the test is the bound
			var exit interface{ ExitCode() int }
			require.True(t, errors.As(err, &exit), "%v", err)
			require.Contains(t, []int{1, 3}, exit.ExitCode(), said.String())
			if exit.ExitCode() == 1 {
				require.Contains(t, said.String(), "the store cannot be written, so the process exits: check the "+
					"disk's free space")
			}
			lines := strings.Count(said.String(), "\n")
			require.LessOrEqual(t, lines, 20+int(10*time.Since(begun).Seconds()), "no flood of messages")

			_, err = Open(dir, Options{Node: 1, Logger: quiet(), Reserve: smallReserve})
			if err != nil {
				require.ErrorIs(t, err, ErrDiskFull)
				require.ErrorContains(t, err, "free or add space, then start again")
			}
			require.Error(t, err)

			other.giveBack(t)
			s, err = Open(dir, Options{Node: 1, Logger: quiet(), Reserve: smallReserve})
			require.NoError(t, err)
			_, _, last, _ := s.Initial()
			require.GreaterOrEqual(t, last.Counter, acked)
			got, err := s.Entries(zab.Zxid{}, last, 1<<30)
			require.NoError(t, err)
			require.Len(t, got, int(last.Counter))
			require.NoError(t, s.Close())
			t.Logf("%d entries acknowledged, exit %d, %d lines", acked, exit.ExitCode(), lines)
		})
	}
}
