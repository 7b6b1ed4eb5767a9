// SPDX-License-Identifier: Apache-2.0

package twopcworld

import (
	"github.com/concordtx/concord/protocol"
	"github.com/concordtx/concord/protocol/twopc"
	"github.com/concordtx/concord/txn"
)

// resource is what one database knows of its branch.
type resource struct {
	state    resourceState
	work     bool // the application's work is in it
	readOnly bool
	lost     bool // by the nemesis
}

type resourceState uint8

const (
	unused  resourceState = iota // the branch has never been enlisted
	nothing                      // not there
	active
	durable
	committed
	aborted
)

func (s resourceState) String() string {
	return [...]string{"unused", "gone", "active", "prepared", "committed", "aborted"}[s]
}

// said is the word of a resource: a vote, or beyond votes what finishing found, or how one
// phase ended.
type said uint8

// Where they begin, and where all end.
const (
	finishes  said = 3
	onePhases said = 8
	saidEnd   said = 11
)

func (s said) event(no txn.BranchNo) protocol.Event {
	switch {
	case s < finishes:
		return voted(no, txn.Vote(s))
	case s >= onePhases:
		return twopc.OnePhaseDone{Outcome: txn.Outcome(s - onePhases)}
	}
	return protocol.Finished{No: no, Finish: txn.Finish(s - finishes)}
}

// prepare lets a resource vote.
func (r *resource) prepare(vote txn.Vote) said {
	switch {
	case r.state != active:
		return said(txn.VoteNo)
	case r.readOnly:
		r.state = nothing
		return said(txn.VoteReadOnly)
	case vote == txn.VoteNo:
		r.state = aborted
		return said(txn.VoteNo)
	}
	r.state = durable
	return said(txn.VoteYes)
}

// commitAlone commits a branch in one phase, or refuses to.
func (r *resource) commitAlone(vote txn.Vote) said {
	if r.state != active || vote == txn.VoteNo {
		r.state = aborted
		return onePhases + said(txn.Aborted)
	}
	r.state = committed
	return onePhases + said(txn.Committed)
}

// finish ends a branch, if it is there. Only its session or agent ends one that is not
// prepared.
func (r *resource) finish(d txn.Decision, takeover bool, m mistake) said {
	found := txn.AlreadyDone
	switch {
	case r.state == durable && d == txn.Commit:
		r.state, found = committed, txn.Done
	case r.state == durable || r.state == active && d == txn.Abort && !takeover:
		r.state, found = aborted, txn.Done
	case r.state == committed && d == txn.Abort, r.state == aborted && d == txn.Commit && !r.lost:
		found = txn.Contradicted
	case r.state != committed && d == txn.Commit:
		found = txn.Lost
		if m == notFoundIsDone {
			found = txn.Done
		}
	}
	return finishes + said(found)
}
