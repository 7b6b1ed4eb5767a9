// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/concordtx/concord/txn"
	"github.com/concordtx/concord/wal"
)

// Uses of idempotency keys are stored by the era in which their transactions began: keySpace, four
// bytes of the era, the key. An era is dropped when the watermark has passed all of it; until then a
// table takes no notice of what is older than the watermark. Of two uses of one key the later era has
// the one that counts: the first was forgotten before the second could come.
const keySpace = 'k' // from LevelKeys on

const keyPrefix = 1 + 4 // bytes before the key

func eraKey(e txn.KeyEra) []byte {
	return binary.BigEndian.AppendUint32([]byte{keySpace}, uint32(e))
}

func usePair(u txn.KeyUse) wal.Pair {
	value, _ := u.AppendBinary(nil) // it has no way to fail
	return wal.Pair{Key: append(eraKey(u.ID.Era()), u.Key...), Value: value}
}

// keysBefore are the uses whose eras are over before a transaction.
func keysBefore(id txn.ID) wal.Range {
	return wal.Range{Lo: []byte{keySpace}, Hi: eraKey(id.Era())}
}

// findKey looks a key up, in the latest era first. There are as many eras as fit into the retention,
// and one or two more.
func findKey(s *wal.Store, key string) (use txn.KeyUse, found bool, err error) {
	for hi := []byte{keySpace + 1}; hi != nil && !found && err == nil; {
		var era []byte
		err = s.Scan([]byte{keySpace}, hi, true, func(k, _ []byte) bool {
			if len(k) > keyPrefix {
				era = append(era, k[:keyPrefix]...)
			}
			return false
		})
		if hi = era; era == nil || err != nil {
			break
		}
		var value []byte
		if value, found, err = s.Get(append(append([]byte(nil), era...), key...)); found && err == nil {
			err = use.UnmarshalBinary(value)
			use.Key = key
		}
	}
	return use, found, err
}

var errBadKeyUse = errors.New("use of an idempotency key")

// checkUse is checkPair for a use.
func checkUse(key, value []byte) error {
	var u txn.KeyUse
	if err := u.UnmarshalBinary(value); err != nil {
		return fmt.Errorf("%w: %w", errBadKeyUse, err)
	}
	if len(key) <= keyPrefix || len(key) > keyPrefix+txn.MaxKey || binary.BigEndian.Uint32(key[1:]) != uint32(u.ID.Era()) {
		return fmt.Errorf("%w by %v under the key %x: %w", errBadKeyUse, u.ID, key, txn.ErrBadTxn)
	}
	return nil
}
