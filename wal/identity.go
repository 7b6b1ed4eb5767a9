// SPDX-License-Identifier: Apache-2.0

package wal

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"io"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/concordtx/concord/protocol/zab"
)

// storeVersion is the layout of keys and values that this package writes.
const storeVersion = 1

const identityFile = "STORE"

// identity says whose store it is. It is written once, before the store comes into
// being, as a line that people can read, and is checked before Pebble touches
// anything.
type identity struct {
	version int
	node    zab.NodeID
	id      [16]byte
}

func newIdentity(node zab.NodeID) identity {
	i := identity{version: storeVersion, node: node}
	rand.Read(i.id[:]) // never fails: crypto/rand ends the process itself
	return i
}

func (i identity) String() string {
	line := fmt.Sprintf("concord store version=%d node=%d id=%s", i.version, i.node, hex.EncodeToString(i.id[:]))
	return fmt.Sprintf("%s check=%08x\n", line, crc32.Checksum([]byte(line), crc32.MakeTable(crc32.Castagnoli)))
}

// parseIdentity accepts exactly what String prints.
func parseIdentity(text string) (identity, bool) {
	var i identity
	var id string
	var check uint32
	_, err := fmt.Sscanf(text, "concord store version=%d node=%d id=%32s check=%08x\n", &i.version, &i.node, &id,
		&check)
	if err != nil || len(id) != 32 {
		return identity{}, false
	}
	if _, err := hex.Decode(i.id[:], []byte(id)); err != nil {
		return identity{}, false
	}
	return i, i.String() == text
}

func writeIdentity(fs vfs.FS, path string, i identity) error {
	f, err := fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	if _, err = io.Copy(f, strings.NewReader(i.String())); err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// checkIdentity reads the STORE file in db and tells whether this node may use it.
func checkIdentity(fs vfs.FS, dir, db string, node zab.NodeID) (identity, error) {
	f, err := fs.Open(fs.PathJoin(db, identityFile))
	if err != nil {
		return identity{}, readError(dir, "read the STORE file", err)
	}
	text, err := io.ReadAll(io.LimitReader(f, 4096))
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return identity{}, readError(dir, "read the STORE file", err)
	}
	i, ok := parseIdentity(string(text))
	switch {
	case !ok:
		return identity{}, damaged(dir, "the STORE file does not match its checksum")
	case i.version > storeVersion:
		return identity{}, fmt.Errorf("store %s: %w (store version %d, this program knows only up to %d); start "+
			"the version of concord that wrote it, or a later one",
			dir, ErrNewer, i.version, storeVersion)
	case i.node != node:
		return identity{}, fmt.Errorf("store %s: %w: it was made for node %d, this is node %d; correct \"node\" or "+
			"\"data_dir\" in the configuration",
			dir, ErrOtherNode, i.node, node)
	}
	return i, nil
}
