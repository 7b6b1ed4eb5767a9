// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/concordtx/concord/internal/seal"
	"github.com/concordtx/concord/txn"
)

// The marker of a last resource is a marker whose value has a text behind the checksum, under a number that no
// branch has.

// CommitLast ends a branch that is not prepared, and leaves the marker of its transaction, both in one synced write.
func (j *Journal) CommitLast(b Branch, text string) error {
	batch := j.db.NewBatch()
	defer batch.Close()
	if err := j.drop(batch, b); err != nil {
		return err
	}
	if err := j.setLast(batch, txn.LastXID(b.XID.Cluster, b.XID.ID), text); err != nil {
		return err
	}
	return batch.Commit(pebble.Sync)
}

// SetLast leaves a marker alone, durably.
func (j *Journal) SetLast(x txn.XID, text string) error {
	batch := j.db.NewBatch()
	defer batch.Close()
	if err := j.setLast(batch, x, text); err != nil {
		return err
	}
	return batch.Commit(pebble.Sync)
}

func (j *Journal) setLast(batch *pebble.Batch, x txn.XID, text string) error {
	key, value := j.key(markerKind, x), append(make([]byte, seal.Len, seal.Len+len(text)), text...)
	seal.Put(key, value)
	return batch.Set(key, value, nil)
}

// Last reads a marker of a last resource.
func (j *Journal) Last(x txn.XID) (text string, found bool, err error) {
	key := j.key(markerKind, x)
	value, closer, err := j.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return "", false, nil
	}
	if err != nil {
		return "", false, fmt.Errorf("read the marker of %s: %w", x, err)
	}
	defer closer.Close()
	body, err := seal.Open(key, value)
	if err != nil {
		return "", false, j.damaged("%s: the marker %v", x, err)
	}
	return string(bytes.Clone(body)), true, nil
}
