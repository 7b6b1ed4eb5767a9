// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

// ErrBusy is the answer to a request for which there is no room.
var ErrBusy = txn.Busyf("the node is busy: ask again in a moment")

// notLeader names the leader, as far as this node knows it.
func (c *Core) notLeader(leader zab.NodeID) *txn.NotLeaderError {
	e := &txn.NotLeaderError{}
	if m, ok := c.list.Find(leader); ok && leader != c.config.Node {
		e.Leader, e.API = uint64(leader), m.API
	}
	return e
}

// untouched is notLeader for what this node has just been asked, and does nothing about.
func (c *Core) untouched(leader zab.NodeID) error {
	e := c.notLeader(leader)
	e.Untouched = true
	return e
}
