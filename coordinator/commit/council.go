// SPDX-License-Identifier: Apache-2.0

package commit

import (
	"container/heap"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/protocol"
	"github.com/concordtx/concord/protocol/threepc"
	"github.com/concordtx/concord/txn"
)

const (
	// voteTime is how long votes are collected at most.
	voteTime = 10 * time.Second
	// askAgain is how often members are asked again for what is missing.
	askAgain = time.Second
	// answerTime is how long a candidate waits for answers.
	answerTime = time.Second
	// electAfter is how long the first attempt may take before the leader begins an election; each
	// further one comes after twice the time, up to electMost, and up to half as much again.
	electAfter = 5 * time.Second
	electMost  = 30 * time.Second
)

// council is what a three-phase transaction in hand has beside its core: where its members are
// found, and when they are asked again. Nothing that is safe depends on its times. A zero time is
// never.
type council struct {
	core      *threepc.Coordinator // the core of its live
	addrs     map[txn.PartyID]string
	lives     []txn.AgentRecord // whose votes were asked for
	voteBy    time.Time         // what has not voted by then counts as No
	again     time.Time
	elect     time.Time
	elections int          // that were due
	run       txn.Election // in which the cluster is a candidate
	answerBy  time.Time    // of that
	missing   []string     // who did not answer the last election, which was blocked

	next time.Time // when it is woken: the earliest of the above
}

// seat notes where members are found.
func (p *council) seat(members []txn.Party) {
	for _, m := range members {
		if !m.IsWitness() && m.Addr != "" {
			p.addrs[m.PartyID] = m.Addr
		}
	}
}

// pause is how long to wait for the next election.
func (p *council) pause(id txn.ID) time.Duration {
	p.elections++
	return threepc.Pause(electAfter, electMost, p.elections-1, id, txn.PartyID{})
}

// schedule has the council woken when the next of its times has come.
func (c *Machine) schedule(l *live) {
	p, now := l.council, c.core.Now()
	if c.live[l.id] != l {
		return
	}
	if p.core.Decision() != txn.Undecided { // its agents ask by themselves, and the workers do the rest
		p.next = time.Time{}
		return
	}
	switch e, waiting := p.core.Running(); {
	case !waiting:
		p.run, p.answerBy = txn.Election{}, time.Time{}
	case e != p.run:
		p.run, p.answerBy = e, now.Add(answerTime)
	}
	var next time.Time
	for _, at := range []time.Time{p.voteBy, p.again, p.elect, p.answerBy} {
		if !at.IsZero() && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	if next.IsZero() || next.Equal(p.next) {
		p.next = next
		return
	}
	p.next = next
	heap.Push(&c.wakes, wake{next, l.id})
}

// wakeCouncils tells councils that their time has come, a piece in a turn.
func (c *Machine) wakeCouncils() {
	for left := c.core.Piece(); left > 0 && c.councilsDue(); left-- {
		w := heap.Pop(&c.wakes).(wake)
		if l := c.live[w.id]; l != nil && l.council != nil && l.council.next.Equal(w.at) {
			c.core.Spend(1)
			c.wake(l)
		}
	}
}

func (c *Machine) councilsDue() bool {
	return len(c.wakes) > 0 && !c.core.Now().Before(c.wakes[0].at)
}

func (c *Machine) wake(l *live) {
	p, now := l.council, c.core.Now()
	due := func(at time.Time) bool { return !at.IsZero() && !now.Before(at) }
	var events []protocol.Event
	if due(p.voteBy) {
		p.voteBy = time.Time{}
		events = append(events, protocol.RollbackAsked{Reason: fmt.Sprintf("not all agents voted within %v", voteTime)})
	}
	if due(p.again) {
		p.again = now.Add(askAgain)
		events = append(events, protocol.Tick{})
	}
	if due(p.answerBy) {
		p.answerBy = now.Add(answerTime)
		events = append(events, threepc.TimeUp{})
	}
	if due(p.elect) {
		p.elect = now.Add(p.pause(l.id))
		events = append(events, threepc.ElectionDue{})
	}
	p.next = time.Time{}
	for _, e := range events {
		if c.live[l.id] == l {
			c.carry(l, l.core.Step(e))
		}
	}
	if c.live[l.id] == l {
		c.schedule(l)
	}
}

// wake is when a council is to be told the time.
type wake struct {
	at time.Time
	id txn.ID
}

// wakes is a heap, the earliest first. A wake that is not the next of its council is stale.
type wakes []wake

func (w wakes) Len() int { return len(w) }
func (w wakes) Less(i, j int) bool {
	return w[i].at.Before(w[j].at) || w[i].at.Equal(w[j].at) && w[i].id.Compare(w[j].id) < 0
}
func (w wakes) Swap(i, j int) { w[i], w[j] = w[j], w[i] }

// Push implements heap.Interface.
func (w *wakes) Push(x any) { *w = append(*w, x.(wake)) }

// Pop implements heap.Interface.
func (w *wakes) Pop() any {
	last := len(*w) - 1
	x := (*w)[last]
	*w = (*w)[:last]
	return x
}

// Said is a message of a member of a three-phase transaction. It may be lost.
type Said struct {
	ID      txn.ID
	From    txn.Party
	Message threepc.Message
}

func (Said) IsEvent() {}

// Letter is a message of the cluster to a member of a three-phase transaction. It may be lost.
type Letter struct {
	ID      txn.ID
	To      txn.Party
	Message threepc.Message
}

// onSaid hears a member. Of what is decided or forgotten it is told so at once, by a core that
// lives for that long; anything else is stepped by the transaction in hand, which begins with a
// message that matters.
func (c *Machine) onSaid(e Said) {
	if c.core.Ready() != nil || e.ID.Class() != txn.ThreePhase || !c.decides(e.ID.Class()) || e.From.IsWitness() {
		return
	}
	if f, ok := e.Message.(threepc.Finished); ok {
		c.onFinished(Finished{XID: c.xid(e.ID, f.No), Finish: f.Finish, By: txn.FromClient,
			Who: "agent " + e.From.Agent, Why: "reported by the agent that holds the branch"})
		return
	}
	l := c.inHand(e.ID)
	if l == nil {
		if c.answerClosed(e) || c.isAhead(e.ID, maxAheadListed) || c.core.Waiting() >= replica.MaxWaiting {
			return
		}
		l = c.hold(e.ID)
	}
	if l.council == nil { // an abort from before three-phase transactions were switched on
		return
	}
	l.council.seat([]txn.Party{e.From})
	effects := l.core.Step(threepc.Received{From: e.From.PartyID, Message: e.Message})
	c.carry(l, effects)
	if _, open := c.table.Witness(e.ID); len(effects) == 0 && !open && len(l.requests) == 0 && l.idle() {
		c.letGo(e.ID)
	}
}

// idle reports whether nothing has ever been done about the transaction.
func (l *live) idle() bool {
	return l.council.voteBy.IsZero() && l.core.Decision() == txn.Undecided && !l.proposed
}

// answerClosed answers a member about a transaction that is decided, and nothing is to be done of it,
// or that is forgotten.
func (c *Machine) answerClosed(e Said) bool {
	x, decided := c.table.Get(e.ID)
	_, open := c.table.Witness(e.ID)
	if !decided && (open || !c.table.TooOld(e.ID)) {
		return false
	}
	c.core.Spend(1)
	core := threepc.NewCoordinator(e.ID)
	if decided {
		core.Step(protocol.Delivered{Txn: x})
	}
	effects := core.Step(threepc.Received{From: e.From.PartyID, Message: e.Message})
	if !decided { // what it would propose the log would refuse
		effects = core.Step(threepc.Forgotten{})
	}
	for _, f := range effects {
		switch f := f.(type) {
		case threepc.Send:
			c.fx.Send = append(c.fx.Send, Letter{ID: e.ID, To: e.From, Message: f.Message})
		case threepc.Breach:
			c.breach(e.ID, f.From.String(), f.Told, f.Known)
		}
	}
	return true
}

// agentsAcceptable returns why the votes of agents would not count, or nil: what they promised in the
// lives that the log knows of they may have forgotten.
func (c *Machine) agentsAcceptable(agents []txn.Agent) error {
	for _, a := range agents {
		switch last, known := c.table.Agents().Last(a.Agent); {
		case !known:
		case last.Journal != a.Journal:
			return fmt.Errorf("agent %q voted with the journal %v, and now has %v: if it has lost that one, or two "+
				"agents have this name, give this one another \"name\"", a.Agent, last.Journal, a.Journal)
		case a.Epoch < last.Epoch:
			return fmt.Errorf("agent %q voted in epoch %d, but its vote is asked for in epoch %d: if it has "+
				"restarted since, begin a new transaction; if its journal was restored from a copy, give it an "+
				"empty \"data_dir\" and another \"name\"", a.Agent, last.Epoch, a.Epoch)
		}
	}
	return nil
}

// noteLives has the log remember in which lives agents have voted Yes, before it opens a gid by that.
func (c *Machine) noteLives(l *live, r txn.Record) {
	open, ok := r.(txn.PreCommitRecord)
	if !ok || c.table.Level() < txn.LevelAgents {
		return
	}
	for _, life := range l.council.lives {
		yes := slices.ContainsFunc(open.Members, func(m txn.Party) bool { return m.PartyID == life.PartyID })
		if yes && c.table.Agents().News(life) {
			c.core.Propose(life)
			c.core.Weigh(64)
		}
	}
}

// convene takes a three-phase transaction in hand that the log has open, and tells its core what the
// log has of it.
func (c *Machine) convene(w txn.Witness) {
	l := c.hold(w.ID)
	if l.council == nil {
		return
	}
	l.council.seat(w.Members)
	l.council.voteBy = time.Time{}
	if l.council.elect.IsZero() {
		l.council.elect = c.core.Now().Add(l.council.pause(w.ID))
	}
	c.carry(l, l.core.Step(threepc.Folded{Witness: w}))
}

// send tells a member something, if it is known where it is.
func (c *Machine) send(l *live, f threepc.Send) {
	addr := l.council.addrs[f.To]
	if addr == "" {
		return
	}
	c.core.Spend(1)
	c.fx.Send = append(c.fx.Send, Letter{ID: l.id, To: txn.Party{PartyID: f.To, Addr: addr}, Message: f.Message})
}

// blocked tells whoever waits that the members cannot decide now.
func (c *Machine) blocked(l *live, f threepc.Blocked) {
	l.council.missing = nil
	for _, m := range f.Missing {
		l.council.missing = append(l.council.missing, m.String())
	}
	slices.Sort(l.council.missing)
	c.answer(l, Reply{Err: txn.Unavailablef("%v is open: its members decide it, and %s did not answer: it "+
		"continues when they do; see \"concord tx get %v\"",
		l.id, strings.Join(l.council.missing, ", "), l.id)})
}

func (c *Machine) breach(id txn.ID, who string, told, known txn.Decision) {
	log := known.String()
	if known == txn.Undecided {
		log = "nothing that could have led there"
	}
	c.core.Alarm("%v: %s says that it was decided as %v, and the log knows %s: no action is taken; look into the "+
		"databases, and find out who speaks for that agent", id, who, told, log)
}

// proven tells a decision that a quorum of the members has accepted to whoever waits for it. The log
// may not have it yet, and will have no other.
func (c *Machine) proven(l *live, f protocol.Reply) {
	if x, known := c.table.Get(l.id); known {
		c.tell(l, x)
		return
	}
	x := txn.Txn{ID: l.id, Decision: txn.Commit, Protocol: txn.ThreePhaseCommit, By: txn.FromCluster, Reason: f.Reason,
		Label: l.record.Label, Seen: true}
	if f.Outcome == txn.Aborted {
		x.Decision = txn.Abort
	}
	c.answer(l, Reply{Zxid: c.core.Zxid(), Txn: x})
}

// weight is about how many bytes a record of the witness takes in the log.
func weight(r txn.Record) int {
	n := 64
	if r, ok := r.(txn.PreCommitRecord); ok {
		n += 64*len(r.Members) + len(r.Label)
		for _, b := range r.Branches {
			n += 4 + len(b.Resource) + len(b.Evidence) + len(b.Holder)
		}
	}
	return n
}
