// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"encoding/binary"
	"time"

	"github.com/concordtx/concord/coordinator/commit"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

// Report is what a node tells its peers about itself, twice a second. It serves
// people who ask for the status at any node, and the comparison of states; nothing
// that is safe or unsafe depends on it.
type Report struct {
	Role        zab.Role
	Phase       zab.Phase
	Established bool
	Leader      zab.NodeID
	Epoch       zab.Epoch
	Tail        zab.Zxid
	// Applied and Digest: what the node's table has folded, and its rolling hash there.
	Applied zab.Zxid
	Digest  txn.Digest
	Disk    Disk
	// Clock is what the node's shows, in milliseconds; zero from one of the release before.
	Clock time.Time
	// Figures are what a leader says besides; nil from all others. They are told in part if they
	// are too many.
	Figures *commit.Figures
}

// reportSize is the size of all but the clock and the figures behind it.
const reportSize = 3 + 8 + 4 + 12 + 12 + len(txn.Digest{}) + 8 + 1 + 4

func (r Report) append(b []byte) []byte {
	established := byte(0)
	if r.Established {
		established = 1
	}
	b = append(b, byte(r.Role), byte(r.Phase), established)
	b = binary.BigEndian.AppendUint64(b, uint64(r.Leader))
	b = binary.BigEndian.AppendUint32(b, uint32(r.Epoch))
	b = r.Tail.Append(b)
	b = r.Applied.Append(b)
	b = append(b, r.Digest[:]...)
	b = binary.BigEndian.AppendUint64(b, r.Disk.Free)
	low := byte(0)
	if r.Disk.Low {
		low = 1
	}
	b = append(b, low)
	b = binary.BigEndian.AppendUint32(b, uint32(r.Disk.Slowest.Milliseconds()))
	if r.Clock.IsZero() {
		return b
	}
	b = binary.BigEndian.AppendUint64(b, uint64(r.Clock.UnixMilli()))
	if r.Figures != nil {
		b = appendFigures(b, r.Figures)
	}
	return b
}

func decodeReport(b []byte) (r Report, err error) {
	if len(b) < reportSize || b[0] > byte(zab.Observing) || b[1] > byte(zab.Broadcast) || b[2] > 1 {
		return r, errBadFrame
	}
	r.Role, r.Phase, r.Established = zab.Role(b[0]), zab.Phase(b[1]), b[2] == 1
	r.Leader = zab.NodeID(binary.BigEndian.Uint64(b[3:]))
	r.Epoch = zab.Epoch(binary.BigEndian.Uint32(b[11:]))
	r.Tail, r.Applied = zab.ZxidAt(b[15:]), zab.ZxidAt(b[27:])
	b = b[39+copy(r.Digest[:], b[39:]):]
	if b[8] > 1 {
		return Report{}, errBadFrame
	}
	r.Disk = Disk{Free: binary.BigEndian.Uint64(b), Low: b[8] == 1,
		Slowest: time.Duration(binary.BigEndian.Uint32(b[9:])) * time.Millisecond}
	if b = b[13:]; len(b) == 0 {
		return r, nil
	}
	if len(b) < 8 {
		return Report{}, errBadFrame
	}
	if r.Clock, b = time.UnixMilli(int64(binary.BigEndian.Uint64(b))), b[8:]; r.Clock.IsZero() {
		return Report{}, errBadFrame
	}
	if len(b) > 0 {
		r.Figures, err = decodeFigures(b)
	}
	return r, err
}

// Disk is a Disk as peers hear of it.
type Disk struct {
	Free    uint64
	Low     bool
	Slowest time.Duration // in milliseconds
}
