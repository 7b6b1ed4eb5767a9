// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

// protocolVersion counts the versions of what nodes say to each other, and oldestVersion is
// the first that this program still speaks. Two nodes talk in the newest version that both
// know. A release knows at least the version before its own, so that the nodes of a cluster
// can be upgraded one by one.
const (
	protocolVersion = 5
	oldestVersion   = 3

	// figuresVersion is the first in which reports have a clock, and those of a leader its figures.
	figuresVersion = 4
	// listVersion is the first that tells who the members are by the log.
	listVersion = 5
)

var helloMagic = []byte("concord peer\n")

// Hello opens a connection in both directions. A node talks only to nodes that agree
// with it on all of it.
//
// Its layout is for all versions: what a later one has to say comes at the end, and is not
// read by an earlier one.
type Hello struct {
	// Newest and Oldest are the versions that the sender speaks.
	Newest, Oldest uint16
	From, To       zab.NodeID
	// Members is a hash of who the members are by the configuration; addresses are not part of
	// it. It counts as long as neither side knows of a list in the log.
	Members [sha256.Size]byte
	// Cluster is 0 until the sender has learned it from the log.
	Cluster txn.ClusterID
	// Store is the random id of the sender's store: two processes with one node id differ in it.
	Store txn.StoreID
	// Dial numbers the connections that one store ever opened: a later one has a greater number.
	Dial uint64
	// Tail is where the log on the sender's disk ends.
	Tail zab.Zxid
	// Level is the newest feature level that the sender knows, and Needs the one that the log
	// is at, as far as the sender has read it.
	Level, Needs txn.FeatureLevel
	// ListAt is the entry of the log that says who the members are, the latest that the sender
	// knows of; zero: it knows of none.
	ListAt zab.Zxid
}

const helloSize = helloSize3 + 12
const helloSize3 = 13 + 2 + 8 + 2 + 8 + sha256.Size + 4 + 16 + 8 + 12 + 2 + 2

func (h Hello) append(b []byte) []byte {
	b = append(b, helloMagic...)
	b = binary.BigEndian.AppendUint16(b, h.Newest)
	b = binary.BigEndian.AppendUint64(b, uint64(h.From))
	b = binary.BigEndian.AppendUint16(b, h.Oldest)
	b = binary.BigEndian.AppendUint64(b, uint64(h.To))
	b = append(b, h.Members[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(h.Cluster))
	b = append(b, h.Store[:]...)
	b = binary.BigEndian.AppendUint64(b, h.Dial)
	b = h.Tail.Append(b)
	b = binary.BigEndian.AppendUint16(b, uint16(h.Level))
	b = binary.BigEndian.AppendUint16(b, uint16(h.Needs))
	if h.Newest < listVersion {
		return b
	}
	return h.ListAt.Append(b)
}

// decodeHello of a node that speaks no version of ours tells only which it speaks, and who it is.
func decodeHello(b []byte) (h Hello, err error) {
	if len(b) < len(helloMagic)+10 || !bytes.HasPrefix(b, helloMagic) {
		return h, errBadFrame
	}
	whole := len(b)
	b = b[len(helloMagic):]
	h.Newest = binary.BigEndian.Uint16(b)
	h.From = zab.NodeID(binary.BigEndian.Uint64(b[2:]))
	if h.Newest < oldestVersion {
		return h, nil
	}
	size := helloSize
	if h.Newest < listVersion {
		size = helloSize3
	}
	if whole < size || whole > size && h.Newest <= protocolVersion {
		return Hello{}, errBadFrame
	}
	h.Oldest = binary.BigEndian.Uint16(b[10:])
	if h.Oldest > protocolVersion {
		return h, nil
	}
	h.To = zab.NodeID(binary.BigEndian.Uint64(b[12:]))
	b = b[20:]
	copy(h.Members[:], b)
	h.Cluster = txn.ClusterID(binary.BigEndian.Uint32(b[sha256.Size:]))
	b = b[sha256.Size+4:]
	b = b[copy(h.Store[:], b):]
	h.Dial, h.Tail = binary.BigEndian.Uint64(b), zab.ZxidAt(b[8:])
	h.Level, h.Needs = txn.FeatureLevel(binary.BigEndian.Uint16(b[20:])),
		txn.FeatureLevel(binary.BigEndian.Uint16(b[22:]))
	if h.Newest >= listVersion {
		h.ListAt = zab.ZxidAt(b[24:])
	}
	return h, nil
}

// membersHash is equal on nodes whose configurations name the same members with the
// same roles, in whatever order.
func membersHash(members []replica.Member) [sha256.Size]byte {
	var b []byte
	for _, m := range slices.SortedFunc(slices.Values(members),
		func(a, b replica.Member) int { return int(a.ID) - int(b.ID) }) {
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
func (h Hello) check(self Hello) string {
	switch {
	case h.Newest < self.Oldest:
		return fmt.Sprintf("node %d speaks version %d of the peer protocol, node %d speaks %d to %d: the releases "+
			"are too far apart, upgrade node %d",
			h.From, h.Newest, self.From, self.Oldest, self.Newest, h.From)
	case self.Newest < h.Oldest:
		return fmt.Sprintf("node %d speaks versions %d and above of the peer protocol, node %d up to %d: the "+
			"releases are too far apart, upgrade node %d",
			h.From, h.Oldest, self.From, self.Newest, self.From)
	case h.From == self.From:
		return fmt.Sprintf("two nodes have the id %d: give each node its own id in \"node\" and \"members\"", self.From)
	case h.To != self.From:
		return fmt.Sprintf("node %d expected node %d at this address, but here is node %d: correct the addresses in "+
			"\"members\"", h.From, h.To, self.From)
	case h.Members != self.Members && h.ListAt.IsZero() && self.ListAt.IsZero():
		return fmt.Sprintf("nodes %d and %d have different \"members\": use the same list on all nodes", h.From,
			self.From)
	case h.Cluster != 0 && self.Cluster != 0 && h.Cluster != self.Cluster:
		return fmt.Sprintf("node %d belongs to cluster %v, node %d to cluster %v: one of them has the data "+
			"directory of another cluster", h.From, h.Cluster, self.From, self.Cluster)
	case h.Level < self.Needs:
		return fmt.Sprintf("the cluster is at feature level %d, and node %d knows up to %d: run the release there "+
			"that the other nodes run, and set no lower \"feature_level\"",
			self.Needs, h.From, h.Level)
	case self.Level < h.Needs:
		return fmt.Sprintf("the cluster is at feature level %d, and node %d knows up to %d: run the release there "+
			"that the other nodes run, and set no lower \"feature_level\"",
			h.Needs, self.From, self.Level)
	}
	return ""
}

// appendList and decodeList carry a List.
func appendList(b []byte, l replica.List) []byte {
	return txn.AppendMembers(l.At.Append(b), replica.FromMembers(l.Members))
}

func decodeList(b []byte) (l replica.List, err error) {
	if len(b) < 12 {
		return l, errBadFrame
	}
	list, err := txn.DecodeMembers(b[12:])
	if l.At = zab.ZxidAt(b); err != nil || l.At.IsZero() {
		return replica.List{}, errBadFrame
	}
	l.Members = replica.ToMembers(list)
	return l, nil
}
