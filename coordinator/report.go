// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"encoding/binary"
	"time"

	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

// report is what a node tells its peers about itself, twice a second. It serves
// people who ask for the status at any node, and the comparison of states; nothing
// that is safe or unsafe depends on it.
type report struct {
	Role        zab.Role
	Phase       zab.Phase
	Established bool
	Leader      zab.NodeID
	Epoch       zab.Epoch
	Tail        zab.Zxid
	// Applied and Digest: what the node's table has folded, and its rolling hash there.
	Applied zab.Zxid
	Digest  txn.Digest
	Clock   time.Time // of the node, in milliseconds
	Disk    diskReport
}

const reportSize = 3 + 8 + 4 + 12 + 12 + len(txn.Digest{}) + 8 + 8 + 1 + 4

func (r report) append(b []byte) []byte {
	established := byte(0)
	if r.Established {
		established = 1
	}
	b = append(b, byte(r.Role), byte(r.Phase), established)
	b = binary.BigEndian.AppendUint64(b, uint64(r.Leader))
	b = binary.BigEndian.AppendUint32(b, uint32(r.Epoch))
	b = appendZxid(b, r.Tail)
	b = appendZxid(b, r.Applied)
	b = append(b, r.Digest[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(r.Clock.UnixMilli()))
	b = binary.BigEndian.AppendUint64(b, r.Disk.free)
	low := byte(0)
	if r.Disk.low {
		low = 1
	}
	b = append(b, low)
	return binary.BigEndian.AppendUint32(b, uint32(r.Disk.slowest.Milliseconds()))
}

func decodeReport(b []byte) (r report, err error) {
	if len(b) != reportSize || b[0] > byte(zab.Observing) || b[1] > byte(zab.Broadcast) || b[2] > 1 {
		return r, errBadFrame
	}
	r.Role, r.Phase, r.Established = zab.Role(b[0]), zab.Phase(b[1]), b[2] == 1
	r.Leader = zab.NodeID(binary.BigEndian.Uint64(b[3:]))
	r.Epoch = zab.Epoch(binary.BigEndian.Uint32(b[11:]))
	r.Tail, r.Applied = zxidAt(b[15:]), zxidAt(b[27:])
	b = b[39+copy(r.Digest[:], b[39:]):]
	r.Clock, b = time.UnixMilli(int64(binary.BigEndian.Uint64(b))), b[8:]
	if b[8] > 1 {
		return report{}, errBadFrame
	}
	r.Disk = diskReport{free: binary.BigEndian.Uint64(b), low: b[8] == 1, slowest: time.Duration(binary.BigEndian.Uint32(b[9:])) * time.Millisecond}
	return r, nil
}

func appendZxid(b []byte, z zab.Zxid) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(z.Epoch))
	return binary.BigEndian.AppendUint64(b, z.Counter)
}

func toZxid(p txn.Position) zab.Zxid { return zab.Zxid{Epoch: zab.Epoch(p.Epoch), Counter: p.Counter} }

func toPosition(z zab.Zxid) txn.Position {
	return txn.Position{Epoch: uint32(z.Epoch), Counter: z.Counter}
}

func zxidAt(b []byte) zab.Zxid {
	return zab.Zxid{Epoch: zab.Epoch(binary.BigEndian.Uint32(b)), Counter: binary.BigEndian.Uint64(b[4:])}
}
