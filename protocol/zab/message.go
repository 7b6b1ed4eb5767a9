// SPDX-License-Identifier: Apache-2.0

package zab

// Message is what one node says to another: an envelope that every receiver
// checks first, and a body.
type Message struct {
	From, To NodeID
	// Epoch is the epoch that the sender speaks for (0 for ballots and FollowerInfo).
	Epoch Epoch
	// Session is the number that the follower chose for its connection to this
	// leader, echoed by the leader; 0 for ballots.
	Session uint64
	Body    Body
}

// Body is one of the message kinds of the protocol.
type Body interface{ isBody() }

// Vote names the candidate that a ballot is for, and what made it the candidate:
// the order is by Epoch, then Last, then Leader. A zero Leader supports nobody.
type Vote struct {
	Leader NodeID
	Epoch  Epoch // the candidate's Current; of a settled node the epoch of its session
	Last   Zxid  // the candidate's last durable entry
}

// Ballot is the message of the election: the sender's state, of which only the latest
// counts. A ballot is a hint; safety never rests on one.
type Ballot struct {
	Seq   uint64 // grows with each ballot of a sender, also across its restarts
	Round uint64
	State Role
	Vote  Vote
}

// FollowerInfo opens a session: a node asks a leader to be led, and says
// what it has promised.
type FollowerInfo struct{ Accepted Epoch }

// LeaderInfo announces the epoch of the envelope (NEWEPOCH in the paper).
type LeaderInfo struct{}

// AckEpoch promises the epoch of the envelope and tells the follower's history.
// Counted is false when the same epoch was promised to another leader before:
// the follower wants to be synchronized, but is no part of the leader's quorum.
type AckEpoch struct {
	Current Epoch
	Last    Zxid
	Applied Zxid // handed to the state machine there: never to be truncated
	Counted bool
}

// Reason says why a message was rejected.
type Reason uint8

// The reasons of a Reject.
const (
	NotLeading     Reason = iota + 1 // the receiver leads nobody
	StaleEpoch                       // to who leads: its epoch is older than what the sender promised
	UnknownSession                   // the leader gave this session up; open another
	Diverged                         // the histories contradict each other: an operator must look
	EpochTooLow                      // the leader's epoch is below what the follower promised
)

// Reject refuses a session, or ends one. Followers number sessions each for itself, so the
// number alone does not tell whose session is meant: StaleEpoch is what followers say to
// leaders, everything else is what leaders say to followers.
type Reject struct {
	Reason   Reason
	Accepted Epoch // what the sender has durably promised
}

// SyncMode says how a follower's log is made a prefix of the leader's.
type SyncMode uint8

// Diff appends only; Trunc removes the follower's entries after TruncTo first; Snap
// replaces its log and state by a snapshot.
const (
	Diff SyncMode = iota + 1
	Trunc
	Snap
)

// Sync begins the stream that brings a follower up to the leader's history.
type Sync struct {
	Mode    SyncMode
	From    Zxid // the follower's last entry, as it said in AckEpoch
	TruncTo Zxid // the last entry that stays; the stream begins after it; of a Snap: the least that it holds
	Commit  Zxid
}

// Propose carries entries to append, in order. Each names its predecessor.
type Propose struct {
	Entries []Entry
	Commit  Zxid // the leader's commit watermark
}

// NewLeader ends the stream: the follower now has the history up to End.
type NewLeader struct{ End Zxid }

// AckNewLeader says that the history up to End and Current = the epoch are durable.
type AckNewLeader struct{ End Zxid }

// UpToDate says that the leader is established, so the follower may deliver and serve.
type UpToDate struct{ Commit Zxid }

// Ack says that the entry Upto and all before it in the leader's order are durable.
type Ack struct{ Upto Zxid }

// Commit moves the watermark: everything up to Upto may be delivered.
type Commit struct{ Upto Zxid }

// Inform carries committed entries to an observer.
type Inform struct{ Entries []Entry }

// Ping is a leader's heartbeat. Seq is the leader's own and grows; reads wait
// for a quorum of Pongs.
type Ping struct {
	Seq    uint64
	Commit Zxid
}

// Pong answers a Ping of the current session.
type Pong struct {
	Seq    uint64
	Stable Zxid
}

// ReadReq asks the leader for a read index. Nonce is never used twice in a session.
type ReadReq struct{ Nonce uint64 }

// ReadResp answers ReadReq: a read of state that includes Index is linearizable.
type ReadResp struct {
	Nonce uint64
	Index Zxid
}

// HandOver says that the leader ends its reign, and who is to lead next.
type HandOver struct{ To NodeID }

func (Ballot) isBody()       {}
func (FollowerInfo) isBody() {}
func (LeaderInfo) isBody()   {}
func (AckEpoch) isBody()     {}
func (Reject) isBody()       {}
func (Sync) isBody()         {}
func (Propose) isBody()      {}
func (NewLeader) isBody()    {}
func (AckNewLeader) isBody() {}
func (UpToDate) isBody()     {}
func (Ack) isBody()          {}
func (Commit) isBody()       {}
func (Inform) isBody()       {}
func (Ping) isBody()         {}
func (Pong) isBody()         {}
func (ReadReq) isBody()      {}
func (ReadResp) isBody()     {}
func (HandOver) isBody()     {}

// better reports whether v is a better candidate than o.
func (v Vote) better(o Vote) bool {
	if v.Leader == 0 || o.Leader == 0 {
		return v.Leader != 0 && o.Leader == 0
	}
	if v.Epoch != o.Epoch {
		return v.Epoch > o.Epoch
	}
	if v.Last != o.Last {
		return o.Last.Less(v.Last)
	}
	return v.Leader > o.Leader
}

// spokenByLeader reports whether a body is one that only leaders send.
func spokenByLeader(b Body) bool {
	switch b.(type) {
	case LeaderInfo, Sync, Propose, NewLeader, UpToDate, Commit, Inform, Ping, ReadResp, HandOver:
		return true
	}
	return false
}
