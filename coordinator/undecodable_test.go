// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

// A leader that has gone wrong proposes what nobody can decode. The followers do not
// acknowledge it and go on living, so that it is never decided and never in their logs; one
// of them leads when the broken one is stopped, and cuts it off its log when it comes back.
func TestEntriesThatDoNotDecodeAreNotAcknowledged(t *testing.T) {
	c := newCluster(t, 3, nobody)
	known := map[txn.ID]txn.Decision{}
	c.decide(3, known)
	broken := c.leader()
	broken.post(t.Context(), replica.Peer{Event: zab.Proposed{ID: 1 << 40, Data: []byte("no records")}})
	require.Eventually(t, func() bool { // it is in the log of the broken one
		_, _, tail, _ := broken.store.Initial()
		return broken.Applied().Less(tail)
	}, 30*time.Second, 10*time.Millisecond)
	c.kill(broken.config.Node)
	c.decide(3, known)
	c.start(broken.config.Node)
	c.equal(3)
	c.remembered(known)
}
