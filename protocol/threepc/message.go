// SPDX-License-Identifier: Apache-2.0

package threepc

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/concordtx/concord/txn"
)

// Message is what one member says to another. All of them may be lost, repeated and reordered. Their
// driver adds the cluster, the gid and the journal of the addressee, and drops what is not
// for this one.
type Message interface{ isMessage() }

// CanCommit asks an agent for its vote. Members are all that are asked, and the witness; Epoch is
// the life of the agent that the branches were opened in. Claims are what the application knows of
// the work in them, which the driver of the agent compares with what is there.
type CanCommit struct {
	Members []txn.Party
	Epoch   uint64
	Claims  []txn.Claim
}

// Vote is the vote of an agent for all of its branches on a list of members. Branches are those
// that are prepared, of a Yes.
type Vote struct {
	Vote     txn.Vote
	List     Digest
	Branches []txn.Branch
	Reason   string // of a No
}

// PreCommit asks a member to accept Commit in an election. Members are those who voted Yes, and the
// witness.
type PreCommit struct {
	Election txn.Election
	Members  []txn.Party
}

// PreAbort asks a member to accept Abort in an election.
type PreAbort struct{ Election txn.Election }

// Ack says that a member has accepted Kind in an election.
type Ack struct {
	Election txn.Election
	Kind     txn.Decision
}

// Refused says that a member has promised LastElected and so does nothing for Election.
type Refused struct{ Election, LastElected txn.Election }

// Elect asks a member to promise an election and to answer what it has accepted. List is who the
// candidate takes for the members.
type Elect struct {
	Election txn.Election
	List     List
}

// Answer is the promise of an election: what the member is, and the election in which it became
// that. Short are the members that voted Yes, if it knows them.
type Answer struct {
	Election    txn.Election
	State       State
	LastAttempt txn.Election
	Short       []txn.Party
}

// Decided tells the decision. Whoever decided says it to the witness until it hears the same
// from there.
type Decided struct{ Decision txn.Decision }

// Finished says what finishing a branch found. To the witness.
type Finished struct {
	No     txn.BranchNo
	Finish txn.Finish
}

// Inquire asks the witness what became of the transaction.
type Inquire struct{}

// Underway answers Inquire where there is no decision: votes are missing, or it is open.
// The agent has heard something then; if it is open, it goes on by itself.
type Underway struct{ Open bool }

// NotMember says that its sender knows nothing of the transaction, which is no vote and no
// answer. Election is the one that was asked about.
type NotMember struct{ Election txn.Election }

func (CanCommit) isMessage() {}
func (Vote) isMessage()      {}
func (PreCommit) isMessage() {}
func (PreAbort) isMessage()  {}
func (Ack) isMessage()       {}
func (Refused) isMessage()   {}
func (Elect) isMessage()     {}
func (Answer) isMessage()    {}
func (Decided) isMessage()   {}
func (Finished) isMessage()  {}
func (Inquire) isMessage()   {}
func (Underway) isMessage()  {}
func (NotMember) isMessage() {}

// Digest tells lists of members apart.
type Digest [8]byte

// digest is that of the members' ids: where one is found may change.
func digest(members []txn.Party) (d Digest) {
	h := sha256.New()
	for _, m := range members {
		h.Write(binary.AppendUvarint(nil, uint64(len(m.Agent))))
		h.Write([]byte(m.Agent))
		h.Write(m.Journal[:])
	}
	copy(d[:], h.Sum(nil))
	return d
}

// attempt asks to accept a decision.
func attempt(e txn.Election, kind txn.Decision, members []txn.Party) Message {
	if kind == txn.Commit {
		return PreCommit{Election: e, Members: members}
	}
	return PreAbort{Election: e}
}
