// SPDX-License-Identifier: Apache-2.0

package wal

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	iofs "io/fs"
	"log/slog"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/internal/said"
	"github.com/concordtx/concord/protocol/zab"
)

// The test binary runs itself again where a second process is needed: childVar names
// what the child does, dirVar where.
const (
	childVar = "CONCORD_WAL_TEST_CHILD"
	dirVar   = "CONCORD_WAL_TEST_DIR"
)

func TestMain(m *testing.M) {
	switch os.Getenv(childVar) {
	case "open":
		s, err := Open(os.Getenv(dirVar), Options{Node: 1, Logger: quiet()})
		if err != nil {
			fmt.Println(err)
			os.Exit(3)
		}
		_ = s.Close()
		os.Exit(0)
	case "full disk":
		writeUntilTheDiskIsFull(os.Getenv(dirVar)) // does not return
	case "write error":
		writeUntilTheDiskFails(os.Getenv(dirVar))
		os.Exit(0) // not reached
	}
	os.Exit(m.Run())
}

func child(t *testing.T, what, dir string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	c := exec.CommandContext(t.Context(), self)
	c.Env = append(os.Environ(), childVar+"="+what, dirVar+"="+dir)
	return c
}

func TestASecondProcessIsRefusedAndToldTheDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	s, err := Open(dir, Options{Node: 1, Logger: quiet()})
	require.NoError(t, err)

	out, err := child(t, "open", dir).Output()
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, 3, exit.ExitCode())
	require.Contains(t, string(out), dir)
	require.Contains(t, string(out), ErrLocked.Error())
	require.Contains(t, string(out), "stop the other concord process")

	_, err = Open(dir, Options{Node: 1, Logger: quiet()})
	require.ErrorIs(t, err, ErrLocked)
	require.NoError(t, s.Close())
	require.NoError(t, s.Close(), "a second Close")
	require.NoError(t, child(t, "open", dir).Run(), "free again")
}

func TestTheStoreOfAnotherNodeIsRefused(t *testing.T) {
	fs := vfs.NewMem()
	require.NoError(t, openMem(t, fs).Close())
	_, err := Open(testDir, Options{FS: fs, Node: 2, Logger: quiet()})
	require.ErrorIs(t, err, ErrOtherNode)
	require.ErrorContains(t, err, "node 1")
	require.ErrorContains(t, err, "node 2")
	require.EqualValues(t, 2, openMem(t, fs).Boot(), "and the lock is free, nothing was counted")
	_, err = Open("/other", Options{FS: fs, Logger: quiet()})
	require.ErrorContains(t, err, "node 0")
}

func TestNoStoreIsMadeAmongForeignFiles(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "letter.txt"), nil, 0o600))
	_, err := Open(dir, Options{Node: 1, Logger: quiet()})
	require.ErrorIs(t, err, ErrNotStore)
	require.ErrorContains(t, err, "letter.txt")
	require.ErrorContains(t, err, "choose an empty directory")
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, left, 1, "nothing was added")
}

func TestAnUnfinishedCreationIsDoneAgain(t *testing.T) {
	fs := vfs.NewMem()
	require.NoError(t, fs.MkdirAll(testDir+"/"+creatingDir, 0o700))
	f, err := fs.Create(testDir+"/"+creatingDir+"/MANIFEST-000001", vfs.WriteCategoryUnspecified)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	s := openMem(t, fs)
	require.EqualValues(t, 1, s.Boot())
	names, err := fs.List(testDir)
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"LOCK", "WATERMARK", "db"}, names)
}

func TestANewerStoreIsRefused(t *testing.T) {
	t.Run("layout", func(t *testing.T) {
		fs := vfs.NewMem()
		s := openMem(t, fs)
		require.NoError(t, s.Close())
		who := identity{version: storeVersion + 1, node: 1, id: s.ID()}
		require.NoError(t, writeIdentity(fs, testDir+"/db/STORE", who))
		_, err := Open(testDir, Options{FS: fs, Node: 1, Logger: quiet()})
		require.ErrorIs(t, err, ErrNewer)
		require.ErrorContains(t, err, "store version 2")
	})
	t.Run("engine", func(t *testing.T) {
		fs := vfs.NewMem()
		require.NoError(t, openMem(t, fs).Close())
		for _, path := range filesOf(t, fs, "") {
			if name := fs.PathBase(path); strings.HasPrefix(name, "marker.format-version.") {
				later := name[:strings.LastIndexByte(name, '.')] + ".999"
				require.NoError(t, fs.Rename(path, fs.PathJoin(fs.PathDir(path), later)))
			}
		}
		_, err := Open(testDir, Options{FS: fs, Node: 1, Logger: quiet()})
		require.ErrorIs(t, err, ErrNewer)
	})
}

func TestAMissingPermissionIsNamed(t *testing.T) {
	for _, kind := range []errorfs.OpKind{errorfs.OpMkdirAll, errorfs.OpLock, errorfs.OpList, errorfs.OpRename} {
		fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
			if op.Kind == kind {
				return iofs.ErrPermission
			}
			return nil
		}))
		_, err := Open(testDir, Options{FS: fs, Node: 1, Logger: quiet()})
		require.ErrorIs(t, err, iofs.ErrPermission, "%v", kind)
		require.ErrorContains(t, err, testDir)
		require.ErrorContains(t, err, "read and write access")
	}
}

func TestIdentityIsParsedStrictly(t *testing.T) {
	i := newIdentity(7)
	got, ok := parseIdentity(i.String())
	require.True(t, ok)
	require.Equal(t, i, got)
	for _, bad := range []string{"", "concord store", i.String() + "x",
		strings.Replace(i.String(), "node=7", "node=8", 1),
		strings.ToUpper(i.String()), strings.TrimSpace(i.String())} {
		_, ok := parseIdentity(bad)
		require.False(t, ok, "%q", bad)
	}
}

// writeUntilTheDiskFails is the child of the test below: a writer on the real disk,
// until a sync of the write-ahead log fails.
func writeUntilTheDiskFails(dir string) {
	var syncs atomic.Int64
	broken := errorfs.Wrap(vfs.Default, errorfs.InjectorFunc(func(op errorfs.Op) error {
		sync := op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData || op.Kind == errorfs.OpFileSyncTo
		if sync && strings.HasSuffix(op.Path, ".log") && syncs.Add(1) > 20 {
			return errorfs.ErrInjected
		}
		return nil
	}))
	s, err := Open(dir, Options{FS: broken, Node: 1, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(4)
	}
	durable := make(chan uint64, 1)
	w := NewWriter(s, func(id uint64) { durable <- id })
	prev := zab.Zxid{}
	for id := uint64(1); id < 1000; id++ {
		es := run(prev, 1, 1)
		prev = es[0].Zxid
		w.Enqueue(zab.Write{ID: id, Entries: es})
		fmt.Println(<-durable)
	}
}

func TestAWriteErrorEndsTheProcessAndKeepsItsPromises(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	c := child(t, "write error", dir)
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	err := c.Run()
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, 1, exit.ExitCode(), errs.String())
	require.Contains(t, errs.String(), "the store cannot be written, so the process exits")
	require.NotContains(t, errs.String(), "goroutine ", "a message, no stack")

	var told uint64
	for lines := bufio.NewScanner(&out); lines.Scan(); {
		_, err := fmt.Sscan(lines.Text(), &told)
		require.NoError(t, err)
	}
	require.Positive(t, told)
	s, err := Open(dir, Options{Node: 1, Logger: quiet()})
	require.NoError(t, err)
	_, _, last, _ := s.Initial()
	require.GreaterOrEqual(t, last.Counter, told)
	require.NoError(t, s.Close())
}

func TestRepeatedBackgroundErrorsAreLoggedAFewTimesOnly(t *testing.T) {
	var text bytes.Buffer
	l := newEngineLog(slog.New(slog.NewTextHandler(&text, nil)), func(int) {})
	for range 1000 {
		l.Errorf("no space left on %s", "device")
	}
	require.Contains(t, text.String(), "no space left on device")
	require.LessOrEqual(t, strings.Count(text.String(), "\n"), 10)
	l.Infof("flushed")
	require.NotContains(t, text.String(), "flushed")
	require.Panics(t, func() { l.Fatalf("gone") }, "an Exit that returns is a bug")
}

const smallReserve = 16 << 20

// writeUntilTheDiskIsFull is a process that says what is durable, until it ends.
func writeUntilTheDiskIsFull(dir string) {
	s, err := Open(dir, Options{Node: 1, Reserve: smallReserve, StallLimit: 2 * time.Second,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
	_, _, last, _ := s.Initial()
	for {
		es := bigRun(last, 1, 4, 64<<10)
		if err := s.Persist([]zab.Write{{Entries: es}}); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(4)
		}
		last = es[len(es)-1].Zxid
		if err := s.Apply(StateChange{Applied: last, Puts: []Pair{{[]byte("k"), es[0].Data}}}); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(4)
		}
		fmt.Println(last.Counter)
	}
}

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
		for _, e := range all[len(got):] { // one by one they stay in the memtable, and no flush changes what is copied
			persist(t, s, zab.Write{Entries: []zab.Entry{e}})
		}

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

		// What a process that is killed now would leave behind: a copy during which no file came or went, for tables
		// are made of the log in the background.
		var dead string
		files := func() []string {
			names, err := filepath.Glob(filepath.Join(dir, dbDir, "*"))
			require.NoError(t, err)
			return names
		}
		require.Eventually(t, func() bool {
			before := files()
			dead = t.TempDir()
			_, err := vfs.Clone(vfs.Default, vfs.Default, dir, dead)
			return err == nil && slices.Equal(before, files())
		}, 20*time.Second, time.Millisecond)
		require.NoError(t, s.Close())
		dir = dead
	}
}

// message is an error that whoever runs a node can meet when its store is opened or read: how to get it, on
// a file system that has a store of node 1 already, what it says and what it wraps.
type message struct {
	name string
	meet func(*testing.T, vfs.FS) error
	says string
	is   error
}

// opened is what Open says after somebody has spoilt the store.
func opened(spoil func(*testing.T, vfs.FS)) func(*testing.T, vfs.FS) error {
	return func(t *testing.T, files vfs.FS) error {
		spoil(t, files)
		_, err := Open(testDir, Options{FS: files, Node: 1, Logger: quiet()})
		return err
	}
}

// broken is what Open says when the directory cannot be looked at.
func broken(why error) func(*testing.T, vfs.FS) error {
	return func(_ *testing.T, files vfs.FS) error {
		files = errorfs.Wrap(files, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if op.Kind == errorfs.OpList {
				return why
			}
			return nil
		}))
		_, err := Open(testDir, Options{FS: files, Node: 1, Logger: quiet()})
		return err
	}
}

// full is a file system without space.
type full struct{ vfs.FS }

func (full) GetDiskUsage(string) (vfs.DiskUsage, error) { return vfs.DiskUsage{}, nil }

func put(t *testing.T, files vfs.FS, name, text string) {
	t.Helper()
	f, err := files.Create(testDir+"/"+name, vfs.WriteCategoryUnspecified)
	require.NoError(t, err)
	_, err = f.Write([]byte(text))
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

var messages = []message{
	{name: "no node", meet: func(_ *testing.T, files vfs.FS) error {
		_, err := Open(testDir, Options{FS: files, Logger: quiet()})
		return err
	}, says: `store /data/node: node 0 cannot have a store; set "node" in the configuration`},
	{name: "another node", is: ErrOtherNode, meet: func(_ *testing.T, files vfs.FS) error {
		_, err := Open(testDir, Options{FS: files, Node: 2, Logger: quiet()})
		return err
	}, says: `store /data/node: the store belongs to another node: it was made for node 1, this is node 2; correct ` +
		`"node" or "data_dir" in the configuration`},
	{name: "files of somebody else", is: ErrNotStore, meet: opened(func(t *testing.T, files vfs.FS) {
		require.NoError(t, files.RemoveAll(testDir+"/"+dbDir))
		put(t, files, "letter.txt", "dear")
	}), says: `store /data/node: not a concord store, it holds "letter.txt"; choose an empty directory for the store`},
	{name: "a second process", is: ErrLocked, meet: opened(func(t *testing.T, files vfs.FS) { openMem(t, files) }),
		says: "store /data/node: the store is in use (resource temporarily unavailable); stop the other concord " +
			"process that uses this directory, or give each node a data_dir of its own"},
	{name: "a store of a later version", is: ErrNewer, meet: opened(func(t *testing.T, files vfs.FS) {
		who := identity{version: storeVersion + 1, node: 1}
		require.NoError(t, writeIdentity(files, testDir+"/db/STORE", who))
	}), says: "store /data/node: the store was written by a newer version (store version 2, this program knows only " +
		"up to 1); start the version of concord that wrote it, or a later one"},
	{name: "an engine of a later version", is: ErrNewer, meet: func(*testing.T, vfs.FS) error {
		return engineError(testDir, errors.New("unknown format major version 999")) // as Pebble says
	}, says: "store /data/node: the store was written by a newer version (unknown format major version 999); start " +
		"the version of concord that wrote it, or a later one"},
	{name: "a directory that may not be read", is: iofs.ErrPermission, meet: broken(iofs.ErrPermission),
		says: "store /data/node: list the directory: permission denied; give the user that runs concord read and " +
			"write access to the directory"},
	{name: "a disk that does not read", meet: broken(errors.New("input/output error")),
		says: "store /data/node: list the directory: input/output error; check the disk and the kernel's log"},
	{name: "a store that is damaged", is: ErrCorrupt, meet: opened(func(t *testing.T, files vfs.FS) {
		put(t, files, "db/STORE", "damaged")
	}), says: "store /data/node: the STORE file does not match its checksum: the store is damaged; keep a copy of " +
		"the directory, do not repair it in place: the other nodes have the log, so replace this node, see " +
		"docs/operations.md"},
	{name: "a disk that took back what was written", is: ErrLostPromise, meet: opened(func(t *testing.T, files vfs.FS) {
		require.NoError(t, files.RemoveAll(testDir+"/"+dbDir))
	}), says: "store /data/node: db is missing, but a store was here: WATERMARK: the disk took back a promise; do " +
		"not use this directory any longer, it has forgotten what others count on: keep a copy, check the disk, and " +
		"replace this node, see docs/operations.md"},
	{name: "a disk that is full", is: ErrDiskFull, meet: func(t *testing.T, files vfs.FS) error {
		_, err := Open("/data/new", Options{FS: full{files}, Node: 1, Logger: quiet()})
		return err
	}, says: "store /data/new: the disk is full: 0.0 MiB free, 4.0 MiB are needed to open it; free or add space, " +
		"then start again"},
	{name: "a store that was opened too often", meet: opened(func(t *testing.T, files vfs.FS) {
		s, err := Open(testDir, Options{FS: files, Node: 1, Logger: quiet()})
		require.NoError(t, err)
		require.NoError(t, s.engine.Set([]byte(bootKey), bootValue(math.MaxUint32), pebble.Sync))
		require.NoError(t, s.Close())
	}), says: "store /data/node: opened 4294967295 times, the counter is used up; replace the node"},
	{name: "entries that were cut off", is: ErrCut, meet: func(t *testing.T, files vfs.FS) error {
		s := openMem(t, files)
		s.log.base = z(1, 2)
		_, err := s.Entries(z(1, 1), z(9, 9), 100)
		return err
	}, says: "store /data/node: entries after 1.1: the log no longer reaches back so far, it begins after 1.2; the " +
		"peer needs a snapshot"},
}

func TestWhatErrorsSay(t *testing.T) {
	for _, m := range messages {
		t.Run(m.name, func(t *testing.T) {
			files := vfs.NewMem()
			s, err := Open(testDir, Options{FS: files, Node: 1, Logger: quiet()})
			require.NoError(t, err)
			require.NoError(t, s.Close())
			err = m.meet(t, files)
			require.EqualError(t, err, m.says)
			require.True(t, m.is == nil || errors.Is(err, m.is))
		})
	}
}

// Who writes another error finds out here that its text has to be looked at by everybody.
func TestEveryErrorHasARow(t *testing.T) {
	var rows []string
	for _, m := range messages {
		rows = append(rows, m.says)
	}
	said.Check(t, rows, withoutRow)
}

// Why a text has no row.
const (
	breaks    = "wants a disk that breaks: the process ends, and the log says to check the disk"
	ofAPeer   = "the log of a node has it: the snapshot of the other node is asked for again"
	ofDamaged = "a part of what is said of a store that is damaged"
)

// withoutRow are the texts that no row of the table has.
var withoutRow = map[string]string{
	"create %s: %w": breaks, "write %s: %w": breaks, "sync %s: %w": breaks, "close store %s: %w": breaks,
	"store %s: write %s: %w": breaks, "store %s: measure the log: %w": breaks, "store %s: gather the writes: " +
		"%w": breaks,
	"store %s: write the log: %w": breaks, "store %s: gather the state up to %v: %w": breaks,
	"store %s: write the state up to %v: %w": breaks, "store %s: stage a snapshot: %w": breaks,
	"store %s: remove what a snapshot replaced: %w":  breaks,
	"%s: no end after %v: the disk hangs or is full": breaks,
	"the snapshot is damaged":                        ofAPeer, "another snapshot was begun or installed " +
		"meanwhile": ofAPeer,
	"stage a snapshot: %w: %w": ofAPeer, "stage a snapshot: %w: bytes that are no pairs in order": ofAPeer,
	"stage a snapshot of %v: %w: its hash is %x, not %x": ofAPeer,
	"log key %x %w": ofDamaged, "entry %v %w": ofDamaged,
}
