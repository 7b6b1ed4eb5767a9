// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTreeCPUCountsDescendantsTheDeadOnesIncluded(t *testing.T) {
	cmd := exec.Command("/bin/sh", "-c",
		"i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; (i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done); "+
			"read x")
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	defer func() { require.NoError(t, in.Close()); _ = cmd.Wait() }()
	before, err := treeCPU(os.Getpid())
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		child, err := treeCPU(cmd.Process.Pid)
		require.NoError(t, err)
		all, err := treeCPU(os.Getpid())
		require.NoError(t, err)
		return child > 0 && all >= before && all >= child
	}, time.Minute, 20*time.Millisecond)
	none, err := treeCPU()
	require.NoError(t, err)
	require.Zero(t, none)
	_, err = treeCPU(1 << 30)
	require.ErrorContains(t, err, "there is none")
}

func TestMemoryAndDiskOfANode(t *testing.T) {
	resident, err := residentMemory(os.Getpid())
	require.NoError(t, err)
	require.Greater(t, resident, int64(1<<20))
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "below"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "a"), make([]byte, 1000), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "below", "b"), make([]byte, 234), 0o600))
	size, err := folderSize(dir)
	require.NoError(t, err)
	require.EqualValues(t, 1234, size)
	size, err = folderSize(filepath.Join(dir, "gone"))
	require.NoError(t, err)
	require.Zero(t, size)
}

func TestHistoryIsSampledInTheMiddleIfThereIsRoom(t *testing.T) {
	require.Equal(t, []int{1000, 490_000, 990_000}, (&history{transactions: 1_000_000, sample: 10_000}).targets())
	require.Equal(t, []int{1000, 2500}, (&history{transactions: 3000, sample: 500}).targets())
}
