// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"bufio"
	"bytes"
	"fmt"
	"testing"

	"github.com/concordtx/concord/protocol/zab"
)

// benchmarkFrames runs f with proposals to a peer that hold some entries of 256 bytes.
func benchmarkFrames(b *testing.B, f func(b *testing.B, m zab.Message)) {
	for _, n := range []int{1, 64} {
		p := zab.Propose{Commit: zab.Zxid{Epoch: 7, Counter: 1}}
		for i := range uint64(n) {
			p.Entries = append(p.Entries,
				zab.Entry{Zxid: zab.Zxid{Epoch: 7, Counter: i + 2}, Prev: zab.Zxid{Epoch: 7, Counter: i + 1},
					Data: make([]byte, 256)})
		}
		m := zab.Message{From: 1, To: 2, Epoch: 7, Session: 1<<32 | 9, Body: p}
		b.Run(fmt.Sprintf("%d-entries", n), func(b *testing.B) { f(b, m) })
	}
}

func BenchmarkEncodeFrame(b *testing.B) {
	benchmarkFrames(b, func(b *testing.B, m zab.Message) {
		var buf []byte
		b.ReportAllocs()
		for b.Loop() {
			buf = appendOutbound(buf[:0], outbound{message: m}, protocolVersion)
		}
		b.SetBytes(int64(len(buf)))
	})
}

func BenchmarkDecodeFrame(b *testing.B) {
	benchmarkFrames(b, func(b *testing.B, m zab.Message) {
		frame := appendOutbound(nil, outbound{message: m}, protocolVersion)
		source := bytes.NewReader(nil)
		r := bufio.NewReaderSize(source, 64<<10)
		b.SetBytes(int64(len(frame)))
		b.ReportAllocs()
		for b.Loop() {
			source.Reset(frame)
			if _, err := readInbound(r, m.From); err != nil {
				b.Fatal(err)
			}
		}
	})
}
