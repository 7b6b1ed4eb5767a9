// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"bufio"
	"bytes"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

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
	broken.post(t.Context(), Peer{zab.Proposed{ID: 1 << 40, Data: []byte("no records")}})
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

func TestFramesWithEntriesThatDoNotDecodeAreRefused(t *testing.T) {
	good := txn.EncodeRecords(nil, txn.AbortRecord{ID: txn.ID{1}})
	for name, data := range map[string][]byte{
		"nothing": nil, "another version": {9, 1}, "an unknown kind": {1, 200}, "cut off": good[:len(good)-1],
		"too long": append(bytes.Clone(good), 0),
	} {
		for _, body := range []func([]zab.Entry) zab.Body{
			func(e []zab.Entry) zab.Body { return zab.Propose{Entries: e} },
			func(e []zab.Entry) zab.Body { return zab.Inform{Entries: e} },
		} {
			entries := []zab.Entry{{Zxid: zab.Zxid{Epoch: 1, Counter: 1}, Data: good},
				{Zxid: zab.Zxid{Epoch: 1, Counter: 2}, Prev: zab.Zxid{Epoch: 1, Counter: 1}, Data: data}}
			m := zab.Message{From: 2, To: 1, Epoch: 1, Session: 1, Body: body(entries)}
			_, err := readInbound(bufio.NewReader(bytes.NewReader(frameOf(frameZAB, zab.AppendMessage(nil, m)))), 2)
			require.ErrorIs(t, err, txn.ErrBadRecord, name)
			m.Body = body(entries[:1])
			_, err = readInbound(bufio.NewReader(bytes.NewReader(frameOf(frameZAB, zab.AppendMessage(nil, m)))), 2)
			require.NoError(t, err)
		}
	}
}
