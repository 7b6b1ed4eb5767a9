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
	Disk    diskReport
	// What follows is for listVersion and above. Distrusted says that the node stopped for good;
	// Peer and API are where it is, as it was told; ListAt is the list of members that it knows.
	Distrusted bool
	Peer, API  string
	ListAt     zab.Zxid
	// List is for who knows an earlier one; its At is zero for others.
	List List
}

const reportSize = 3 + 8 + 4 + 12 + 12 + len(txn.Digest{}) + 8 + 1 + 4

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
	b = binary.BigEndian.AppendUint64(b, r.Disk.free)
	low := byte(0)
	if r.Disk.low {
		low = 1
	}
	b = append(b, low)
	return binary.BigEndian.AppendUint32(b, uint32(r.Disk.slowest.Milliseconds()))
}

// appendFor appends the report for a peer that speaks a version.
func (r report) appendFor(b []byte, version uint16) []byte {
	b = r.append(b)
	if version < listVersion {
		return b
	}
	distrusted := byte(0)
	if r.Distrusted {
		distrusted = 1
	}
	b = append(b, distrusted)
	b = appendZxid(b, r.ListAt)
	for _, addr := range []string{r.Peer, r.API} {
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(addr))), addr...)
	}
	if r.List.At.IsZero() {
		return b
	}
	return appendList(b, r.List)
}

func decodeReport(b []byte) (r report, err error) {
	if len(b) < reportSize || b[0] > byte(zab.Observing) || b[1] > byte(zab.Broadcast) || b[2] > 1 {
		return r, errBadFrame
	}
	r.Role, r.Phase, r.Established = zab.Role(b[0]), zab.Phase(b[1]), b[2] == 1
	r.Leader = zab.NodeID(binary.BigEndian.Uint64(b[3:]))
	r.Epoch = zab.Epoch(binary.BigEndian.Uint32(b[11:]))
	r.Tail, r.Applied = zxidAt(b[15:]), zxidAt(b[27:])
	b = b[39+copy(r.Digest[:], b[39:]):]
	if b[8] > 1 {
		return report{}, errBadFrame
	}
	r.Disk = diskReport{free: binary.BigEndian.Uint64(b), low: b[8] == 1, slowest: time.Duration(binary.BigEndian.Uint32(b[9:])) * time.Millisecond}
	if b = b[13:]; len(b) == 0 {
		return r, nil
	}
	return r, r.decodeRest(b)
}

// decodeRest reads what appendFor adds.
func (r *report) decodeRest(b []byte) (err error) {
	if len(b) < 1+12 || b[0] > 1 {
		return errBadFrame
	}
	r.Distrusted, r.ListAt = b[0] == 1, zxidAt(b[1:])
	b = b[13:]
	for _, addr := range []*string{&r.Peer, &r.API} {
		if len(b) < 2 || len(b)-2 < int(binary.BigEndian.Uint16(b)) {
			return errBadFrame
		}
		n := 2 + int(binary.BigEndian.Uint16(b))
		*addr, b = string(b[2:n]), b[n:]
	}
	if len(b) > 0 {
		r.List, err = decodeList(b)
	}
	return err
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
