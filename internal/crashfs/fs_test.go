// SPDX-License-Identifier: Apache-2.0

package crashfs

import (
	"fmt"
	"io"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"
)

func TestFilesAreUsedAgainWhileClonesAreTaken(t *testing.T) {
	fs := New()
	f, err := fs.Create("0", vfs.WriteCategoryUnspecified)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	stop := make(chan struct{})
	var clones sync.WaitGroup
	for range 4 {
		clones.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					fs.CrashClone(vfs.CrashCloneCfg{})
				}
			}
		})
	}
	for i := range 2000 {
		f, err := fs.ReuseForWrite(fmt.Sprint(i), fmt.Sprint(i+1), vfs.WriteCategoryUnspecified)
		require.NoError(t, err)
		require.NoError(t, f.Close())
	}
	close(stop)
	clones.Wait()
}

func TestACloneHasWhatWasSynced(t *testing.T) {
	fs := New()
	f, err := fs.Create("x", vfs.WriteCategoryUnspecified)
	require.NoError(t, err)
	_, err = f.Write([]byte("kept"))
	require.NoError(t, err)
	require.NoError(t, f.Sync())
	_, err = f.Write([]byte(" lost"))
	require.NoError(t, err)
	dir, err := fs.OpenDir("")
	require.NoError(t, err)
	require.NoError(t, dir.Sync())
	left, err := fs.CrashClone(vfs.CrashCloneCfg{}).Open("x")
	require.NoError(t, err)
	got, err := io.ReadAll(left)
	require.NoError(t, err)
	require.Equal(t, "kept", string(got))
}
