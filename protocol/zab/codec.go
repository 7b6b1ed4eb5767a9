// SPDX-License-Identifier: Apache-2.0

package zab

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// codecVersion is the first byte of every message. A node that is told a version it
// does not know drops the connection; nothing is guessed.
const codecVersion = 1

// ErrBadMessage says that bytes are not a message of this version.
var ErrBadMessage = errors.New("not a message of this version")

// kind is the second byte of a message. Values are part of the wire format.
type kind byte

const (
	kindBallot kind = iota + 1
	kindFollowerInfo
	kindLeaderInfo
	kindAckEpoch
	kindReject
	kindSync
	kindPropose
	kindNewLeader
	kindAckNewLeader
	kindUpToDate
	kindAck
	kindCommit
	kindInform
	kindPing
	kindPong
	kindReadReq
	kindReadResp
	kindHandOver
)

// AppendMessage appends the encoding of m to b: version, kind, then all numbers as
// unsigned varints, an entry's data after its length.
func AppendMessage(b []byte, m Message) []byte {
	w := writer{b}
	w.b = append(w.b, codecVersion, 0)
	at := len(w.b) - 1
	w.num(uint64(m.From))
	w.num(uint64(m.To))
	w.num(uint64(m.Epoch))
	w.num(m.Session)
	w.b[at] = byte(w.body(m.Body))
	return w.b
}

type writer struct{ b []byte }

func (w *writer) num(v uint64) { w.b = binary.AppendUvarint(w.b, v) }
func (w *writer) zxid(z Zxid)  { w.num(uint64(z.Epoch)); w.num(z.Counter) }

func (w *writer) flag(v bool) {
	if v {
		w.num(1)
	} else {
		w.num(0)
	}
}

func (w *writer) entries(entries []Entry) {
	w.num(uint64(len(entries)))
	for i := range entries {
		e := &entries[i]
		w.zxid(e.Zxid)
		w.zxid(e.Prev)
		w.num(uint64(len(e.Data)))
		w.b = append(w.b, e.Data...)
	}
}

func (w *writer) body(body Body) kind {
	switch m := body.(type) {
	case Ballot:
		w.num(m.Seq)
		w.num(m.Round)
		w.num(uint64(m.State))
		w.num(uint64(m.Vote.Leader))
		w.num(uint64(m.Vote.Epoch))
		w.zxid(m.Vote.Last)
		return kindBallot
	case FollowerInfo:
		w.num(uint64(m.Accepted))
		return kindFollowerInfo
	case LeaderInfo:
		return kindLeaderInfo
	case AckEpoch:
		w.num(uint64(m.Current))
		w.zxid(m.Last)
		w.zxid(m.Applied)
		w.flag(m.Counted)
		return kindAckEpoch
	case Reject:
		w.num(uint64(m.Reason))
		w.num(uint64(m.Accepted))
		return kindReject
	case Sync:
		w.num(uint64(m.Mode))
		w.zxid(m.From)
		w.zxid(m.TruncTo)
		w.zxid(m.Commit)
		return kindSync
	case Propose:
		w.entries(m.Entries)
		w.zxid(m.Commit)
		return kindPropose
	case NewLeader:
		w.zxid(m.End)
		return kindNewLeader
	case AckNewLeader:
		w.zxid(m.End)
		return kindAckNewLeader
	case UpToDate:
		w.zxid(m.Commit)
		return kindUpToDate
	case Ack:
		w.zxid(m.Upto)
		return kindAck
	case Commit:
		w.zxid(m.Upto)
		return kindCommit
	case Inform:
		w.entries(m.Entries)
		return kindInform
	case Ping:
		w.num(m.Seq)
		w.zxid(m.Commit)
		return kindPing
	case Pong:
		w.num(m.Seq)
		w.zxid(m.Stable)
		return kindPong
	case ReadReq:
		w.num(m.Nonce)
		return kindReadReq
	case ReadResp:
		w.num(m.Nonce)
		w.zxid(m.Index)
		return kindReadResp
	case HandOver:
		w.num(uint64(m.To))
		return kindHandOver
	}
	panicf("no encoding for a body of type %T", body)
	return 0
}

// DecodeMessage reads what AppendMessage wrote, and nothing else: bytes left over
// are an error. Nothing is copied: the data of entries lies in b, which belongs to the
// message from here on. Errors wrap ErrBadMessage.
func DecodeMessage(b []byte) (Message, error) {
	if len(b) < 2 || b[0] != codecVersion {
		return Message{}, fmt.Errorf("decode message of %d bytes: version: %w", len(b), ErrBadMessage)
	}
	k := kind(b[1])
	r := reader{b: b[2:]}
	m := Message{From: NodeID(r.num()), To: NodeID(r.num()), Epoch: r.epoch(), Session: r.num()}
	m.Body = r.body(k)
	if r.failed || m.Body == nil || len(r.b) != 0 {
		return Message{}, fmt.Errorf("decode message of %d bytes, kind %d: %w", len(b), k, ErrBadMessage)
	}
	return m, nil
}

// reader takes values from the front; after the first failure it returns zeros.
type reader struct {
	b      []byte
	failed bool
}

func (r *reader) num() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 || n > 1 && r.b[n-1] == 0 { // only the shortest form is ours
		r.failed, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) upto(limit uint64) uint64 {
	v := r.num()
	if v > limit {
		r.failed, r.b = true, nil
		return 0
	}
	return v
}

func (r *reader) epoch() Epoch { return Epoch(r.upto(1<<32 - 1)) }
func (r *reader) flag() bool   { return r.upto(1) == 1 }
func (r *reader) zxid() Zxid   { return Zxid{Epoch: r.epoch(), Counter: r.num()} }

const (
	// minEntry is the least that an entry takes: five numbers of a byte.
	minEntry = 5
	// maxEntries bounds the entries of a message, which take more memory than bytes. Senders
	// keep to it because each entry counts for entryOverhead in a batch.
	maxEntries = maxBatchBytes/entryOverhead + 1
	// A message that claims many entries gets room for firstEntries, and for as many of
	// usualEntry bytes as it can hold, which is twice its bytes; for more it must have them.
	firstEntries = 512
	usualEntry   = 28
	// maxBatchBytes bounds Config.MaxBatchBytes.
	maxBatchBytes = 2 << 20
)

func (r *reader) entries() []Entry {
	count := r.num()
	if count > uint64(len(r.b)/minEntry) {
		r.failed, r.b = true, nil
		return nil
	}
	if count == 0 {
		return nil
	}
	if count > maxEntries {
		r.failed, r.b = true, nil
		return nil
	}
	entries := make([]Entry, 0, min(count, uint64(firstEntries+len(r.b)/usualEntry)))
	for range count {
		e := Entry{Zxid: r.zxid(), Prev: r.zxid()}
		size := r.upto(uint64(len(r.b)))
		if size > uint64(len(r.b)) {
			r.failed, r.b = true, nil
		}
		if r.failed {
			return nil
		}
		if size > 0 {
			e.Data = r.b[:size:size]
			r.b = r.b[size:]
		}
		entries = append(entries, e)
	}
	return entries
}

func (r *reader) body(k kind) Body {
	switch k {
	case kindBallot:
		return Ballot{Seq: r.num(), Round: r.num(), State: Role(r.upto(uint64(Observing))),
			Vote: Vote{Leader: NodeID(r.num()), Epoch: r.epoch(), Last: r.zxid()}}
	case kindFollowerInfo:
		return FollowerInfo{Accepted: r.epoch()}
	case kindLeaderInfo:
		return LeaderInfo{}
	case kindAckEpoch:
		return AckEpoch{Current: r.epoch(), Last: r.zxid(), Applied: r.zxid(), Counted: r.flag()}
	case kindReject:
		return Reject{Reason: Reason(r.upto(255)), Accepted: r.epoch()}
	case kindSync:
		return Sync{Mode: SyncMode(r.upto(255)), From: r.zxid(), TruncTo: r.zxid(), Commit: r.zxid()}
	case kindPropose:
		return Propose{Entries: r.entries(), Commit: r.zxid()}
	case kindNewLeader:
		return NewLeader{End: r.zxid()}
	case kindAckNewLeader:
		return AckNewLeader{End: r.zxid()}
	case kindUpToDate:
		return UpToDate{Commit: r.zxid()}
	case kindAck:
		return Ack{Upto: r.zxid()}
	case kindCommit:
		return Commit{Upto: r.zxid()}
	case kindInform:
		return Inform{Entries: r.entries()}
	case kindPing:
		return Ping{Seq: r.num(), Commit: r.zxid()}
	case kindPong:
		return Pong{Seq: r.num(), Stable: r.zxid()}
	case kindReadReq:
		return ReadReq{Nonce: r.num()}
	case kindReadResp:
		return ReadResp{Nonce: r.num(), Index: r.zxid()}
	case kindHandOver:
		return HandOver{To: NodeID(r.num())}
	}
	return nil
}
