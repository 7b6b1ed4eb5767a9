// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"encoding/binary"

	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/protocol/zab"
)

// Standing is what a node tells its peers with each report: where it stands in the cluster.
type Standing struct {
	// Distrusted says that it stopped for good.
	Distrusted bool
	// Peer and API are where it is, as its configuration says.
	Peer, API string
	// ListAt is the list of members that it knows.
	ListAt zab.Zxid
	// List is for who knows an earlier one; its At is zero for others.
	List replica.List
}

func (s *Standing) append(b []byte) []byte {
	distrusted := byte(0)
	if s.Distrusted {
		distrusted = 1
	}
	b = append(b, distrusted)
	b = s.ListAt.Append(b)
	for _, addr := range []string{s.Peer, s.API} {
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(addr))), addr...)
	}
	if s.List.At.IsZero() {
		return b
	}
	return appendList(b, s.List)
}

func decodeStanding(b []byte) (s Standing, err error) {
	if len(b) < 1+12 || b[0] > 1 {
		return s, errBadFrame
	}
	s.Distrusted, s.ListAt = b[0] == 1, zab.ZxidAt(b[1:])
	b = b[13:]
	for _, addr := range []*string{&s.Peer, &s.API} {
		if len(b) < 2 || len(b)-2 < int(binary.BigEndian.Uint16(b)) {
			return Standing{}, errBadFrame
		}
		n := 2 + int(binary.BigEndian.Uint16(b))
		*addr, b = string(b[2:n]), b[n:]
	}
	if len(b) > 0 {
		s.List, err = decodeList(b)
	}
	return s, err
}
