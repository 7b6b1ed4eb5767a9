// SPDX-License-Identifier: Apache-2.0

package twopcworld

import (
	"fmt"
	"slices"

	"github.com/concordtx/concord/internal/explore"
	"github.com/concordtx/concord/protocol"
	"github.com/concordtx/concord/protocol/twopc"
	"github.com/concordtx/concord/txn"
)

// Search visits every state of one transaction.
//
// Any resource may vote No. The application may stop waiting, an operator or a time limit
// may ask the leader for a rollback, and an agent may give up a branch, at any time. Every
// process may crash between any two steps: an application that crashed never comes
// back, a leader is followed by one that knows the log, an agent by one that knows what
// its resource lists.
//
// # The network
//
// The network is a set that only grows: any message in it may be delivered at any time, once
// more or never, which is loss, duplication and reordering in one. Tasks and events
// inside one process happen once and are lost when it crashes.
//
// # What is left out without losing anything
//
// An agent that executes a decision asks its resource with every tick, so however often it
// was asked, it may have been asked once more: while an agent lives these tasks, and the
// answers, may be done again and again too.
//
// A step that leaves every process, resource and the log as they are, and only adds
// messages and such tasks, is done at once wherever it is possible (a holder in doubt
// asks again, a leader finishes a branch again). No state is lost by that: a message that is there need
// never be delivered, so whatever can happen without it can happen with it; and the state with
// it was to be visited anyway. Nor does a state gain a way to its end: it could have
// taken these steps itself. Edges count the other steps only. Messages to an application
// that is dead, and proposals to a log that has the decision, have no effect ever after
// and are dropped.
//
// # What must hold
//
//	AC1   log, resources and application agree on the decision, and so does what others hear
//	AC3   commit is decided only while every branch is durably prepared, with its work
//	AC3w  a branch that committed has the work in it
//	HEUR  an end without an alarm means that all committed; an alarm has a cause
//	AC5   every state has a way to one in which nothing is left to do
func Search(size Size, limits explore.Limits) explore.Result {
	return explore.Explore[deal](size.String(), newTwoPC(size, ""), limits)
}

const (
	maxBranches = 4
	nobody      = txn.BranchNo(255)
)

// deal is a state of one transaction and of everybody who takes part.
type deal struct {
	initiator    coreID              // 0 when it died
	coordinator  coreID              // of the leader
	participants [maxBranches]coreID // 0 when sessions hold the branches
	resources    [maxBranches]resource
	decision     txn.Decision // in the log
	recorded     uint8        // set of the branches in the commit record
	ended        bool         // the log has an End record
	alarmed      bool
	told         uint8 // set of outcomes that the application heard
	crashes      uint8 // left
	losses       uint8 // left
	bad          uint8 // a property that was broken on the way here
	tasks        uint64
	net          uint64
}

// mistake is planted in a driver or resource; the empty one is the product.
type mistake string

const (
	yesBeforeDurable   mistake = "a participant says yes before the branch is durable"
	presumeCommit      mistake = "an unknown transaction is presumed committed"
	forgetTombstone    mistake = "an abort record is not kept"
	notFoundIsDone     mistake = "a branch that is not there counts as done"
	decideWithoutVotes mistake = "the first yes is enough"
	prepareTheUnknown  mistake = "an unknown branch is opened and prepared"
	tellBeforeDeliver  mistake = "the decision is told before the log delivered it"
	unknownIsCommit    mistake = "no answer counts as commit"
)

// place is where a message or a task goes.
type place uint8

const (
	toInitiator place = iota
	toCoordinator
	toParticipant
	toResource // by the session or agent that holds the branch
	toTakeover // by the coordinator, through a connection of its own
	toLog
)

// item is a message or a task: what happens to whom.
type item struct {
	to     place
	no     txn.BranchNo    // or nobody
	event  protocol.Event  // for a core
	effect protocol.Effect // for a resource or the log
	at     int             // number of the event
}

// twoPC knows the cores and the items of a world. Numbers are given in the order in which
// things are met, which is the same in every search.
type twoPC struct {
	size    Size
	mistake mistake
	holder  place // who holds the branches

	initiators   remembered[*twopc.Initiator]
	coordinators remembered[*twopc.Coordinator]
	participants remembered[*twopc.Participant]
	idle         coreID // an initiator without branches
	fresh        coreID // a coordinator that has not heard of the transaction
	strangers    [maxBranches]coreID

	events   []protocol.Event
	compared map[protocol.Event]int // numbers of events that can be compared
	listed   map[string]int         // and of the others, by text

	items  []item         // messages, by number in deal.net
	tasks  []item         // by number in deal.tasks
	known  map[string]int // numbers of both, by text
	again  uint64         // tasks that may be done again
	toDead uint64         // messages to the initiator
	toLog  uint64         // proposals
	bads   []string

	renamings []*renaming

	// What is made once and used often: what the log delivers, the leader after a crash, both
	// by the set of recorded branches, and where the word of a resource goes.
	deliveries [1 << maxBranches]item // of a commit, and at 0 of an abort
	bare       item                   // of a commit without branches
	resumed    [1 << maxBranches]coreID
	words      [toLog][maxBranches][saidEnd]uint64 // 0: not known yet
	numbers    struct{ tick, rollback, waitOver, listed, orphan int }
	scratch    []explore.Move
}

func newTwoPC(size Size, m mistake) *twoPC {
	w := &twoPC{
		size: size, mistake: m, bads: []string{""},
		compared: map[protocol.Event]int{}, listed: map[string]int{}, known: map[string]int{},
	}
	if size.Agents {
		w.holder = toParticipant
	}
	if m == "" { // a driver with a mistake may treat branches differently
		w.renamings = renamings(size)
	}
	w.initiators = remember[*twopc.Initiator](w, w.carryOutInitiator)
	w.coordinators = remember[*twopc.Coordinator](w, w.carryOutCoordinator)
	w.participants = remember[*twopc.Participant](w, w.carryOutParticipant)
	w.numbers.tick, w.numbers.rollback = w.number(protocol.Tick{}), w.number(protocol.RollbackAsked{})
	w.numbers.waitOver, w.numbers.listed = w.number(twopc.WaitOver{}), w.number(protocol.Listed{})
	w.numbers.orphan = w.number(protocol.OrphanMet{})
	w.idle = w.initiators.number(new(twopc.Initiator), birth{made: func(*renaming) coreID { return w.idle }})
	w.fresh = w.coordinators.number(new(twopc.Coordinator), birth{made: func(*renaming) coreID { return w.fresh }})
	for n := range maxBranches {
		no := txn.BranchNo(n)
		w.strangers[n] = w.participants.number(twopc.NewParticipant(no),
			birth{made: func(r *renaming) coreID { return w.strangers[r.no(no)] }})
	}
	return w
}

// Start is the moment at which the application has asked to commit.
func (w *twoPC) Start() deal {
	d := deal{initiator: w.idle, coordinator: w.fresh, crashes: uint8(w.size.Crashes), losses: uint8(w.size.Losses)}
	for n := range w.size.Branches {
		no := txn.BranchNo(n)
		d.resources[n] = resource{state: active, work: true, readOnly: n < w.size.ReadOnly}
		w.atInitiator(&d, twopc.Enlisted{No: no})
		if n < w.size.Readers {
			w.atInitiator(&d, twopc.OnlyRead{No: no})
		}
		if w.size.Agents {
			d.participants[n] = w.strangers[n]
			w.atParticipant(&d, no, protocol.Opened{})
		}
	}
	w.atInitiator(&d, twopc.CommitAsked{Recorded: w.size.Recorded, AtDecision: w.size.Early})
	w.saturate(&d)
	return d
}

func (w *twoPC) number(e protocol.Event) int {
	at, known := 0, false
	text := ""
	switch e.(type) {
	case protocol.Asked, protocol.Delivered: // have lists
		text = fmt.Sprintf("%T%v", e, e)
		at, known = w.listed[text]
	default:
		at, known = w.compared[e]
	}
	if known {
		return at
	}
	at = len(w.events)
	w.events = append(w.events, e)
	if text != "" {
		w.listed[text] = at
	} else {
		w.compared[e] = at
	}
	return at
}

// logDelivers tells the leader the decision.
func (w *twoPC) logDelivers(d *deal) {
	i := &w.deliveries[d.recorded]
	if d.recorded == 0 && d.decision == txn.Commit {
		i = &w.bare
	}
	if i.event == nil {
		i.event = protocol.Delivered{Txn: txn.Txn{Decision: d.decision, Branches: d.record()}}
		i.at = w.number(i.event)
	}
	w.coordinatorStep(d, i.at, i.event)
}

// message returns the set of one message.
func (w *twoPC) message(i item) uint64 {
	bit := w.insert("net", &w.items, i)
	switch i.to {
	case toInitiator:
		w.toDead |= bit
	case toLog:
		w.toLog |= bit
	}
	return bit
}

// task returns the set of one task.
func (w *twoPC) task(i item) uint64 {
	bit := w.insert("task", &w.tasks, i)
	_, finish := i.effect.(protocol.Finish)
	_, finished := i.event.(protocol.Finished)
	if w.size.Agents && (finish || finished) {
		w.again |= bit
	}
	return bit
}

func (w *twoPC) insert(kind string, items *[]item, i item) uint64 {
	text := fmt.Sprintf("%s %d/%d %T%v %T%v", kind, i.to, i.no, i.event, i.event, i.effect, i.effect)
	at, known := w.known[text]
	if !known {
		at = len(*items)
		if at == 64 {
			panic("more than 64 different messages or tasks")
		}
		if i.event != nil {
			i.at = w.number(i.event)
		}
		*items, w.known[text] = append(*items, i), at
	}
	return 1 << at
}

// The drivers.

// atInitiator lets an event happen.
func (w *twoPC) atInitiator(d *deal, e protocol.Event) { w.initiatorStep(d, w.number(e), e) }

func (w *twoPC) initiatorStep(d *deal, at int, e protocol.Event) {
	if v, ok := e.(protocol.Voted); ok && w.mistake == decideWithoutVotes && v.Vote == txn.VoteYes {
		d.net |= w.message(item{to: toCoordinator, no: nobody,
			event: protocol.Asked{Branches: []txn.Branch{{No: 0}, {No: 1}}}})
	}
	s := w.initiators.step(d.initiator, nobody, at, e)
	d.initiator = s.next
	d.take(s)
	if w.mistake == unknownIsCommit && s.told == 1<<txn.Unknown {
		w.atInitiator(d, protocol.Decided{Decision: txn.Commit})
	}
}

// take lets the effects of a step have their way.
func (d *deal) take(s *step) {
	d.net |= s.net
	d.tasks |= s.tasks
	d.told |= s.told
	d.alarmed = d.alarmed || s.alarmed
	d.ended = d.ended || s.ended
}

func (w *twoPC) carryOutInitiator(_ txn.BranchNo, _ protocol.Event, s *step) {
	for _, f := range s.effects {
		switch f := f.(type) {
		case protocol.Prepare:
			if w.size.Agents {
				s.net |= w.message(item{to: toParticipant, no: f.No, event: protocol.PrepareAsked{}})
			} else {
				s.tasks |= w.task(item{to: toResource, no: f.No, effect: f})
			}
		case protocol.Finish:
			if w.size.Agents {
				s.net |= w.decided(f.No, f.Decision)
			} else {
				s.tasks |= w.task(item{to: toResource, no: f.No, effect: f})
			}
		case twopc.CommitOnePhase:
			s.tasks |= w.task(item{to: toResource, no: f.No, effect: f})
		case twopc.Ask:
			s.net |= w.message(item{to: toCoordinator, no: nobody, event: protocol.Asked{Branches: f.Branches}})
		case protocol.Report:
			s.net |= w.message(item{to: toCoordinator, no: f.No, event: protocol.Finished(f)})
		case protocol.Reply:
			s.told |= 1 << f.Outcome
		}
	}
}

func (w *twoPC) atCoordinator(d *deal, e protocol.Event) { w.coordinatorStep(d, w.number(e), e) }

func (w *twoPC) coordinatorStep(d *deal, at int, e protocol.Event) {
	s := w.coordinators.step(d.coordinator, nobody, at, e)
	d.coordinator = s.next
	d.take(s)
}

func (w *twoPC) carryOutCoordinator(_ txn.BranchNo, e protocol.Event, s *step) {
	for _, f := range s.effects {
		switch f := f.(type) {
		case protocol.Propose:
			if _, orphan := e.(protocol.OrphanMet); orphan && w.mistake == presumeCommit {
				f.Decision = txn.Commit
			}
			f.Reason = "" // for people
			s.net |= w.message(item{to: toLog, no: nobody, effect: f})
			if w.mistake == tellBeforeDeliver {
				s.net |= w.message(item{to: toInitiator, no: nobody, event: protocol.Decided{Decision: f.Decision}})
			}
		case protocol.Reply:
			s.net |= w.message(item{to: toInitiator, no: nobody,
				event: protocol.Decided{Decision: decisionOf(f.Outcome)}})
		case protocol.Alarm:
			s.alarmed = true
		case protocol.End:
			s.ended = true
		}
	}
}

// decided returns the set of one message: the decision, to the agent of a branch.
func (w *twoPC) decided(no txn.BranchNo, d txn.Decision) uint64 {
	return w.message(item{to: toParticipant, no: no, event: protocol.Decided{Decision: d}})
}

// finishes lets the leader end a branch by the decision: through a connection of its own, or by its agent.
func (w *twoPC) finishes(d *deal, no txn.BranchNo) {
	decision := w.coordinators.cores[d.coordinator].Decision()
	if w.size.Agents {
		d.net |= w.decided(no, decision)
	} else {
		d.net |= w.message(item{to: toTakeover, no: no, effect: protocol.Finish{No: no, Decision: decision}})
	}
}

// meets lets the leader find a prepared branch. One without decision is an orphan.
func (w *twoPC) meets(d *deal, no txn.BranchNo) {
	if w.coordinators.cores[d.coordinator].Decision() == txn.Undecided {
		w.coordinatorStep(d, w.numbers.orphan, protocol.OrphanMet{})
	} else {
		w.finishes(d, no)
	}
}

func decisionOf(o txn.Outcome) txn.Decision {
	if o == txn.Aborted {
		return txn.Abort
	}
	return txn.Commit
}

func (w *twoPC) atParticipant(d *deal, no txn.BranchNo, e protocol.Event) {
	w.participantStep(d, no, w.number(e), e)
}

func (w *twoPC) participantStep(d *deal, no txn.BranchNo, at int, e protocol.Event) {
	if _, ask := e.(protocol.PrepareAsked); ask && w.mistake == prepareTheUnknown &&
		d.participants[no] == w.strangers[no] && d.resources[no].state == nothing {
		d.resources[no].state = active
		w.atParticipant(d, no, protocol.Opened{})
	}
	s := w.participants.step(d.participants[no], no, at, e)
	d.participants[no] = s.next
	d.take(s)
}

func (w *twoPC) carryOutParticipant(no txn.BranchNo, _ protocol.Event, s *step) {
	for _, f := range s.effects {
		switch f := f.(type) {
		case protocol.Prepare:
			s.tasks |= w.task(item{to: toResource, no: no, effect: f})
			if w.mistake == yesBeforeDurable {
				s.tasks |= w.task(item{to: toParticipant, no: no, event: voted(no, txn.VoteYes)})
			}
		case protocol.Finish:
			s.tasks |= w.task(item{to: toResource, no: no, effect: f})
		case protocol.Report: // to whoever asked for it
			s.net |= w.message(item{to: toInitiator, no: no, event: protocol.Finished(f)})
			s.net |= w.message(item{to: toCoordinator, no: no, event: protocol.Finished(f)})
		case protocol.CastVote:
			s.net |= w.message(item{to: toInitiator, no: no,
				event: protocol.Voted{No: no, Vote: f.Vote, Branch: f.Branch}})
		case protocol.Inquire: // the answer comes as scans do
			s.net |= w.message(item{to: toCoordinator, no: nobody, event: protocol.RollbackAsked{}})
		}
	}
}

func voted(no txn.BranchNo, vote txn.Vote) protocol.Voted {
	v := protocol.Voted{No: no, Vote: vote}
	if vote == txn.VoteYes {
		v.Branch = txn.Branch{No: no, Resource: "db"}
	}
	return v
}

// propose lets the first decision win, and checks that a commit is allowed.
func (w *twoPC) propose(d *deal, p protocol.Propose) {
	if d.decision != txn.Undecided {
		return
	}
	if p.Decision == txn.Abort && w.mistake == forgetTombstone {
		w.atCoordinator(d, protocol.Delivered{Txn: txn.Txn{Decision: txn.Abort}})
		d.coordinator = w.fresh // and the next leader finds nothing
		return
	}
	d.decision = p.Decision
	for _, b := range p.Branches {
		d.recorded |= 1 << b.No
	}
	if p.Decision != txn.Commit {
		return
	}
	d.ended = w.size.Recorded && len(p.Branches) == 0 // as the table has it
	for n, r := range d.resources {
		if r.state != unused && !r.readOnly && !r.lost && (r.state != durable || !r.work) {
			d.bad = w.breach("AC3: commit was decided while branch %d was %v, its work %t", n, r.state, r.work)
		}
	}
}

func (w *twoPC) breach(format string, args ...any) uint8 {
	text := fmt.Sprintf(format, args...)
	at := slices.Index(w.bads, text)
	if at < 0 {
		at = len(w.bads)
		w.bads = append(w.bads, text)
	}
	return uint8(at)
}

func (d *deal) record() (branches []txn.Branch) {
	for n := range maxBranches {
		if d.recorded>>n&1 == 1 {
			branches = append(branches, txn.Branch{No: txn.BranchNo(n)})
		}
	}
	return branches
}

// crashLeader replaces the leader by one that knows the log.
func (w *twoPC) crashLeader(d *deal) {
	d.coordinator = w.fresh
	if d.decision == txn.Commit && !d.ended {
		d.coordinator = w.resume(d.record())
	}
}

// resume is the leader of a transaction that the log decided to commit.
func (w *twoPC) resume(record []txn.Branch) coreID {
	set := 0
	for _, b := range record {
		set |= 1 << b.No
	}
	if w.resumed[set] == 0 {
		w.resumed[set] = w.coordinators.number(twopc.Resume(record),
			birth{made: func(r *renaming) coreID { return w.resume(r.list(record)) }})
	}
	return w.resumed[set]
}

func (w *twoPC) crashInitiator(d *deal) {
	d.initiator = 0
	if w.size.Agents {
		return
	}
	d.tasks = 0
	for n := range d.resources {
		d.loseWork(n)
	}
}

func (w *twoPC) crashAgent(d *deal, n int) {
	d.participants[n] = w.strangers[n]
	for at, i := range w.tasks {
		if int(i.no) == n {
			d.tasks &^= 1 << at
		}
	}
	d.loseWork(n)
}

func (d *deal) loseWork(n int) {
	if r := &d.resources[n]; r.state == active {
		r.state, r.work = nothing, false
	}
}

// fingerprint hashes the whole state, which is a few words.
func (d *deal) fingerprint() uint64 {
	h := explore.Mix(0, d.net)
	h = explore.Mix(h, d.tasks)
	h = explore.Mix(h, uint64(d.initiator)|uint64(d.coordinator)<<16|uint64(d.participants[0])<<32|uint64(
		d.participants[1])<<48)
	h = explore.Mix(h, uint64(d.participants[2])|uint64(d.participants[3])<<16|uint64(d.decision)<<32|uint64(
		d.recorded)<<40|uint64(d.told)<<48|uint64(d.bad)<<56)
	word := uint64(d.crashes) | uint64(d.losses)<<8 | explore.Bit(d.ended)<<16 | explore.Bit(d.alarmed)<<17
	for n := range d.resources {
		r := &d.resources[n]
		word |= (uint64(r.state) | explore.Bit(r.work)<<3 | explore.Bit(r.readOnly)<<4 | explore.Bit(
			r.lost)<<5) << (24 + 8*n)
	}
	return explore.Mix(h, word)
}
