// SPDX-License-Identifier: Apache-2.0

package twopc

import (
	"fmt"
	"slices"
	"strings"

	"github.com/concordtx/concord/internal/mutant"
	"github.com/concordtx/concord/protocol"
	"github.com/concordtx/concord/txn"
)

// Initiator drives one global transaction at whoever holds the sessions of its
// branches. The zero value is a transaction without branches.
//
// Invariants:
//  1. Ask is sent at most once, and only when no branch voted No; and one voted Yes, unless
//     the decision is to be recorded in any case.
//  2. A branch that voted Yes is finished only by a No of another branch before Ask,
//     or by the decision after it.
//  3. Reply is sent exactly once, and when it says Committed every branch that wrote
//     is decided to commit.
//  4. CommitOnePhase is sent only for the last branch that has not ended, when all others are known
//     to have read only.
//  5. CommitLast is sent only when all branches but the last one have voted and none No, and from then on only the
//     word of the last resource decides, or of the cluster that has asked it.
//  6. It is over only when every branch of an abort is known to have left nothing. A No
//     proves nothing: the connection may have broken behind the prepare.
type Initiator struct {
	phase    initiatorPhase
	branches []held // in order of No
	decision txn.Decision
	reason   string
	recorded bool // the cluster decides, however many branches there are
	deferred bool // the branch last decides, as that of a last resource
	last     txn.BranchNo
	early    bool // the application hears of a commit when it is decided
	late     bool // the application waits no longer
	asked    bool // the cluster was
	told     bool // the cluster was, that the transaction is aborted
	blamed   bool
	blame    txn.BranchNo
	replied  bool
}

// commitTries bounds how often a branch is committed by whoever prepared it. The cluster,
// which knows the decision, has its turn then.
const commitTries = 5

type initiatorPhase uint8

const (
	working   initiatorPhase = iota // branches may be enlisted
	reading                         // waiting for votes, of all branches but the one that wrote
	preparing                       // waiting for votes
	onePhase                        // waiting for the only branch that wrote
	deciding                        // waiting for the last resource
	asking                          // waiting for the decision
	doubting                        // as asking, and the application was told so
	finishing                       // waiting for branches to finish
	over
)

// held is a branch and how far it is.
type held struct {
	no     txn.BranchNo
	read   bool // only, as far as its session knows
	state  branchState
	branch txn.Branch // once it voted Yes
	failed int        // attempts to commit it
}

type branchState uint8

const (
	open      branchState = iota // may hold work
	waiting                      // Prepare was asked for, and its session is busy
	prepared                     // voted Yes
	refused                      // voted No
	ended                        // nothing is left to do here: voted ReadOnly, or finished
	ending                       // Finish was asked for
	lingering                    // as ending, after it had failed; nobody waits for it
)

// Step handles one event.
func (i *Initiator) Step(e protocol.Event) []protocol.Effect {
	switch e := e.(type) {
	case Enlisted:
		i.enlist(e.No)
	case OnlyRead:
		if b := i.find(e.No); b != nil && i.phase == working {
			b.read = true
		}
	case CommitAsked:
		if i.phase == working {
			i.recorded, i.deferred, i.last, i.early = e.Recorded, e.Deferred, e.Last, e.AtDecision
			return i.commit()
		}
	case protocol.RollbackAsked:
		if i.phase == working {
			i.reason = e.Reason
			return i.conclude(txn.Abort)
		}
	case OnePhaseDone:
		if i.phase == deciding {
			return i.lastDone(e)
		}
		if i.phase == onePhase {
			b := i.remaining()
			b.state = ended
			i.phase = over
			i.reason = e.Reason
			i.blamed, i.blame = e.Outcome != txn.Committed, b.no
			return i.reply(e.Outcome)
		}
	case protocol.Voted:
		if b := i.find(e.No); b != nil && b.state == waiting {
			return i.vote(b, e)
		}
	case protocol.Decided:
		if (i.phase == asking || i.phase == doubting) && e.Decision != txn.Undecided {
			i.reason = e.Reason
			return i.conclude(e.Decision)
		}
	case NotAsked: // of a last resource that says nothing: it may have committed
		if !i.deferred && (i.phase == asking || i.phase == doubting) {
			i.reason, i.asked = e.Reason, false
			return i.conclude(txn.Abort)
		}
	case WaitOver:
		return i.waitOver(e.Reason)
	case protocol.Finished:
		return i.finished(e.No, e.Finish)
	case protocol.FinishFailed:
		return i.finishFailed(e.No)
	}
	return nil
}

func (i *Initiator) enlist(no txn.BranchNo) {
	if i.phase != working && !mutant.LateEnlist || i.find(no) != nil {
		return
	}
	i.branches = append(i.branches, held{no: no})
	slices.SortFunc(i.branches, func(a, b held) int { return int(a.no) - int(b.no) })
}

// commit chooses the way: nothing, one phase or two.
func (i *Initiator) commit() []protocol.Effect {
	switch {
	case i.recorded:
	case len(i.branches) == 0:
		return i.conclude(txn.Commit)
	case len(i.branches) == 1:
		return i.commitAlone()
	case i.deferred:
		i.phase = preparing
		return i.prepare(func(b *held) bool { return b.no != i.last })
	case i.writers() == 1:
		i.phase = reading
		return i.prepare(func(b *held) bool { return b.read })
	}
	i.phase = preparing
	if len(i.branches) == 0 {
		return i.count()
	}
	return i.prepare(func(*held) bool { return true })
}

// writers counts the branches that may have written, as far as their sessions know.
func (i *Initiator) writers() (n int) {
	for _, b := range i.branches {
		if !b.read {
			n++
		}
	}
	return n
}

// prepare asks for the votes of some branches.
func (i *Initiator) prepare(chosen func(*held) bool) (effects []protocol.Effect) {
	for n := range i.branches {
		if b := &i.branches[n]; chosen(b) {
			b.state = waiting
			effects = append(effects, protocol.Prepare{No: b.no})
		}
	}
	return effects
}

// commitAlone commits the only branch that has not ended.
func (i *Initiator) commitAlone() []protocol.Effect {
	i.phase = onePhase
	return []protocol.Effect{CommitOnePhase{No: i.remaining().no}}
}

// remaining is the only branch that has not ended.
func (i *Initiator) remaining() *held {
	return &i.branches[slices.IndexFunc(i.branches, func(b held) bool { return b.state != ended })]
}

// vote counts a vote. One that comes when the transaction is aborted already ends its branch.
func (i *Initiator) vote(b *held, v protocol.Voted) []protocol.Effect {
	switch v.Vote {
	case txn.VoteYes:
		b.state, b.branch = prepared, v.Branch
	case txn.VoteReadOnly:
		b.state = ended
	default: // whatever is not a Yes is a No
		b.state = refused
		if !i.blamed {
			i.blamed, i.blame, i.reason = true, b.no, v.Reason
		}
	}
	if i.phase == finishing {
		return i.conclude(txn.Abort)
	}
	return i.count()
}

// count goes on once every branch has voted, and with the first No: nobody's locks wait for a vote that
// changes nothing.
func (i *Initiator) count() []protocol.Effect {
	if i.blamed {
		return i.conclude(txn.Abort)
	}
	var yes []txn.Branch
	missing := 0
	for _, b := range i.branches {
		switch b.state {
		case waiting:
			missing++
		case prepared:
			yes = append(yes, b.branch)
		}
	}
	switch {
	case missing > 0 && (!mutant.CommitOnMajority || 2*missing >= len(i.branches)):
		return nil
	case len(yes) == 0 && (i.phase == reading || i.deferred):
		return i.commitAlone()
	case i.deferred:
		return i.commitLast(yes)
	case i.phase == reading: // somebody wrote without knowing it
		i.phase = preparing
		return i.prepare(func(b *held) bool { return b.state == open })
	case len(yes) == 0 && !i.recorded:
		return i.conclude(txn.Commit)
	}
	i.phase, i.asked = asking, true
	return []protocol.Effect{Ask{Branches: yes}}
}

// commitLast has the last resource decide. Its marker has everything that somebody else needs to finish the others.
func (i *Initiator) commitLast(yes []txn.Branch) []protocol.Effect {
	i.phase = deciding
	i.find(i.last).state = ended // whatever comes of it
	if mutant.MarkerWithoutBranches {
		yes = nil
	}
	return []protocol.Effect{CommitLast{No: i.last, Branches: yes}}
}

// lastDone takes the word of the last resource. Where it has none, the cluster is asked, which asks it.
func (i *Initiator) lastDone(e OnePhaseDone) []protocol.Effect {
	switch e.Outcome {
	case txn.Committed:
		var yes []txn.Branch
		for _, b := range i.branches {
			if b.state == prepared {
				yes = append(yes, b.branch)
			}
		}
		return append([]protocol.Effect{TellCommitted{Branches: yes}}, i.conclude(txn.Commit)...)
	case txn.Aborted:
		i.blamed, i.blame, i.reason = true, i.last, e.Reason
		return i.conclude(txn.Abort)
	}
	i.phase, i.asked, i.reason = asking, true, e.Reason
	effects := []protocol.Effect{Ask{}}
	if i.late {
		effects = append(effects, i.waitOver(e.Reason)...)
	}
	return effects
}

// conclude ends every branch that is left, but for those whose session is busy: their votes are waited for. A
// decision to commit is told to the application after its branches were finished, so that it reads its own
// writes, unless it wants to hear of it at once; an abort when each was tried, however long it takes: only then it is
// known whether the application's own SQL has torn one.
func (i *Initiator) conclude(d txn.Decision) []protocol.Effect {
	i.decision = d
	i.phase = finishing
	var effects []protocol.Effect
	for n := range i.branches {
		switch b := &i.branches[n]; b.state {
		case open, prepared, refused:
			b.state = ending
			effects = append(effects, protocol.Finish{No: b.no, Decision: d})
		}
	}
	if d == txn.Commit && i.early {
		effects = append(effects, i.reply(txn.Committed)...)
	}
	return append(effects, i.settle()...)
}

// finished marks a branch. Only a branch of a decided commit is reported: nobody waits
// for the others. A second attempt reports nothing bad: the cluster may have finished the
// branch in the meantime, and have removed the evidence.
func (i *Initiator) finished(no txn.BranchNo, f txn.Finish) []protocol.Effect {
	b := i.find(no)
	if b == nil || !b.finishing() {
		return nil
	}
	good := f == txn.Done || f == txn.AlreadyDone
	var effects []protocol.Effect
	if i.decision == txn.Commit && (good || b.state == ending) {
		effects = append(effects, protocol.Report{No: no, Finish: f})
	}
	b.state = ended
	return append(effects, i.settle()...)
}

// finishFailed tries again. The cluster knows of a commit and of an abort that it decided
// itself; another abort it has to be told.
func (i *Initiator) finishFailed(no txn.BranchNo) []protocol.Effect {
	b := i.find(no)
	if b == nil || !b.finishing() {
		return nil
	}
	b.state = lingering
	var effects []protocol.Effect
	if i.decision == txn.Commit {
		b.failed++
	} else if !i.asked && !i.told {
		i.told = true
		effects = append(effects, TellAborted{})
	}
	if b.failed < commitTries {
		effects = append(effects, protocol.Finish{No: no, Decision: i.decision, Again: true})
	} else {
		b.state = ended
	}
	return append(effects, i.settle()...)
}

func (b *held) finishing() bool { return b.state == ending || b.state == lingering }

// waitOver tells the application what is known now. The branches are ended in any case.
func (i *Initiator) waitOver(reason string) []protocol.Effect {
	switch {
	case i.phase == reading, i.phase == preparing: // the cluster has not been asked, and will not be
		i.reason = reason
		return i.conclude(txn.Abort)
	case i.phase == deciding:
		i.late = true
	case i.phase == asking && mutant.RollbackAfterYes:
		return i.conclude(txn.Abort)
	case i.phase == asking:
		i.phase = doubting
		i.reason = reason
		return i.reply(txn.Unknown)
	case i.phase == finishing && i.decision == txn.Commit:
		return i.reply(txn.Committed)
	}
	return nil
}

// settle replies when every branch was tried once, and ends when none is left.
func (i *Initiator) settle() []protocol.Effect {
	left := false
	for n := range i.branches {
		switch b := &i.branches[n]; b.state {
		case waiting, ending:
			return nil
		case lingering:
			left = true
		}
	}
	if !left {
		i.phase = over
	}
	return i.reply(outcome(i.decision))
}

func outcome(d txn.Decision) txn.Outcome {
	switch d {
	case txn.Commit:
		return txn.Committed
	case txn.Abort:
		return txn.Aborted
	}
	return txn.Unknown
}

func (i *Initiator) reply(o txn.Outcome) []protocol.Effect {
	if i.replied {
		return nil
	}
	i.replied = true
	return []protocol.Effect{protocol.Reply{Outcome: o, Reason: i.reason, By: i.blamed, Branch: i.blame}}
}

// Over reports whether nothing is left to do.
func (i *Initiator) Over() bool { return i.phase == over }

func (i *Initiator) find(no txn.BranchNo) *held {
	for n := range i.branches {
		if i.branches[n].no == no {
			return &i.branches[n]
		}
	}
	return nil
}

// Clone returns an independent copy.
func (i *Initiator) Clone() *Initiator {
	c := *i
	c.branches = slices.Clone(i.branches)
	return &c
}

// String prints the whole state in one line.
func (i *Initiator) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "initiator %v %v", i.phase, i.decision)
	for _, h := range i.branches {
		fmt.Fprintf(&b, " %d:%v", h.no, h.state)
		if h.read {
			b.WriteString(" (read)")
		}
	}
	if i.recorded {
		b.WriteString(" recorded")
	}
	if i.deferred {
		fmt.Fprintf(&b, " last %d", i.last)
	}
	if i.early {
		b.WriteString(" early")
	}
	if i.late {
		b.WriteString(" late")
	}
	if i.told {
		b.WriteString(" told")
	}
	if i.replied {
		b.WriteString(" replied")
	}
	return b.String()
}

func (p initiatorPhase) String() string {
	return [...]string{"working", "reading", "preparing", "one-phase", "deciding", "asking", "doubting",
		"finishing", "over"}[p]
}

func (s branchState) String() string {
	return [...]string{"open", "waiting", "prepared", "refused", "ended", "ending", "lingering"}[s]
}
