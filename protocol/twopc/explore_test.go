// SPDX-License-Identifier: Apache-2.0

package twopc

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/txn"
)

// The exploration visits every state that a small world can reach. The network is a
// set that only grows: any message in it may be delivered at any time, once more or
// never, which is loss, duplication and reordering in one. Tasks and events inside one
// process happen once and are lost when it crashes.

// world is one initiator or several agents, one leader, the log and the resources.
type world struct {
	initiator    *Initiator // nil when agents hold the branches, or when it died
	coordinator  *Coordinator
	participants []*Participant // nil when sessions hold the branches
	resources    []resource
	log          entry
	told         []txn.Outcome
	alarmed      bool
	names        names  // shared by all worlds of an exploration
	net          []item // sorted, without duplicates
	local        []item // sorted
	crashes      int    // left
	losses       int    // left: a resource forgets a prepared branch
	steady       bool   // the leader does not crash
	willing      bool   // no resource votes No
	impatient    bool   // somebody may ask for a rollback at any time
	bad          string // a property that was broken on the way here
}

// resource is what one database knows of its branch.
type resource struct {
	state    resourceState
	work     bool // the application's work is in it
	readOnly bool
	lost     bool // by the nemesis
}

type resourceState uint8

const (
	nothing resourceState = iota
	active
	durable
	committed
	aborted
)

type entry struct {
	decision txn.Decision
	branches []txn.Branch
	ended    bool
}

// item is a message or a task: what happens to whom.
type item struct {
	to   place
	no   txn.BranchNo
	what any    // an Event for a core, an Effect for a resource or the log
	id   uint16 // its number in names, to sort and compare by
}

// names numbers every item that an exploration has met, by its text.
type names map[string]uint16

type place uint8

const (
	toInitiator place = iota
	toCoordinator
	toParticipant
	toResource // by the session or agent that holds the branch
	toTakeover // by the coordinator, through a connection of its own
	toLog
)

func (w *world) key() string {
	var b strings.Builder
	if w.initiator != nil {
		b.WriteString(w.initiator.String())
	}
	b.WriteString(w.coordinator.String())
	for _, p := range w.participants {
		b.WriteString(p.String())
	}
	for _, r := range w.resources {
		fmt.Fprintf(&b, "%d%t%t", r.state, r.work, r.lost)
	}
	fmt.Fprintf(&b, "%v%t%v%t%d%d%s", w.log.decision, w.log.ended, w.told, w.alarmed, w.crashes, w.losses, w.bad)
	for _, l := range w.log.branches {
		b.WriteByte(byte(l.No))
	}
	for _, items := range [][]item{w.net, w.local} {
		b.WriteByte('|')
		for _, i := range items {
			b.WriteByte(byte(i.id >> 8))
			b.WriteByte(byte(i.id))
		}
	}
	return b.String()
}

func (w *world) clone() *world {
	c := *w
	if w.initiator != nil {
		c.initiator = w.initiator.Clone()
	}
	c.coordinator = w.coordinator.Clone()
	c.participants = make([]*Participant, len(w.participants))
	for i, p := range w.participants {
		c.participants[i] = p.Clone()
	}
	c.resources = slices.Clone(w.resources)
	c.told = slices.Clone(w.told)
	c.net, c.local = slices.Clone(w.net), slices.Clone(w.local)
	return &c
}

// mutant is a planted mistake; the empty one is the product.
type mutant string

const (
	yesBeforeDurable   mutant = "a participant says yes before the branch is durable"
	presumeCommit      mutant = "an unknown transaction is presumed committed"
	forgetTombstone    mutant = "an abort record is not kept"
	notFoundIsDone     mutant = "a branch that is not there counts as done"
	decideWithoutVotes mutant = "the first yes is enough"
	prepareTheUnknown  mutant = "an unknown branch is opened and prepared"
	tellBeforeDeliver  mutant = "the decision is told before the log delivered it"
	unknownIsCommit    mutant = "no answer counts as commit"
)

func (w *world) send(to place, no txn.BranchNo, what any) {
	w.insert(&w.net, to, no, what)
}

func (w *world) later(to place, no txn.BranchNo, what any) {
	w.insert(&w.local, to, no, what)
}

func (w *world) insert(items *[]item, to place, no txn.BranchNo, what any) {
	name := fmt.Sprintf("%d/%d %T%v", to, no, what, what)
	id, known := w.names[name]
	if !known {
		id = uint16(len(w.names))
		w.names[name] = id
	}
	at, found := slices.BinarySearchFunc(*items, id, func(x item, id uint16) int { return int(x.id) - int(id) })
	if !found {
		*items = slices.Insert(*items, at, item{to, no, what, id})
	}
}

// stepInitiator carries out what the initiator asks for.
func (w *world) stepInitiator(e Event, m mutant) {
	for _, f := range w.initiator.Step(e) {
		switch f := f.(type) {
		case Prepare:
			w.later(toResource, f.No, f)
		case Finish:
			w.later(toResource, f.No, f)
		case Ask:
			w.send(toCoordinator, 0, Asked{Branches: f.Branches})
		case Report:
			w.send(toCoordinator, f.No, Finished(f))
		case Reply:
			w.told = append(w.told, f.Outcome)
			if f.Outcome == txn.Unknown && m == unknownIsCommit {
				w.stepInitiator(Decided{Decision: txn.Commit}, m)
			}
		}
	}
}

func (w *world) stepCoordinator(e Event, m mutant) {
	if v, ok := e.(Voted); ok && m == decideWithoutVotes && v.Vote == txn.VoteYes {
		w.send(toLog, 0, Propose{Decision: txn.Commit, Branches: []txn.Branch{{No: 0}, {No: 1}}})
	}
	for _, f := range w.coordinator.Step(e) {
		switch f := f.(type) {
		case Prepare:
			w.send(toParticipant, f.No, PrepareAsked{})
		case Propose:
			if _, inquired := e.(Inquired); inquired && m == presumeCommit {
				f.Decision = txn.Commit
			}
			w.send(toLog, 0, f)
			if m == tellBeforeDeliver && w.initiator != nil {
				w.send(toInitiator, 0, Decided{Decision: f.Decision})
			}
		case Finish:
			if len(w.participants) > 0 {
				w.send(toParticipant, f.No, Decided{Decision: f.Decision})
			} else {
				w.send(toTakeover, f.No, f)
			}
		case Reply:
			if w.initiator != nil {
				d := txn.Commit
				if f.Outcome == txn.Aborted {
					d = txn.Abort
				}
				w.send(toInitiator, 0, Decided{Decision: d})
			} else if !slices.Contains(w.told, f.Outcome) {
				w.told = append(w.told, f.Outcome)
			}
		case Alarm:
			w.alarmed = true
		case End:
			w.log.ended = true
		}
	}
}

func (w *world) stepParticipant(no txn.BranchNo, e Event, m mutant) {
	p := w.participants[no]
	if _, ask := e.(PrepareAsked); ask && m == prepareTheUnknown && p.phase == absent && w.resources[no].state == nothing {
		p.Step(Opened{})
		w.resources[no].state = active
	}
	for _, f := range p.Step(e) {
		switch f := f.(type) {
		case Prepare:
			w.later(toResource, no, f)
			if m == yesBeforeDurable {
				w.later(toParticipant, no, Voted{No: no, Vote: txn.VoteYes, Branch: txn.Branch{No: no}})
			}
		case Finish:
			w.later(toResource, no, f)
		case Report:
			w.send(toCoordinator, no, Finished(f))
		case CastVote:
			w.send(toCoordinator, no, Voted{No: no, Vote: f.Vote, Branch: f.Branch})
		case Inquire:
			w.send(toCoordinator, no, Inquired{No: no})
		}
	}
}

// atResource does a task at a resource and says what comes back, nil if the vote is
// for the caller to choose.
func (w *world) atResource(no txn.BranchNo, f Effect, vote txn.Vote, takeover bool, m mutant) Event {
	r := &w.resources[no]
	switch f := f.(type) {
	case Prepare:
		switch {
		case r.state != active:
			return Voted{No: no, Vote: txn.VoteNo}
		case r.readOnly:
			r.state = nothing
			return Voted{No: no, Vote: txn.VoteReadOnly}
		case vote == txn.VoteNo:
			r.state = aborted
			return Voted{No: no, Vote: txn.VoteNo}
		}
		r.state = durable
		return Voted{No: no, Vote: txn.VoteYes, Branch: txn.Branch{No: no}}
	case Finish:
		found := txn.AlreadyDone
		switch {
		case r.state == durable && f.Decision == txn.Commit:
			r.state, found = committed, txn.Done
		case r.state == durable || r.state == active && f.Decision == txn.Abort && !takeover:
			r.state, found = aborted, txn.Done
		case r.state == committed && f.Decision == txn.Abort, r.state == aborted && f.Decision == txn.Commit && !r.lost:
			found = txn.Contradicted
		case r.state != committed && f.Decision == txn.Commit:
			found = txn.Lost
			if m == notFoundIsDone {
				found = txn.Done
			}
		}
		return Finished{No: no, Finish: found}
	}
	return nil
}

// next lists the worlds that are one step away.
func (w *world) next(m mutant) []*world {
	var worlds []*world
	try := func(do func(*world)) {
		c := w.clone()
		do(c)
		worlds = append(worlds, c)
	}
	for _, i := range w.net {
		if i.to == toInitiator && w.initiator == nil {
			continue
		}
		try(func(c *world) { c.happen(i, 0, m) })
	}
	for n, i := range w.local {
		votes := []txn.Vote{txn.VoteYes}
		if _, ok := i.what.(Prepare); ok && !w.willing {
			votes = append(votes, txn.VoteNo)
		}
		for _, vote := range votes {
			try(func(c *world) {
				c.local = slices.Delete(c.local, n, n+1)
				c.happen(i, vote, m)
			})
		}
	}
	if w.log.decision != txn.Undecided && w.coordinator.Decision() == txn.Undecided {
		try(func(c *world) { c.stepCoordinator(Delivered{Decision: c.log.decision, Branches: c.log.branches}, m) })
	}
	try(func(c *world) { c.stepCoordinator(Tick{}, m) })
	if w.impatient {
		try(func(c *world) { c.stepCoordinator(RollbackAsked{}, m) })
	}
	if w.initiator != nil {
		try(func(c *world) { c.stepInitiator(WaitOver{}, m) })
	}
	for n, r := range w.resources {
		no := txn.BranchNo(n)
		if len(w.participants) == 0 && r.state == durable { // the orphan scan
			try(func(c *world) { c.stepCoordinator(Inquired{No: no}, m) })
		}
		if w.losses > 0 && r.state == durable {
			try(func(c *world) {
				c.losses--
				c.resources[n].state, c.resources[n].lost = aborted, true
			})
		}
	}
	for n, p := range w.participants {
		no := txn.BranchNo(n)
		try(func(c *world) { c.stepParticipant(no, Tick{}, m) })
		if w.impatient || w.resources[n].state == active && w.coordinator.phase != collecting {
			try(func(c *world) { c.stepParticipant(no, RollbackAsked{}, m) })
		}
		if w.resources[n].state == durable && p.phase <= refusing {
			try(func(c *world) { c.stepParticipant(no, Listed{}, m) })
		}
	}
	if w.crashes > 0 {
		worlds = append(worlds, w.crash()...)
	}
	return worlds
}

// happen delivers a message or does a task.
func (w *world) happen(i item, vote txn.Vote, m mutant) {
	switch i.to {
	case toInitiator:
		w.stepInitiator(i.what.(Event), m)
	case toCoordinator:
		w.stepCoordinator(i.what.(Event), m)
	case toParticipant:
		w.stepParticipant(i.no, i.what.(Event), m)
	case toResource:
		e := w.atResource(i.no, i.what.(Effect), vote, false, m)
		if len(w.participants) > 0 {
			w.later(toParticipant, i.no, e)
		} else {
			w.later(toInitiator, i.no, e)
		}
	case toTakeover:
		w.send(toCoordinator, i.no, w.atResource(i.no, i.what.(Effect), vote, true, m))
	case toLog:
		w.propose(i.what.(Propose), m)
	}
}

// propose lets the first decision win, and checks that a commit is allowed.
func (w *world) propose(p Propose, m mutant) {
	if w.log.decision != txn.Undecided {
		return
	}
	if p.Decision == txn.Abort && m == forgetTombstone {
		w.stepCoordinator(Delivered{Decision: txn.Abort}, m)
		w.coordinator = new(Coordinator) // and the next leader finds nothing
		return
	}
	w.log = entry{decision: p.Decision, branches: p.Branches}
	if p.Decision != txn.Commit {
		return
	}
	for n, r := range w.resources {
		if !r.readOnly && !r.lost && (r.state != durable || !r.work) {
			w.bad = fmt.Sprintf("AC3: commit was decided while branch %d was %v, its work %t", n, r.state, r.work)
		}
	}
}

// crash lists the worlds after one process died.
func (w *world) crash() []*world {
	leader := w.clone()
	leader.crashes--
	leader.coordinator = new(Coordinator)
	if leader.log.decision == txn.Commit && !leader.log.ended {
		leader.coordinator = Resume(leader.log.branches)
	}
	var worlds []*world
	if !w.steady {
		worlds = append(worlds, leader)
	}
	if w.initiator != nil {
		c := w.clone()
		c.crashes--
		c.initiator, c.local = nil, nil
		for n := range c.resources {
			c.loseWork(n)
		}
		worlds = append(worlds, c)
	}
	for n := range w.participants {
		c := w.clone()
		c.crashes--
		no := txn.BranchNo(n)
		c.participants[n] = NewParticipant(no)
		c.local = slices.DeleteFunc(c.local, func(i item) bool { return i.no == no })
		c.loseWork(n)
		worlds = append(worlds, c)
	}
	return worlds
}

func (w *world) loseWork(n int) {
	if r := &w.resources[n]; r.state == active {
		r.state, r.work = nothing, false
	}
}

// broken names a property that does not hold, or is empty.
func (w *world) broken() string {
	if w.bad != "" {
		return w.bad
	}
	var commit, abort []string
	note := func(isCommit bool, who string) {
		if isCommit {
			commit = append(commit, who)
		} else {
			abort = append(abort, who)
		}
	}
	if w.log.decision != txn.Undecided {
		note(w.log.decision == txn.Commit, "the log")
	}
	for n, r := range w.resources {
		if r.state == committed || r.state == aborted && !r.lost {
			note(r.state == committed, fmt.Sprintf("branch %d", n))
		}
		if r.state == committed && !r.work {
			return fmt.Sprintf("AC3w: branch %d committed without the work", n)
		}
		if r.state != committed && !r.readOnly && w.log.ended && !w.alarmed {
			return fmt.Sprintf("HEUR: ended without an alarm, but branch %d is not committed", n)
		}
	}
	for _, o := range w.told {
		if o != txn.Unknown {
			note(o == txn.Committed, "the application")
		}
	}
	if len(commit) > 0 && len(abort) > 0 {
		return fmt.Sprintf("AC1: commit at %v, abort at %v", commit, abort)
	}
	if w.alarmed && !slices.ContainsFunc(w.resources, func(r resource) bool { return r.lost }) {
		return "HEUR: an alarm without a cause"
	}
	return ""
}

// settled reports whether nothing is left to be done.
func (w *world) settled() bool {
	for _, r := range w.resources {
		if r.state == active || r.state == durable {
			return false
		}
	}
	return w.log.decision != txn.Commit || w.log.ended
}

// explore returns the number of states, and the first broken property with the way to
// it. With stuck it also checks that every state has a way to a settled one.
func explore(t *testing.T, start *world, m mutant, stuck bool) (states int, broken string) {
	t.Helper()
	const limit = 400_000
	type visit struct {
		w    *world
		from int32
	}
	seen := map[string]int32{start.key(): 0}
	visits := []visit{{w: start, from: -1}}
	var edges [][]int32 // from a state to those that lead to it
	var settled []int32
	for at := int32(0); int(at) < len(visits); at++ {
		w := visits[at].w
		if b := w.broken(); b != "" {
			var path []string
			for i := at; i >= 0; i = visits[i].from {
				path = append(path, fmt.Sprintf("  %v %v %v log=%v told=%v", visits[i].w.coordinator, visits[i].w.participants, visits[i].w.resources, visits[i].w.log, visits[i].w.told))
				if visits[i].w.initiator != nil {
					path[len(path)-1] += " " + visits[i].w.initiator.String()
				}
			}
			slices.Reverse(path)
			return len(visits), b + "\n" + strings.Join(path, "\n")
		}
		if w.settled() {
			settled = append(settled, at)
		}
		for _, n := range w.next(m) {
			k := n.key()
			id, ok := seen[k]
			if !ok {
				id = int32(len(visits))
				require.Less(t, len(visits), limit, "the world is not small")
				seen[k] = id
				visits = append(visits, visit{w: n, from: at})
			}
			if stuck {
				for int(id) >= len(edges) {
					edges = append(edges, nil)
				}
				edges[id] = append(edges[id], at)
			}
		}
		w.net, w.local = nil, nil // the way to a mistake is told without them
	}
	if stuck {
		canSettle := make([]bool, len(visits))
		for len(settled) > 0 {
			at := settled[len(settled)-1]
			settled = settled[:len(settled)-1]
			if canSettle[at] {
				continue
			}
			canSettle[at] = true
			settled = append(settled, edges[at]...)
		}
		if at := slices.Index(canSettle, false); at >= 0 {
			return len(visits), "AC5: no way out of " + visits[at].w.key()
		}
	}
	return len(visits), ""
}

// sessions is a world in which an application holds the sessions and asks to commit.
func sessions(branches, crashes int) *world {
	w := &world{initiator: new(Initiator), coordinator: new(Coordinator), crashes: crashes, names: names{}}
	for n := range branches {
		w.resources = append(w.resources, resource{state: active, work: true})
		w.initiator.Step(Enlisted{No: txn.BranchNo(n)})
	}
	w.stepInitiator(CommitAsked{}, "")
	return w
}

// agents is a world in which agents hold the branches and a client asks to commit.
func agents(branches, crashes int) *world {
	w := &world{coordinator: new(Coordinator), crashes: crashes, names: names{}}
	var missing []txn.Branch
	for n := range branches {
		no := txn.BranchNo(n)
		w.resources = append(w.resources, resource{state: active, work: true})
		w.participants = append(w.participants, NewParticipant(no))
		w.participants[n].Step(Opened{})
		missing = append(missing, txn.Branch{No: no})
	}
	w.send(toCoordinator, 0, Asked{Missing: missing})
	return w
}

func with(w *world, changes ...func(*world)) *world {
	for _, change := range changes {
		change(w)
	}
	return w
}

func willing(w *world)   { w.willing = true }
func steady(w *world)    { w.steady = true }
func impatient(w *world) { w.impatient = true }
func readOnly(w *world)  { w.resources[1].readOnly = true }
func loss(w *world)      { w.losses = 1 }

func TestEveryOrderOfEventsKeepsThePromises(t *testing.T) {
	for name, start := range map[string]*world{
		"sessions":                            with(sessions(2, 1), impatient),
		"sessions, two crashes":               with(sessions(2, 2), willing),
		"three sessions":                      with(sessions(3, 0), willing),
		"sessions, one read-only":             with(sessions(2, 2), impatient, readOnly),
		"sessions, a resource loses a branch": with(sessions(2, 0), loss),
		"agents":                              agents(2, 0),
		"agents, one read-only, impatience":   with(agents(2, 0), willing, impatient, readOnly),
		"agents, one read-only, one crashes":  with(agents(2, 1), willing, readOnly, steady),
	} {
		t.Run(name, func(t *testing.T) {
			states, broken := explore(t, start, "", true)
			require.Empty(t, broken)
			t.Logf("%d states", states)
		})
	}
}

func TestEveryPlantedMistakeIsFound(t *testing.T) {
	for m, start := range map[mutant]*world{
		yesBeforeDurable:   agents(2, 1),
		presumeCommit:      sessions(2, 1),
		forgetTombstone:    with(sessions(2, 1), impatient),
		notFoundIsDone:     with(sessions(2, 0), loss),
		decideWithoutVotes: agents(2, 0),
		prepareTheUnknown:  agents(2, 1),
		tellBeforeDeliver:  sessions(2, 0),
		unknownIsCommit:    sessions(2, 0),
	} {
		t.Run(string(m), func(t *testing.T) {
			states, broken := explore(t, start, m, false)
			require.NotEmpty(t, broken)
			what, _, _ := strings.Cut(broken, "\n")
			t.Logf("found after %d states: %s", states, what)
		})
	}
}
