// SPDX-License-Identifier: Apache-2.0

package txn

import (
	"encoding/binary"
	"fmt"

	"github.com/concordtx/concord/internal/mutant"
)

// KeyUse says that a transaction was committed under an idempotency key, and which result it left: no
// other transaction is ever committed under it while the use is remembered, which is as long as the
// transaction's outcome.
type KeyUse struct {
	Key    string
	ID     ID
	Result []byte
}

// Key returns the use of a key, if one is remembered.
func (t *Table) Key(key string) (KeyUse, bool) {
	use, ok := t.archive.KeyUse(key)
	return use, ok && !t.TooOld(use.ID)
}

// keyUsed says in words which other transaction was committed under the key of a record; empty if none
// was. c is what the fold has changed so far.
func (t *Table) keyUsed(r CommitRecord, c *Changes) string {
	if r.Key == "" || mutant.ForgetKeys {
		return ""
	}
	use, ok := t.Key(r.Key)
	for _, u := range c.Keys {
		if u.Key == r.Key {
			use, ok = u, true
		}
	}
	if !ok || use.ID == r.ID {
		return ""
	}
	return fmt.Sprintf("its key was used: transaction %v is committed under it", use.ID)
}

// KeyEra is a piece of time, as long as a key is remembered by default: uses are stored by the era in
// which their transactions began, so that old ones can be dropped without looking at each.
type KeyEra uint32

// keyEraBits: an era has 2^29 ms, which are six days.
const keyEraBits = 29

// Era returns the era of a transaction.
func (id ID) Era() KeyEra { return KeyEra(id.Time().UnixMilli() >> keyEraBits) }

// AppendBinary appends the stored form of a use, which is without the key.
func (u KeyUse) AppendBinary(b []byte) ([]byte, error) {
	b = append(b, recordsVersion)
	b = append(b, u.ID[:]...)
	return append(b, u.Result...), nil
}

// UnmarshalBinary is the inverse of AppendBinary. It leaves the key as it is. The error is ErrBadTxn.
func (u *KeyUse) UnmarshalBinary(b []byte) error {
	if len(b) < 1+len(u.ID) || b[0] != recordsVersion || len(b)-1-len(u.ID) > MaxResult {
		return ErrBadTxn
	}
	copy(u.ID[:], b[1:])
	u.Result = append([]byte(nil), b[1+len(u.ID):]...)
	return nil
}

// appendKeyed appends what a CommitRecord with a key has more than one without.
func (r CommitRecord) appendKeyed(b []byte) []byte {
	b = appendText(b, r.Key)
	b = binary.AppendUvarint(b, uint64(len(r.Result)))
	return append(b, r.Result...)
}

func (d *decoder) keyed(r CommitRecord) CommitRecord {
	r.Key = d.text()
	if result := d.bytes(d.length(1)); len(result) > 0 {
		r.Result = append([]byte(nil), result...)
	}
	d.err = d.err || r.Key == "" || len(r.Key) > MaxKey || len(r.Result) > MaxResult
	return r
}
