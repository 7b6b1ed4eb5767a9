// SPDX-License-Identifier: Apache-2.0

package zab

import (
	"math"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

// everyKind holds one message of each kind, with extreme numbers here and there.
func everyKind() []Message {
	entries := []Entry{
		{Zxid: Zxid{1, 1}, Data: []byte("first")},
		{Zxid: Zxid{1, 2}, Prev: Zxid{1, 1}},
		{Zxid: Zxid{math.MaxUint32, 1}, Prev: Zxid{1, 2}, Data: make([]byte, 300)},
	}
	bodies := []Body{
		Ballot{Seq: math.MaxUint64, Round: 7, State: Leading, Vote: Vote{Leader: 3, Epoch: 9, Last: Zxid{9, 1 << 40}}},
		FollowerInfo{Accepted: math.MaxUint32},
		LeaderInfo{},
		AckEpoch{Current: 4, Last: Zxid{4, 2}, Applied: Zxid{3, 1}, Counted: true},
		Reject{Reason: Diverged, Accepted: 12},
		Sync{Mode: Trunc, From: Zxid{5, 5}, TruncTo: Zxid{4, 4}, Commit: Zxid{4, 3}},
		Propose{Entries: entries, Commit: Zxid{1, 1}},
		Propose{},
		NewLeader{End: Zxid{6, 1}},
		AckNewLeader{End: Zxid{6, 1}},
		UpToDate{Commit: Zxid{6, 1}},
		Ack{Upto: Zxid{6, 2}},
		Commit{Upto: Zxid{6, 2}},
		Inform{Entries: entries[:1]},
		Ping{Seq: 1 << 63, Commit: Zxid{6, 2}},
		Pong{Seq: 1, Stable: Zxid{6, 2}},
		ReadReq{Nonce: 77},
		ReadResp{Nonce: 77, Index: Zxid{6, 2}},
	}
	var all []Message
	for _, b := range bodies {
		all = append(all, Message{From: 1, To: math.MaxUint64, Epoch: 6, Session: 1<<32 | 5, Body: b})
	}
	return all
}

func TestEveryKindComesBackAsItWent(t *testing.T) {
	for _, m := range everyKind() {
		b := AppendMessage([]byte("before"), m)
		require.Equal(t, "before", string(b[:6]))
		got, err := DecodeMessage(b[6:])
		require.NoError(t, err, "%T", m.Body)
		require.Equal(t, m, got)
	}
}

func TestDamagedMessagesAreRefused(t *testing.T) {
	for _, m := range everyKind() {
		b := AppendMessage(nil, m)
		for cut := range b {
			_, err := DecodeMessage(b[:cut:cut])
			require.ErrorIs(t, err, ErrBadMessage, "%T cut at %d", m.Body, cut)
		}
		_, err := DecodeMessage(append(b, 0))
		require.ErrorIs(t, err, ErrBadMessage, "%T with a byte too many", m.Body)
		b[0]++
		_, err = DecodeMessage(b)
		require.ErrorIs(t, err, ErrBadMessage, "%T of the next version", m.Body)
	}
}

// allocated returns how many bytes a function allocates, at least.
func allocated(f func()) uint64 {
	least := uint64(math.MaxUint64)
	var before, after runtime.MemStats
	for range 3 { // what others do meanwhile counts, too
		runtime.ReadMemStats(&before)
		f()
		runtime.ReadMemStats(&after)
		least = min(least, after.TotalAlloc-before.TotalAlloc)
	}
	return least
}

func TestHostileCountsAllocateNoMoreThanWhatIsThere(t *testing.T) {
	head := AppendMessage(nil, Message{From: 1, To: 2, Body: LeaderInfo{}})
	head[1] = byte(kindPropose)
	entries := func(count uint64, bytes int) []byte {
		w := writer{b: append([]byte(nil), head...)}
		w.num(count)
		return append(w.b, make([]byte, bytes)...)
	}
	for name, b := range map[string][]byte{
		"more than there is":  entries(math.MaxUint64, 0),
		"more than a batch":   entries(1<<20, 5<<20),
		"one byte is missing": entries(1000, 4999),
		"a length too great": append(entries(1000, 4),
			append([]byte{0xff, 0xff, 0xff, 0xff, 0x0f}, make([]byte, 5000)...)...),
	} {
		got := allocated(func() {
			_, err := DecodeMessage(b)
			require.ErrorIs(t, err, ErrBadMessage, name)
		})
		require.LessOrEqual(t, got, uint64(2*len(b)+64<<10), name)
	}
	// Entries of nothing are the worst that is valid: bounded, whatever the message says.
	b := entries(maxEntries, 5*maxEntries+2)
	_, err := DecodeMessage(b)
	require.NoError(t, err)
	require.LessOrEqual(t, allocated(func() { _, _ = DecodeMessage(b) }), uint64(24<<20))
}

func TestABatchOfTheSmallestEntriesIsAMessage(t *testing.T) {
	h := history{}
	for i := range uint64(2 * maxEntries) {
		h.append(Entry{Zxid: Zxid{1, i + 1}, Prev: h.tail()})
	}
	batch := h.slice(Zxid{}, h.tail(), maxBatchBytes)
	m := Message{From: 1, To: 2, Body: Inform{Entries: batch}}
	got, err := DecodeMessage(AppendMessage(nil, m))
	require.NoError(t, err)
	require.Equal(t, m, got)
	require.Equal(t, maxBatchBytes, Config{MaxBatchBytes: 1 << 30}.withDefaults().MaxBatchBytes)
}

func TestDecodedEntriesCannotGrowIntoTheirNeighbours(t *testing.T) {
	b := AppendMessage(nil, Message{From: 1, To: 2, Body: Inform{Entries: []Entry{
		{Zxid: Zxid{1, 1}, Data: []byte("a")}, {Zxid: Zxid{1, 2}, Prev: Zxid{1, 1}, Data: []byte("b")},
	}}})
	m, err := DecodeMessage(b)
	require.NoError(t, err)
	entries := m.Body.(Inform).Entries
	_ = append(entries[0].Data, "XXXXXXXX"...)
	require.Equal(t, "b", string(entries[1].Data))
	require.Equal(t, Zxid{1, 2}, entries[1].Zxid)
}

func FuzzDecodeMessage(f *testing.F) {
	for _, m := range everyKind() {
		f.Add(AppendMessage(nil, m))
	}
	f.Add([]byte{codecVersion + 1, byte(kindPing), 1, 2, 0, 0, 1, 0, 0})
	f.Add([]byte{codecVersion, byte(kindPropose), 1, 2, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := DecodeMessage(b)
		if err != nil {
			require.ErrorIs(t, err, ErrBadMessage)
			return
		}
		require.Equal(t, b, AppendMessage(nil, m), "one message has one encoding")
	})
}

// FuzzReceive lets anything that decodes arrive at nodes in every role.
func FuzzReceive(f *testing.F) {
	for _, m := range everyKind() {
		f.Add(AppendMessage(nil, m), uint8(0))
		f.Add(AppendMessage(nil, m), uint8(3))
	}
	f.Fuzz(func(t *testing.T, b []byte, state uint8) {
		m, err := DecodeMessage(b)
		if err != nil {
			return
		}
		c := newCluster(3, 1, nil)
		for _, h := range c.hosts {
			require.NoError(t, c.start(h))
		}
		c.run(int(state >> 4)) // from looking to established
		if l := c.leader(); l != nil {
			c.propose(l, "x")
		}
		h := c.hosts[state%4]
		m.To, m.From = h.cfg.ID, NodeID(1+m.From%4)
		if f := h.core.follow; f != nil { // as if it came from the leader, in session
			m.From, m.Session = f.leader, f.session
			if state&8 != 0 {
				m.Epoch = f.epoch
			}
		} else if l := h.core.lead; l != nil && state&8 != 0 {
			m.Epoch, m.Session = l.epoch, l.peers[h.core.place(m.From)].session
		}
		c.step(h, Received{m})
		c.run(2)
	})
}

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
