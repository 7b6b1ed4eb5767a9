// SPDX-License-Identifier: Apache-2.0

package config

import (
	"net"

	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/protocol/zab"
)

// FreeMembers makes up three members at addresses of this machine that are free.
func FreeMembers() (members []replica.Member, err error) {
	for id := zab.NodeID(1); id <= 3; id++ {
		m := replica.Member{ID: id}
		for _, addr := range []*string{&m.Peer, &m.API} {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return nil, err
			}
			defer l.Close() // when all addresses are known
			*addr = l.Addr().String()
		}
		members = append(members, m)
	}
	return members, nil
}
