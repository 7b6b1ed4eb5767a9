// SPDX-License-Identifier: Apache-2.0

package lastworld

import (
	"fmt"
	"math/bits"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/internal/explore"
	"github.com/concordtx/concord/protocol"
	"github.com/concordtx/concord/protocol/twopc"
	"github.com/concordtx/concord/recovery"
	"github.com/concordtx/concord/txn"
)

// The moves: a kind, and the number of what it is about.
const (
	doTask     explore.Move = iota << 8
	doTaskNo                // the database says No, or L refuses to commit
	doTaskLost              // L's answer is lost: its commit has come, or may yet come; or it cannot be reached
	deliverIt
	logDelivers
	leaderTicks
	scanFinds // a prepared branch that nobody speaks for
	sweepFinds
	workerFinishes
	answerComes
	waitEnds
	landing // a commit of L of which the client has lost the answer
	losing  // and that will not come any more
	rest    // of a commit whose marker went ahead
	clientCrashes
	leaderCrashes

	kindMask explore.Move = 0xff << 8
)

// Moves lists what can happen.
func (w *world) Moves(d *deal, moves []explore.Move) []explore.Move {
	for tasks := d.tasks; tasks != 0; tasks &= tasks - 1 {
		at := explore.Move(bits.TrailingZeros64(tasks))
		moves = append(moves, doTask|at)
		switch w.tasks[at].effect.(type) {
		case protocol.Prepare:
			moves = append(moves, doTaskNo|at)
		case twopc.CommitLast:
			moves = append(moves, doTaskNo|at)
			if d.breaks > 0 {
				moves = append(moves, doTaskLost|at)
			}
		case twopc.Settle:
			if d.breaks > 0 {
				moves = append(moves, doTaskLost|at)
			}
		}
	}
	for net := d.net; net != 0; net &= net - 1 {
		moves = append(moves, deliverIt|explore.Move(bits.TrailingZeros64(net)))
	}
	if d.decision != txn.Undecided {
		moves = append(moves, logDelivers)
		if d.client != 0 {
			moves = append(moves, answerComes)
		}
	}
	moves = append(moves, leaderTicks, sweepFinds)
	for n, s := range d.others {
		at := explore.Move(n + 1)
		if s == prepared {
			moves = append(moves, scanFinds|at)
		}
		if d.decision != txn.Undecided && s != aborted {
			moves = append(moves, workerFinishes|at)
		}
	}
	if d.l == flying {
		moves = append(moves, landing, losing)
	}
	if d.apart {
		moves = append(moves, rest)
	}
	if d.client != 0 {
		moves = append(moves, waitEnds)
	}
	if d.crashes > 0 {
		if d.client != 0 {
			moves = append(moves, clientCrashes)
		}
		moves = append(moves, leaderCrashes)
	}
	return moves
}

// Do makes a move.
func (w *world) Do(d *deal, m explore.Move) {
	n := int(m &^ kindMask)
	switch m & kindMask {
	case doTask, doTaskNo, doTaskLost:
		d.tasks &^= 1 << n
		if t := w.tasks[n]; t.leader {
			w.doForLeader(d, t.effect, m&kindMask == doTaskLost)
		} else if d.client != 0 {
			w.doForClient(d, t.effect, m&kindMask)
		}
	case deliverIt:
		w.atLeader(d, w.items[n].event)
	case logDelivers:
		w.atLeader(d, protocol.Delivered{Txn: txn.Txn{Decision: d.decision, Branches: branchesOf(d.listed)}})
	case answerComes:
		w.answer(d)
	case leaderTicks:
		w.atLeader(d, protocol.RollbackAsked{})
	case scanFinds:
		if d.decision == txn.Undecided {
			w.atLeader(d, protocol.OrphanMet{})
		}
	case sweepFinds:
		w.sweep(d)
	case workerFinishes:
		w.work(d, txn.BranchNo(n))
	case waitEnds:
		w.atClient(d, twopc.WaitOver{})
	case landing:
		w.commitAtL(d, toCommit)
	case losing:
		d.l = aborted
	case rest:
		d.apart, d.l = false, committed
	case clientCrashes:
		d.crashes--
		w.crashClient(d)
	case leaderCrashes:
		d.crashes--
		d.leader = w.fresh
		if d.decision == txn.Commit && !d.ended {
			d.leader = w.number(twopc.ResumeLast(branchesOf(d.listed)))
		}
	}
}

// crashClient takes the sessions with it: what is not prepared is rolled back, and a commit of L on its way may come.
func (w *world) crashClient(d *deal) {
	for tasks := d.tasks; tasks != 0; tasks &= tasks - 1 {
		at := bits.TrailingZeros64(tasks)
		if w.tasks[at].leader {
			continue
		}
		d.tasks &^= 1 << at
		if _, decides := w.tasks[at].effect.(twopc.CommitLast); decides && d.l == active {
			d.l = flying
		}
	}
	d.client = 0
	for n := range d.others {
		if d.others[n] == active {
			d.others[n] = aborted
		}
	}
	if d.l == active {
		d.l = aborted
	}
}

// doForClient does what the client wants of a database.
func (w *world) doForClient(d *deal, f protocol.Effect, how explore.Move) {
	switch f := f.(type) {
	case protocol.Prepare:
		s := &d.others[f.No-1]
		if how == doTaskNo || *s != active {
			*s = aborted
			w.atClient(d, protocol.Voted{No: f.No, Vote: txn.VoteNo})
			return
		}
		*s = prepared
		w.atClient(d, protocol.Voted{No: f.No, Vote: txn.VoteYes, Branch: branchOf(f.No)})
	case twopc.CommitLast:
		m := toCommit
		if len(f.Branches) == 0 {
			m = toCommit0
		}
		switch {
		case how == doTaskLost:
			d.breaks--
			d.l = flying
			w.atClient(d, twopc.OnePhaseDone{Outcome: txn.Unknown})
		case how == doTaskNo || !w.commitAtL(d, m):
			d.l = aborted
			w.atClient(d, twopc.OnePhaseDone{Outcome: txn.Aborted})
		default:
			w.atClient(d, twopc.OnePhaseDone{Outcome: txn.Committed})
		}
	case protocol.Finish:
		if f.No == last {
			if d.l == active {
				d.l = aborted
			}
			w.atClient(d, protocol.Finished{No: f.No, Finish: txn.Done})
			return
		}
		w.atClient(d, protocol.Finished{No: f.No, Finish: finish(&d.others[f.No-1], f.Decision, true)})
	}
}

// finish ends a branch. Only its session ends one that is not prepared.
func finish(s *branchState, decision txn.Decision, session bool) txn.Finish {
	end, other := committed, aborted
	if decision == txn.Abort {
		end, other = aborted, committed
	}
	switch {
	case *s == prepared, *s == active && session && decision == txn.Abort:
		*s = end
		return txn.Done
	case *s == other:
		return txn.Contradicted
	}
	return txn.AlreadyDone
}

// doForLeader does what a leader wants of the log or of L; it may have lost its office meanwhile.
func (w *world) doForLeader(d *deal, f protocol.Effect, lost bool) {
	switch f := f.(type) {
	case protocol.Propose:
		if d.decision == txn.Undecided {
			d.decision, d.listed = f.Decision, setOf(f.Branches)
			d.ended = f.Decision == txn.Commit && d.listed == 0
		}
	case twopc.Settle:
		if lost {
			d.breaks--
			w.atLeader(d, twopc.SettleFailed{})
			return
		}
		m, err := adapters.SettleMarker(func(string) (bool, error) {
			if d.marker != none {
				return false, nil
			}
			d.marker, d.doomed = toAbort, true
			return true, nil
		}, func() (string, bool, error) { return w.text(d.marker), d.marker != none, nil })
		if err != nil {
			w.atLeader(d, twopc.SettleFailed{})
			return
		}
		w.atLeader(d, twopc.MarkerFound{Marker: m})
	}
}

func (w *world) text(m marker) string {
	switch m {
	case toCommit:
		return txn.LastMarker{Decision: txn.Commit, Branches: branchesOf(1<<(w.size.Others+1) - 2)}.Text()
	case toCommit0:
		return txn.LastMarker{Decision: txn.Commit}.Text()
	}
	return txn.LastMarker{Decision: txn.Abort}.Text()
}

// work is that of a worker of the leader on a branch.
func (w *world) work(d *deal, no txn.BranchNo) {
	s := &d.others[no-1]
	switch {
	case d.decision == txn.Abort:
		if *s == prepared {
			*s = aborted
		} else if *s == committed {
			d.alarmed = true
		}
	case d.listed>>no&1 == 1:
		w.atLeader(d, protocol.Finished{No: no, Finish: finish(s, txn.Commit, false)})
	}
}

// sweep removes the marker if nobody needs it any more, and settles a commit that the log does not know.
func (w *world) sweep(d *deal) {
	if d.marker == none {
		return
	}
	if d.decision == txn.Undecided {
		w.atLeader(d, protocol.OrphanMet{})
		return
	}
	x := txn.LastXID(1, txn.ID{}.WithClass(txn.LastResource))
	if len(recovery.Spent([]txn.XID{x}, known{d}, recovery.Rules{Cluster: 1, LastResource: true})) > 0 {
		d.marker = none
	}
}

// known is the log of a deal, as recovery sees it.
type known struct{ d *deal }

func (k known) Get(id txn.ID) (txn.Txn, bool) {
	x := txn.Txn{ID: id, Decision: k.d.decision, Ended: k.d.ended || k.d.decision == txn.Abort, Seen: true}
	return x, k.d.decision != txn.Undecided
}

func (known) TooOld(txn.ID) bool                 { return false }
func (known) Witness(txn.ID) (txn.Witness, bool) { return txn.Witness{}, false }
func (known) LeaseEnded(txn.Lease) bool          { return false }

// tell says what a move is.
func (w *world) tell(d *deal, m explore.Move) string {
	n := int(m &^ kindMask)
	switch m & kindMask {
	case doTask:
		return fmt.Sprintf("done: %T%+v", w.tasks[n].effect, w.tasks[n].effect)
	case doTaskNo:
		return fmt.Sprintf("refused: %T%+v", w.tasks[n].effect, w.tasks[n].effect)
	case doTaskLost:
		return fmt.Sprintf("no answer: %T%+v", w.tasks[n].effect, w.tasks[n].effect)
	case deliverIt:
		return fmt.Sprintf("the leader hears %T%+v", w.items[n].event, w.items[n].event)
	}
	return [...]string{logDelivers >> 8: "the log delivers", leaderTicks >> 8: "somebody asks for the outcome",
		scanFinds >> 8: "a scan finds a branch", sweepFinds >> 8: "the sweep meets the marker",
		workerFinishes >> 8: "a worker finishes a branch", answerComes >> 8: "the client hears the decision",
		waitEnds >> 8: "the client waits no longer", landing >> 8: "L's commit comes late",
		losing >> 8: "L's commit will not come", rest >> 8: "the work follows its marker",
		clientCrashes >> 8: "the client dies", leaderCrashes >> 8: "the leader dies"}[m>>8]
}
