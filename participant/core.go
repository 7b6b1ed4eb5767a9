// SPDX-License-Identifier: Apache-2.0

package participant

import (
	"fmt"
	"slices"
	"time"

	"github.com/concordtx/concord/txn"
)

// Rules are what an agent is told. The zero value of each field means its default.
type Rules struct {
	// MaxOpen is how many branches may have a session. Default 64.
	MaxOpen int
	// Silence is how long an open branch may hear nothing before it is rolled back. A caller may
	// ask for less. Default 1 minute.
	Silence time.Duration
	// InquireAfter is how long a prepared branch waits for its decision before the agent asks for
	// it; the wait doubles up to InquireMost. Defaults 2 s and 30 s.
	InquireAfter, InquireMost time.Duration
	// ElectAfter is how long a prepared branch of a three-phase transaction hears nothing before the
	// agent begins an election: longer than a change of leader takes. Further ones come later, up to
	// 30 s. Default 5 s.
	ElectAfter time.Duration
	// Keep is how long an ended branch is remembered (if there are not too many), so that what comes late is answered
	// and not taken for the beginning of a branch. Default 10 minutes.
	Keep time.Duration
}

func (r Rules) withDefaults() Rules {
	set := func(d *time.Duration, to time.Duration) {
		if *d <= 0 {
			*d = to
		}
	}
	if r.MaxOpen <= 0 {
		r.MaxOpen = 64
	}
	set(&r.Silence, time.Minute)
	set(&r.InquireAfter, 2*time.Second)
	set(&r.InquireMost, 30*time.Second)
	set(&r.ElectAfter, 5*time.Second)
	set(&r.Keep, 10*time.Minute)
	return r
}

const (
	// retryAfter is the first pause before finishing a branch is tried again; it doubles up to
	// InquireMost.
	retryAfter = time.Second
	// MaxRedo bounds the bytes of work that are kept of one branch for its redo.
	MaxRedo = 256 << 10
	// MaxVoting is how long votes are collected at most, where the caller did not say.
	MaxVoting = 10 * time.Second
	// maxEnded branches are remembered; with more of them each is remembered for a shorter time.
	maxEnded = 100_000
)

// Core is an agent without clock, disk, network and databases. Its branches are driven by
// twopc.Participant, which alone decides what is voted and how a branch is ended; the core adds
// numbers, digests, deadlines, the journal and who waits for what.
//
// What always holds:
//  1. A branch takes one piece of work at a time, in the order of the numbers, and each number once.
//  2. A Prepare that does not name the last answer ends in No, and the branch is rolled back.
//  3. Whatever is forced is durable before anything that rests on it is said (Write, Written).
//  4. A branch that this life did not open and the journal does not have is ended only by a
//     decision of the cluster, and asking about it makes one only when its transaction is older
//     than the cluster lets any become.
type Core struct {
	name      string
	rules     Rules
	life      Life
	cluster   txn.ClusterID // 0: not known yet
	maxAge    time.Duration // of a transaction; 0: not known yet
	resources []string
	now       time.Time
	stopping  bool

	branches map[txn.XID]*branch
	byID     map[txn.ID][]*branch // the same
	members  map[txn.ID]*membership
	restless map[txn.ID]bool  // memberships that a Tick has to look at
	forcing  []forcing        // of memberships, in the order of their turns
	calls    map[Call]txn.XID // who waits
	asking   map[txn.ID]bool  // inquiries under way
	open     int              // branches with a session
	live     map[txn.XID]bool // branches that a Tick has to look at
	ended    []ended          // branches to forget, the oldest first

	turn     uint64              // of the last forced write
	loose    bool                // something was written after it
	durable  uint64              // the last that is durable
	withheld map[uint64][]Effect // what waits for a turn to be durable

	effects []Effect // of the step under way
}

type ended struct {
	xid txn.XID
	at  time.Time
}

// NewCore makes the core of a life of the agent of that name that hosts these resources, with what the journal
// has of earlier lives. Cluster is 0 if the agent has never belonged to one.
func NewCore(name string, rules Rules, life Life, cluster txn.ClusterID, resources []string, entries []Entry) *Core {
	c := &Core{
		name: name, rules: rules.withDefaults(), life: life, cluster: cluster, resources: slices.Clone(resources),
		branches: map[txn.XID]*branch{}, byID: map[txn.ID][]*branch{}, calls: map[Call]txn.XID{},
		asking: map[txn.ID]bool{},
		live:   map[txn.XID]bool{}, withheld: map[uint64][]Effect{}, members: map[txn.ID]*membership{},
		restless: map[txn.ID]bool{},
	}
	for _, e := range entries {
		if e.Member != nil {
			c.restoreMember(e)
			continue
		}
		for _, v := range e.Branches {
			b := restored(e, v)
			c.add(b)
			c.live[b.xid] = v.Finish == 0
		}
	}
	return c
}

// Step handles one event.
func (c *Core) Step(e Event) []Effect {
	c.effects = nil
	switch e := e.(type) {
	case Tick:
		c.tick(e.Now)
	case WorkAsked:
		c.workAsked(e)
	case WorkDone:
		c.workDone(e)
	case PrepareAsked:
		c.prepareAsked(e)
	case Voted:
		c.voted(e)
	case Decided:
		c.decided(e)
	case Informed:
		c.informed(e)
	case Uninformed:
		delete(c.asking, e.ID)
	case Heard:
		c.heard(e)
	case Finished:
		c.finished(e)
	case FinishFailed:
		if b := c.branches[e.XID]; b != nil && b.finishing {
			b.finishing, b.why = false, e.Why
			c.later(b)
		}
	case Listing:
		c.listed(e)
	case Written:
		c.written(e.Turn)
	case Joined:
		c.cluster, c.maxAge = e.Cluster, e.MaxAge
	case SyncAsked:
		if c.loose {
			c.turn++
			c.write(Write{Turn: c.turn})
		}
		c.after(c.turn, func() { c.emit(Synced(e)) })
	case Left:
		c.left(e.Call)
	case Stop:
		c.stop()
	}
	return c.effects
}

func (c *Core) add(b *branch) {
	c.branches[b.xid] = b
	c.byID[b.xid.ID] = append(c.byID[b.xid.ID], b)
}

func (c *Core) drop(b *branch) {
	delete(c.branches, b.xid)
	delete(c.live, b.xid)
	rest := slices.DeleteFunc(c.byID[b.xid.ID], func(other *branch) bool { return other == b })
	if c.byID[b.xid.ID] = rest; len(rest) == 0 {
		delete(c.byID, b.xid.ID)
	}
}

func (c *Core) emit(e Effect) { c.effects = append(c.effects, e) }

func (c *Core) refuse(call Call, kind RefusalKind, format string, args ...any) {
	delete(c.calls, call)
	c.emit(Refuse{Call: call, Err: &Refusal{Kind: kind, Text: fmt.Sprintf(format, args...)}})
}

// fits refuses what no branch of this agent can have asked for.
func (c *Core) fits(call Call, b Branch) bool {
	switch {
	case c.cluster == 0:
		c.refuse(call, Unavailable, "this agent has not reached its cluster yet, and does not know which it is: "+
			"start the coordinator nodes, or correct \"coordinators\" in its configuration")
	case b.XID.Cluster != c.cluster:
		c.refuse(call, Invalid, "the transaction belongs to cluster %v, but this agent belongs to cluster %v: send "+
			"it to an agent of its own cluster", b.XID.Cluster, c.cluster)
	case !slices.Contains(c.resources, b.Resource):
		c.refuse(call, Unknown, "this agent hosts no resource %q: it has %q; ask the agent that hosts it", b.Resource,
			c.resources)
	default:
		if known := c.branches[b.XID]; known != nil && known.resource != b.Resource {
			c.refuse(call, Invalid, "branch %d of the transaction belongs to resource %q, not %q: give each "+
				"resource a number of its own", b.XID.Branch, known.resource, b.Resource)
			return false
		}
		return true
	}
	return false
}

// tick is the only event that moves the time.
func (c *Core) tick(now time.Time) {
	c.now = now
	for _, xid := range c.sortedLive() {
		b := c.branches[xid]
		switch {
		case b == nil:
			delete(c.live, xid)
		case b.idle() && !now.Before(b.expires):
			c.giveUp(b, fmt.Sprintf("it heard nothing for %v, so the agent rolled it back: begin a new transaction, "+
				"and send its work or its end sooner", b.silence))
		case b.finishing || now.Before(b.due):
		case b.clearing:
			c.attempt(b, txn.Abort)
		default:
			c.again(b)
		}
	}
	c.tickMembers()
	for len(c.ended) > maxEnded || len(c.ended) > 0 && now.Sub(c.ended[0].at) >= c.rules.Keep {
		oldest := c.ended[0]
		c.ended = c.ended[1:]
		switch b := c.branches[oldest.xid]; {
		case b == nil:
			c.dropMember(oldest.xid.ID) // one without branches
		case b.forgettable():
			c.drop(b)
			c.dropMember(b.xid.ID)
		case b.in != nil && b.over: // its cluster has not heard the decision, or another branch has not ended
			c.ended = append(c.ended, ended{b.xid, now})
		}
	}
}

func (c *Core) sortedLive() []txn.XID {
	list := make([]txn.XID, 0, len(c.live))
	for xid := range c.live {
		list = append(list, xid)
	}
	slices.SortFunc(list, txn.XID.Compare)
	return list
}

// stop rolls back what is not prepared.
func (c *Core) stop() {
	c.stopping = true
	for _, xid := range c.sortedLive() {
		if b := c.branches[xid]; b != nil && b.open {
			c.giveUp(b, "the agent was shut down and rolled it back: begin a new transaction")
		}
	}
}

// later puts the next attempt off.
func (c *Core) later(b *branch) {
	if b.pause == 0 {
		b.pause = retryAfter
	}
	b.due = c.now.Add(b.pause)
	b.pause = min(2*b.pause, c.rules.InquireMost)
	c.live[b.xid] = true
}

// write puts what is known of a transaction into the journal. A forced write returns its turn.
func (c *Core) writeBranches(id txn.ID, forced bool) uint64 {
	e := Entry{ID: id, Cluster: c.cluster}
	for _, b := range c.byID[id] {
		if b.entered {
			e.Branches = append(e.Branches, b.voter())
		}
	}
	slices.SortFunc(e.Branches, func(v, w Voter) int { return int(v.Branch.No) - int(w.Branch.No) })
	w := Write{Entry: e}
	if forced {
		c.turn++
		w.Turn = c.turn
	}
	c.write(w)
	return w.Turn
}

func (c *Core) write(w Write) {
	c.loose = w.Turn == 0
	c.emit(w)
}

// say lets out what rests on the last forced write of a branch, once that is durable.
func (c *Core) say(b *branch, speak func()) { c.after(b.turn, speak) }

// after lets out what is said as soon as a turn is durable.
func (c *Core) after(turn uint64, speak func()) {
	before := c.effects
	c.effects = nil
	speak()
	said := c.effects
	c.effects = before
	if turn > c.durable {
		c.withheld[turn] = append(c.withheld[turn], said...)
	} else {
		c.effects = append(c.effects, said...)
	}
}

// written lets go of what waited for a force.
func (c *Core) written(turn uint64) {
	c.durable = max(c.durable, turn)
	c.forced(turn)
	var turns []uint64
	for t := range c.withheld {
		if t <= turn {
			turns = append(turns, t)
		}
	}
	slices.Sort(turns)
	for _, t := range turns {
		c.effects = append(c.effects, c.withheld[t]...)
		delete(c.withheld, t)
	}
}

// left forgets a caller.
func (c *Core) left(call Call) {
	xid, waits := c.calls[call]
	if !waits {
		return
	}
	delete(c.calls, call)
	if b := c.branches[xid]; b != nil {
		gone := func(other Call) bool { return other == call }
		b.workers = slices.DeleteFunc(b.workers, gone)
		b.voters = slices.DeleteFunc(b.voters, gone)
		b.finishers = slices.DeleteFunc(b.finishers, gone)
	}
}

// waits notes that a caller waits for a branch.
func (c *Core) waits(list []Call, call Call, b *branch) []Call {
	c.calls[call] = b.xid
	return append(list, call)
}

// answered empties a list of callers.
func (c *Core) answered(list *[]Call, effect func(Call) Effect) (any bool) {
	for _, call := range *list {
		delete(c.calls, call)
		c.emit(effect(call))
		any = true
	}
	*list = nil
	return any
}
