// SPDX-License-Identifier: Apache-2.0

package threepcworld

import (
	"time"

	"github.com/concordtx/concord/internal/explore"
	"github.com/concordtx/concord/protocol"
	"github.com/concordtx/concord/protocol/threepc"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

// fold is what the table has of the transaction.
type fold struct {
	open    bool
	witness txn.Witness
	decided txn.Txn // if it has a decision
	passed  bool    // by the watermark
}

// foldStep is what a record makes of that.
type foldStep struct {
	next    uint16
	verdict txn.Verdict
	broken  bool
}

func (w *threePC) fold(f fold) uint16 { return number(&w.folds, w.foldAt, f) }

// shelf is the archive of a table of one transaction.
type shelf struct {
	id       txn.ID
	finished *txn.Txn
}

func (s *shelf) Keep(c txn.Changes) {
	if string(s.id[:]) < string(c.PurgeBefore[:]) {
		s.finished = nil
	}
	for i := range c.Finished {
		s.finished = &c.Finished[i]
	}
}

func (s *shelf) Finished(id txn.ID) (txn.Txn, bool) {
	if s.finished == nil || id != s.id {
		return txn.Txn{}, false
	}
	return *s.finished, true
}

// KeyUse implements txn.Archive: no record has a key here.
func (s *shelf) KeyUse(string) (txn.KeyUse, bool) { return txn.KeyUse{}, false }

// apply has the table of the product fold one record.
func (w *threePC) apply(log uint16, record txn.Record) foldStep {
	f := w.folds[log]
	s := &shelf{id: w.id}
	var open []txn.Txn
	var witnesses []txn.Witness
	meta := txn.Meta{Cluster: 1, Level: txn.Newest}
	if f.passed {
		meta.Watermark = time.UnixMilli(2_000)
	}
	switch {
	case f.open:
		witnesses = []txn.Witness{f.witness}
	case f.decided.Decision != txn.Undecided && f.decided.Finished():
		s.finished = &f.decided
	case f.decided.Decision != txn.Undecided:
		open = []txn.Txn{f.decided}
	}
	t := txn.NewTable(meta, open, s, witnesses...)
	c, err := t.Apply(zab.Zxid{Epoch: 1, Counter: 1}, txn.EncodeRecords(nil, record))
	if err != nil {
		panic(err)
	}
	step := foldStep{broken: len(c.Broken) > 0}
	if len(c.Verdicts) > 0 {
		step.verdict = c.Verdicts[0]
	}
	next := fold{passed: !t.Meta().Watermark.IsZero()}
	next.witness, next.open = t.Witness(w.id)
	next.decided, _ = t.Get(w.id)
	step.next = w.fold(next)
	return step
}

// deliver has the log deliver the next record, and tells the leader what is known then.
func (w *threePC) deliver(s *sitting) {
	at := s.records[0]
	copy(s.records[:], s.records[1:])
	s.records[maxRecords-1] = 0
	before := w.folds[s.log]
	step := w.foldOne(s, at)
	f := w.folds[s.log]
	switch {
	case step.broken:
		s.fail(w, "T1: the log has %v, and %v was proven", before.decided.Decision,
			w.records[at].(txn.ProvenRecord).Decision)
	case before.decided.Decision != txn.Undecided && f.decided.Decision != before.decided.Decision && !f.passed:
		s.fail(w, "T3: the log left its decision")
	case before.open && f.open && f.witness.LastElected.Less(before.witness.LastElected):
		s.fail(w, "T3: the witness left its promise")
	}
	s.decided |= 1 << f.decided.Decision &^ 1
	if r, ok := w.records[at].(txn.PreAbortRecord); ok && f.open && f.witness.LastAttempt == r.Election {
		s.tried[1] |= 1 << w.election(r.Election)
		w.accepts(s, theLeader, r.Election)
	}
	if r, ok := w.records[at].(txn.PreCommitRecord); ok && f.open && f.witness.LastAttempt == r.Election {
		s.tried[0] |= 1 << w.election(r.Election)
		w.accepts(s, theLeader, r.Election)
	}
	w.tellLeader(s, step.verdict.TooOld)
	if before.decided.Decision == txn.Undecided && f.decided.Decision != txn.Undecided {
		w.tellAll(s, f.decided.Decision)
		w.newLeader(s)
	}
}

// accepts notes who has durably accepted an election.
func (w *threePC) accepts(s *sitting, member int, e txn.Election) {
	if at := int(w.election(e)); at < len(s.accepted) {
		s.accepted[at] |= 1 << member
	}
}

func (w *threePC) foldOne(s *sitting, at uint16) foldStep {
	key := [2]uint16{s.log, at}
	step, known := w.folded[key]
	if !known {
		step = w.apply(s.log, w.records[at])
		w.folded[key] = step
	}
	s.log = step.next
	return step
}

// tellLeader tells the leader what the table has.
func (w *threePC) tellLeader(s *sitting, tooOld bool) {
	f := w.folds[s.log]
	at := evFixed + evEvery*int(s.log) + 1
	switch {
	case f.decided.Decision != txn.Undecided:
		w.leaderStep(s, at,
			protocol.Delivered{Txn: txn.Txn{Decision: f.decided.Decision, Branches: f.decided.Branches}})
	case f.open:
		w.leaderStep(s, at, threepc.Folded{Witness: f.witness})
	case tooOld:
		w.leaderStep(s, evForgotten, threepc.Forgotten{})
	}
}

// crashLeader replaces the leader by one that knows the log.
func (w *threePC) crashLeader(s *sitting) {
	s.records = [maxRecords]uint16{}
	w.newLeader(s)
}

func (w *threePC) newLeader(s *sitting) {
	f, ended := w.folds[s.log], uint16(explore.Bit(s.ended))
	key := s.log<<1 | ended
	if w.leads[key] == 0 {
		var c *threepc.Coordinator
		switch {
		case f.open:
			c = threepc.Resume(f.witness)
		case f.decided.Decision == txn.Commit && !s.ended:
			c = threepc.ResumeDecided(w.id, f.decided.Branches)
		default:
			c = threepc.NewCoordinator(w.id)
		}
		w.leads[key] = w.leaders.number(c)
	}
	s.leader = w.leads[key]
	switch {
	case f.open, f.decided.Decision == txn.Commit && !s.ended:
	case f.decided.Decision == txn.Undecided:
		return
	default:
		w.tellLeader(s, false)
	}
	w.leaderStep(s, evAsked, w.asked)
}
