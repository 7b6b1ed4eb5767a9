// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"bufio"
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

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
