// SPDX-License-Identifier: Apache-2.0

package zab

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// However much of the log waits to be delivered or to be sent, it comes in pieces.
func TestALongLogIsDeliveredAndStreamedInPieces(t *testing.T) {
	const entries, size = 3000, 1000
	c := newCluster(3, 1, nil)
	var log []Entry
	prev := Zxid{}
	for i := range entries {
		z := Zxid{1, uint64(i + 1)}
		log = append(log, Entry{Zxid: z, Prev: prev, Data: make([]byte, size)})
		prev = z
	}
	for i, h := range c.hosts {
		h.disk.hard = HardState{Accepted: 1, Current: 1}
		if i < 2 { // the others have nothing of it, and nobody has applied it
			h.disk.log = log[:len(log):len(log)]
		}
		require.NoError(t, c.start(h))
	}
	acked := map[NodeID]uint64{}
	c.observe = func(_ *host, e Effect) {
		switch e := e.(type) {
		case Deliver:
			require.LessOrEqual(t, sizeOf(e.Entries), deliverBytes+deliverBytes/8)
		case Send:
			switch b := e.Message.Body.(type) {
			case Ack:
				acked[e.Message.From] = b.Upto.Counter
			case Propose:
				streamed(t, b.Entries, acked[e.Message.To])
			case Inform:
				streamed(t, b.Entries, acked[e.Message.To])
			}
		}
	}
	c.run(60)
	require.NotNil(t, c.leader())
	for _, h := range c.hosts {
		require.Len(t, h.machine, entries, "%s", h.core)
		require.Equal(t, prev, h.core.Status().Applied)
	}
}

func streamed(t *testing.T, entries []Entry, acked uint64) {
	t.Helper()
	if len(entries) == 0 {
		return
	}
	const some = storedBatch + storedBatch/8 // the storage counts without overhead
	require.LessOrEqual(t, sizeOf(entries), some)
	underway := int(entries[len(entries)-1].Zxid.Counter-acked) * entrySize(&entries[0])
	require.LessOrEqual(t, underway, storedWindow+some)
}
