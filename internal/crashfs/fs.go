// SPDX-License-Identifier: Apache-2.0

package crashfs

import (
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// FS is the engine's own, made safe to be cloned at any moment: there ReuseForWrite takes the
// lock that keeps clones out, and takes it again in the rename within, and a clone that is
// asked for in between waits for the first while the second waits for the clone.
type FS struct {
	*vfs.MemFS
	mu sync.Mutex // held by ReuseForWrite and by CrashClone
}

// New returns an empty file system.
func New() *FS { return &FS{MemFS: vfs.NewCrashableMem()} }

// ReuseForWrite implements vfs.FS.
func (f *FS) ReuseForWrite(from, to string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.MemFS.ReuseForWrite(from, to, category)
}

// CrashClone returns what a crash would leave. It may be called while others write.
func (f *FS) CrashClone(c vfs.CrashCloneCfg) *FS {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &FS{MemFS: f.MemFS.CrashClone(c)}
}
