// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"math"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/coordinator/commit"
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

// frameOf encloses a payload.
func frameOf(k frameKind, payload []byte) []byte {
	b, start := beginFrame(nil, k)
	return endFrame(append(b, payload...), start)
}

func sampleHello() Hello {
	return Hello{Newest: protocolVersion, Oldest: oldestVersion, From: 1, To: 2, Members: membersHash(nil),
		Cluster: 0xc0ffee, Store: txn.StoreID{1, 15: 9}}
}

func sampleReport() Report {
	return Report{Role: zab.Leading, Phase: zab.Broadcast, Established: true, Leader: 3, Epoch: 7,
		Tail:    zab.Zxid{Epoch: 7, Counter: 9},
		Applied: zab.Zxid{Epoch: 7, Counter: 8}, Digest: txn.Digest{1, 2}, Clock: time.UnixMilli(1_700_000_000_000),
		Disk: Disk{Free: 1 << 40, Low: true, Slowest: 20 * time.Millisecond},
		Figures: &commit.Figures{Clock: time.UnixMilli(1_800_000_000_000), InDoubt: 3, Heuristic: 1,
			Oldest: time.UnixMilli(1_700_000_000_000), Warnings: []string{"look"},
			Resources: []commit.ResourceFigures{{Name: "orders", Driver: "postgres",
				Health: commit.Health{Asked: true, Identity: "it", OK: true, Err: "é"}, InDoubt: 2, Foreign: 4,
				Oldest: time.UnixMilli(1_700_000_000_000), Listed: time.UnixMilli(1_800_000_000_000)}, {}}}}
}

func sampleStanding() *Standing {
	return &Standing{Distrusted: true, Peer: "a:7421", API: "a:7420", ListAt: zab.Zxid{Epoch: 6, Counter: 1},
		List: replica.List{At: zab.Zxid{Epoch: 6, Counter: 1},
			Members: []replica.Member{{ID: 1, Peer: "a:7421"}, {ID: 2, Observer: true, Learner: true}}}}
}

func sampleMessage() zab.Message {
	return zab.Message{From: 1, To: 2, Epoch: 7, Session: 1<<32 | 9, Body: zab.Propose{
		Entries: []zab.Entry{{Zxid: zab.Zxid{Epoch: 7, Counter: 1}, Data: []byte("data")}},
		Commit:  zab.Zxid{Epoch: 7, Counter: 1}}}
}

// FuzzReadFrame reads frames from bytes of anybody, until they end or are no frames.
func FuzzReadFrame(f *testing.F) {
	f.Add(frameOf(frameHello, sampleHello().append(nil)))
	f.Add(append(frameOf(frameReport, sampleReport().append(nil)), frameOf(frameSnapshotEnd, nil)...))
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4, 5})
	f.Add([]byte{0, 0x80, 0, 0, 1, 2, 3, 4, 5})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bufio.NewReader(bytes.NewReader(b))
		for left := b; ; {
			kind, payload, err := readFrame(r)
			if err != nil {
				return
			}
			again := frameOf(kind, payload)
			require.True(t, bytes.HasPrefix(left, again), "one frame has one encoding")
			left = left[len(again):]
		}
	})
}

// FuzzInbound lets a peer that has introduced itself say anything in sound frames.
func FuzzInbound(f *testing.F) {
	f.Add(byte(frameZAB), zab.AppendMessage(nil, sampleMessage()))
	f.Add(byte(frameReport), sampleReport().append(nil))
	f.Add(byte(frameStanding), sampleStanding().append(nil))
	f.Add(byte(frameSnapshotAsk), binary.BigEndian.AppendUint64(nil, 1<<32|9))
	f.Add(byte(frameSnapshotAsk), make([]byte, 8))
	f.Add(byte(200), []byte("later version"))
	f.Fuzz(func(t *testing.T, kind byte, payload []byte) {
		in, err := readInbound(bufio.NewReader(bytes.NewReader(frameOf(frameKind(kind), payload))), 1)
		if err != nil {
			return
		}
		var again []byte
		switch {
		case in.Report != nil:
			again = in.Report.append(nil)
		case in.Standing != nil:
			again = in.Standing.append(nil)
		case in.snapshot != 0:
			again = binary.BigEndian.AppendUint64(nil, in.snapshot)
		default:
			require.EqualValues(t, 1, in.Message.From, "nobody speaks for others")
			again = zab.AppendMessage(nil, in.Message)
		}
		require.Equal(t, payload, again)
	})
}

// FuzzHello reads what opens a connection. Who speaks another version is told so.
func FuzzHello(f *testing.F) {
	f.Add(sampleHello().append(nil))
	later := sampleHello()
	later.Newest, later.Oldest = protocolVersion+2, protocolVersion+1
	f.Add(later.append(nil))
	later.Oldest = protocolVersion // they talk, and what the later one adds is not read
	f.Add(append(later.append(nil), 1, 2, 3))
	earlier := sampleHello()
	earlier.Newest = listVersion - 1
	f.Add(earlier.append(nil))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := decodeHello(b)
		if err != nil {
			require.ErrorIs(t, err, errBadFrame)
			return
		}
		if h.Newest < oldestVersion || h.Oldest > protocolVersion { // it knows no more than that
			self := sampleHello()
			self.From, self.To = 2, 1
			require.Contains(t, h.check(self), "the releases are too far apart")
			return
		}
		size := len(h.append(nil))
		require.Equal(t, b[:size], h.append(nil))
		require.True(t, len(b) == size || h.Newest > protocolVersion)
	})
}

func FuzzReport(f *testing.F) {
	f.Add(sampleReport().append(nil))
	f.Add(Report{}.append(nil))
	f.Add(bytes.Repeat([]byte{0xff}, reportSize))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeReport(b)
		if err != nil {
			require.ErrorIs(t, err, errBadFrame)
			return
		}
		require.Equal(t, b, r.append(nil))
	})
}

func FuzzSnapshotEnd(f *testing.F) {
	f.Add(snapshotEnd{zxid: zab.Zxid{Epoch: 7, Counter: 8}, digest: txn.Digest{1}, sum: [32]byte{2}}.append(nil))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := decodeSnapshotEnd(b)
		if err != nil {
			require.ErrorIs(t, err, errBadFrame)
			return
		}
		require.Equal(t, b, e.append(nil))
	})
}

func TestAClaimedLengthAllocatesNoMoreThanWhatArrives(t *testing.T) {
	claim := func(n uint32, have int) []byte {
		b := binary.BigEndian.AppendUint32(nil, n)
		return append(b, make([]byte, 4+have)...)
	}
	for _, c := range []struct {
		claimed uint32
		have    int
	}{{maxFrame, 0}, {maxFrame, 100}, {maxFrame, 40 << 10}, {maxFrame + 1, 100}, {math.MaxUint32, 100}, {0, 100}} {
		b := claim(c.claimed, c.have)
		source := bytes.NewReader(nil)
		r := bufio.NewReaderSize(source, 4096)
		least := uint64(math.MaxUint64)
		for range 3 {
			source.Reset(b)
			r.Reset(source)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, _, err := readFrame(r)
			runtime.ReadMemStats(&after)
			require.Error(t, err)
			least = min(least, after.TotalAlloc-before.TotalAlloc)
		}
		require.LessOrEqual(t, least, uint64(2*len(b)+64<<10), "%+v", c)
	}
	// And a frame of any size comes through whole.
	for _, n := range []int{1, firstRead - 2, firstRead - 1, firstRead, 3*firstRead + 5, maxFrame - 1} {
		payload := bytes.Repeat([]byte{7}, n)
		kind, got, err := readFrame(bufio.NewReader(bytes.NewReader(frameOf(frameSnapshotPart, payload))))
		require.NoError(t, err)
		require.Equal(t, frameSnapshotPart, kind)
		require.True(t, bytes.Equal(payload, got), n)
	}
}
