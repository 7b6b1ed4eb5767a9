// SPDX-License-Identifier: Apache-2.0

package zab

import (
	"math"
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

func TestHugeCountsAllocateNothing(t *testing.T) {
	head := AppendMessage(nil, Message{From: 1, To: 2, Body: LeaderInfo{}})
	head[1] = byte(kindPropose)
	w := writer{b: head}
	w.num(math.MaxUint64)
	allocated := testing.AllocsPerRun(10, func() {
		_, err := DecodeMessage(w.b)
		require.ErrorIs(t, err, ErrBadMessage)
	})
	require.Less(t, allocated, 50.0)
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
