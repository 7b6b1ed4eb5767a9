// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

// protocolVersion is the version of everything that nodes say to each other.
const protocolVersion = 3

var helloMagic = []byte("concord peer\n")

// hello opens a connection in both directions. A node talks only to nodes that agree
// with it on all of it.
type hello struct {
	Version  uint16
	From, To zab.NodeID
	// Members is a hash of who the members are; addresses are not part of it.
	Members [sha256.Size]byte
	// Cluster is 0 until the sender has learned it from the log.
	Cluster txn.ClusterID
	// Store is the random id of the sender's store: two processes with one node id differ in it.
	Store txn.StoreID
	// Dial numbers the connections that one store ever opened: a later one has a greater number.
	Dial uint64
	// Tail is where the log on the sender's disk ends.
	Tail zab.Zxid
}

const helloSize = 13 + 2 + 8 + 8 + sha256.Size + 4 + 16 + 8 + 12

func (h hello) append(b []byte) []byte {
	b = append(b, helloMagic...)
	b = binary.BigEndian.AppendUint16(b, h.Version)
	b = binary.BigEndian.AppendUint64(b, uint64(h.From))
	b = binary.BigEndian.AppendUint64(b, uint64(h.To))
	b = append(b, h.Members[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(h.Cluster))
	b = append(b, h.Store[:]...)
	b = binary.BigEndian.AppendUint64(b, h.Dial)
	return appendZxid(b, h.Tail)
}

// decodeHello of another version tells only which version, and of whom.
func decodeHello(b []byte) (h hello, err error) {
	if len(b) < len(helloMagic)+10 || !bytes.HasPrefix(b, helloMagic) {
		return h, errBadFrame
	}
	b = b[len(helloMagic):]
	h.Version = binary.BigEndian.Uint16(b)
	h.From = zab.NodeID(binary.BigEndian.Uint64(b[2:]))
	switch {
	case h.Version != protocolVersion:
		return h, nil
	case len(b) != helloSize-len(helloMagic):
		return hello{}, errBadFrame
	}
	h.To = zab.NodeID(binary.BigEndian.Uint64(b[10:]))
	b = b[18:]
	copy(h.Members[:], b)
	h.Cluster = txn.ClusterID(binary.BigEndian.Uint32(b[sha256.Size:]))
	b = b[sha256.Size+4:]
	b = b[copy(h.Store[:], b):]
	h.Dial, h.Tail = binary.BigEndian.Uint64(b), zxidAt(b[8:])
	return h, nil
}

// membersHash is equal on nodes whose configurations name the same members with the
// same roles, in whatever order.
func membersHash(members []Member) [sha256.Size]byte {
	var b []byte
	for _, m := range slices.SortedFunc(slices.Values(members), func(a, b Member) int { return int(a.ID) - int(b.ID) }) {
		b = binary.BigEndian.AppendUint64(b, uint64(m.ID))
		if m.Observer {
			b = append(b, 1)
		} else {
			b = append(b, 0)
		}
	}
	return sha256.Sum256(b)
}

// check says why this node must not talk to the sender of h, in words for the
// operators of both nodes; empty if it may.
func (h hello) check(self hello) string {
	switch {
	case h.Version != self.Version:
		return fmt.Sprintf("node %d speaks version %d of the peer protocol, node %d speaks %d: run the same release on all nodes", h.From, h.Version, self.From, self.Version)
	case h.From == self.From:
		return fmt.Sprintf("two nodes have the id %d: give each node its own id in \"node\" and \"members\"", self.From)
	case h.To != self.From:
		return fmt.Sprintf("node %d expected node %d at this address, but here is node %d: correct the addresses in \"members\"", h.From, h.To, self.From)
	case h.Members != self.Members:
		return fmt.Sprintf("nodes %d and %d have different \"members\": use the same list on all nodes", h.From, self.From)
	case h.Cluster != 0 && self.Cluster != 0 && h.Cluster != self.Cluster:
		return fmt.Sprintf("node %d belongs to cluster %v, node %d to cluster %v: one of them has the data directory of another cluster", h.From, h.Cluster, self.From, self.Cluster)
	}
	return ""
}
