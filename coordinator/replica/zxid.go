// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"encoding/binary"

	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

// AppendZxid appends a position as frames and stores write it, in 12 bytes.
func AppendZxid(b []byte, z zab.Zxid) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(z.Epoch))
	return binary.BigEndian.AppendUint64(b, z.Counter)
}

// ToZxid is a position of the vocabulary as the log knows it.
func ToZxid(p txn.Position) zab.Zxid { return zab.Zxid{Epoch: zab.Epoch(p.Epoch), Counter: p.Counter} }

// ToPosition is the inverse of ToZxid.
func ToPosition(z zab.Zxid) txn.Position {
	return txn.Position{Epoch: uint32(z.Epoch), Counter: z.Counter}
}

// ZxidAt reads what AppendZxid wrote: the first 12 bytes of b.
func ZxidAt(b []byte) zab.Zxid {
	return zab.Zxid{Epoch: zab.Epoch(binary.BigEndian.Uint32(b)), Counter: binary.BigEndian.Uint64(b[4:])}
}
