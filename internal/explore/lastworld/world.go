// SPDX-License-Identifier: Apache-2.0

package lastworld

import (
	"fmt"
	"strings"

	"github.com/concordtx/concord/internal/explore"
	"github.com/concordtx/concord/internal/mutant"
	"github.com/concordtx/concord/protocol"
	"github.com/concordtx/concord/protocol/twopc"
	"github.com/concordtx/concord/txn"
)

// maxOthers databases take part beside L.
const maxOthers = 2

// L is branch 0; the others are 1 and up.
const last txn.BranchNo = 0

// Size says how large a world is.
type Size struct {
	Others  int // databases beside L, at most maxOthers
	Crashes int // of the client or the leader, in any order
	Breaks  int // times that the answer of L is lost, or that it cannot be reached
}

// String names the size.
func (z Size) String() string {
	return fmt.Sprintf("last resource and %d other%s%s", z.Others, explore.Counted(z.Crashes, "crash", "crashes"),
		explore.Counted(z.Breaks, "break", "breaks"))
}

// branchState is what a database knows of a branch. Of L, prepared never.
type branchState uint8

const (
	active branchState = iota
	prepared
	committed
	aborted
	flying // of L: the client has lost its answer, and its commit may yet come
)

func (s branchState) String() string {
	return [...]string{"active", "prepared", "committed", "aborted", "in flight"}[s]
}

// marker is what stands in L.
type marker uint8

const (
	none marker = iota
	toAbort
	toCommit  // and names all branches
	toCommit0 // and names none
)

// deal is one state of the world.
type deal struct {
	client, leader coreID // zero: it is dead
	others         [maxOthers]branchState
	l              branchState
	marker         marker
	apart          bool   // the marker was committed, and the work is on its way (a planted mistake)
	doomed         bool   // a marker to abort was inserted
	tasks          uint64 // what was asked for and is to be done, by number
	net            uint64 // messages on their way, by number; each may be lost, late and repeated
	decision       txn.Decision
	listed         uint8 // branches of the commit record
	ended, alarmed bool
	told           uint8 // outcomes, one bit each
	bad            uint8 // number of a property that a move has broken
	crashes        uint8
	breaks         uint8
}

type coreID uint16

// core is a client or a leader.
type core interface {
	Step(protocol.Event) []protocol.Effect
	String() string
}

// item is something to be done, or a message.
type item struct {
	text   string
	effect protocol.Effect // a task of the client or of the leader
	event  protocol.Event  // a message, or what the leader's log delivers
	leader bool            // whose task it is, or who hears it
}

type stepped struct {
	next    coreID
	effects []protocol.Effect
}

type world struct {
	size   Size
	cores  []core
	byText map[string]coreID
	steps  map[string]stepped
	tasks  []item
	items  []item
	bads   []string
	fresh  coreID // a leader that knows nothing
}

func newWorld(size Size) *world {
	w := &world{size: size, cores: []core{nil}, byText: map[string]coreID{}, steps: map[string]stepped{},
		bads: []string{""}}
	w.fresh = w.number(&twopc.LastCoordinator{})
	return w
}

// Search visits the states of a world.
func Search(size Size, l explore.Limits) explore.Result {
	return explore.Explore[deal](size.String(), newWorld(size), l)
}

func (w *world) number(c core) coreID {
	text := fmt.Sprintf("%T %#v", c, c)
	id, known := w.byText[text]
	if !known {
		id = coreID(len(w.cores))
		w.byText[text], w.cores = id, append(w.cores, c)
	}
	return id
}

func clone(c core) core {
	switch c := c.(type) {
	case *twopc.Initiator:
		return c.Clone()
	case *twopc.LastCoordinator:
		return c.Clone()
	}
	panic("no core")
}

// step has a core hear an event. A step is made once.
func (w *world) step(id coreID, e protocol.Event) stepped {
	key := fmt.Sprintf("%d %T%+v", id, e, e)
	s, known := w.steps[key]
	if !known {
		c := clone(w.cores[id])
		s.effects = append(s.effects, c.Step(e)...)
		s.next = w.number(c)
		w.steps[key] = s
	}
	return s
}

func set(list *[]item, i item) uint64 {
	i.text = fmt.Sprintf("%v %T%+v %T%+v", i.leader, i.effect, i.effect, i.event, i.event)
	for n := range *list {
		if (*list)[n].text == i.text {
			return 1 << n
		}
	}
	*list = append(*list, i)
	if len(*list) > 64 {
		panic("more than 64 things to do")
	}
	return 1 << (len(*list) - 1)
}

func (w *world) task(leader bool, f protocol.Effect) uint64 {
	return set(&w.tasks, item{effect: f, leader: leader})
}

func (w *world) message(toLeader bool, e protocol.Event) uint64 {
	return set(&w.items, item{event: e, leader: toLeader})
}

func (w *world) fail(d *deal, what string) {
	for n, known := range w.bads {
		if known == what {
			d.bad = uint8(n)
			return
		}
	}
	w.bads = append(w.bads, what)
	d.bad = uint8(len(w.bads) - 1)
}

// Start has a client that wants to commit work in all databases.
func (w *world) Start() deal {
	i := &twopc.Initiator{}
	for no := range w.size.Others + 1 {
		i.Step(twopc.Enlisted{No: txn.BranchNo(no)})
	}
	d := deal{leader: w.fresh, crashes: uint8(w.size.Crashes), breaks: uint8(w.size.Breaks)}
	d.client = w.number(i)
	for no := w.size.Others; no < maxOthers; no++ {
		d.others[no] = aborted
	}
	w.atClient(&d, twopc.CommitAsked{Deferred: true, Last: last})
	return d
}

// atClient steps the client, and takes down what it wants.
func (w *world) atClient(d *deal, e protocol.Event) {
	if d.client == 0 {
		return
	}
	s := w.step(d.client, e)
	d.client = s.next
	for _, f := range s.effects {
		switch f := f.(type) {
		case protocol.Reply:
			d.told |= 1 << f.Outcome
		case twopc.TellCommitted:
			d.net |= w.message(true, protocol.Asked{Branches: f.Branches})
		case twopc.TellAborted, twopc.Ask:
			d.net |= w.message(true, protocol.RollbackAsked{})
		case protocol.Report:
			d.net |= w.message(true, protocol.Finished(f))
		default:
			d.tasks |= w.task(false, f)
		}
	}
}

// atLeader steps the leader.
func (w *world) atLeader(d *deal, e protocol.Event) {
	if d.leader == 0 {
		return
	}
	s := w.step(d.leader, e)
	d.leader = s.next
	for _, f := range s.effects {
		switch f := f.(type) {
		case protocol.Propose, twopc.Settle:
			d.tasks |= w.task(true, f)
		case protocol.End:
			d.ended = d.ended || d.decision == txn.Commit
		case protocol.Alarm:
			d.alarmed = true
		}
	}
}

// answer tells the client what the log has, if it asks; it may ask at any time.
func (w *world) answer(d *deal) {
	w.atClient(d, protocol.Decided{Decision: d.decision})
}

// branchesOf are the branches in a set.
func branchesOf(listed uint8) (branches []txn.Branch) {
	for no := txn.BranchNo(1); no <= maxOthers; no++ {
		if listed>>no&1 == 1 {
			branches = append(branches, branchOf(no))
		}
	}
	return branches
}

func branchOf(no txn.BranchNo) txn.Branch {
	return txn.Branch{No: no, Resource: fmt.Sprintf("db%d", no)}
}

func setOf(branches []txn.Branch) (listed uint8) {
	for _, b := range branches {
		listed |= 1 << b.No
	}
	return listed
}

// Broken names a property that does not hold, or is empty.
func (w *world) Broken(d *deal) string {
	if d.bad != 0 {
		return w.bads[d.bad]
	}
	decided := d.l == committed
	switch {
	case !d.apart && decided && d.marker != toCommit && d.marker != toCommit0 && !d.ended:
		return "A1: L has committed its work without its marker"
	case (d.marker == toCommit || d.marker == toCommit0) && !decided:
		return "A1: L has its marker and not its work"
	case d.told>>txn.Committed&1 == 1 && !decided:
		return "A3: the client was told Committed, and L has not committed"
	case d.told>>txn.Aborted&1 == 1 && decided:
		return "A3: the client was told Aborted, and L has committed"
	case d.decision == txn.Commit && !decided:
		return "A1: the log says commit, and L has not committed"
	case d.decision == txn.Abort && decided:
		return "A2: the log says abort, and L has committed"
	}
	for n, s := range d.others {
		no := n + 1
		switch {
		case s == committed && !decided:
			return fmt.Sprintf("A1: branch %d has committed, and L has not", no)
		case s == aborted && decided && no <= w.size.Others:
			return fmt.Sprintf("A1: branch %d was rolled back, and L has committed", no)
		case s == prepared && d.decision == txn.Commit && d.listed>>no&1 == 0:
			return fmt.Sprintf("A4: branch %d is prepared, and nobody will ever end it", no)
		case s != committed && d.ended && d.listed>>no&1 == 1 && !d.alarmed:
			return fmt.Sprintf("A4: the transaction has ended, and branch %d is %v", no, s)
		}
	}
	return ""
}

// Settled reports whether nothing is left to be done.
func (w *world) Settled(d *deal) bool {
	for _, s := range d.others {
		if s == active || s == prepared {
			return false
		}
	}
	return d.l != active && d.l != flying && (d.decision != txn.Commit || d.ended)
}

// Fingerprint hashes the whole state.
func (w *world) Fingerprint(d *deal) uint64 {
	h := explore.Mix(explore.Mix(0, d.tasks), d.net)
	h = explore.Mix(h, uint64(d.client)|uint64(d.leader)<<16|uint64(d.others[0])<<32|uint64(d.others[1])<<36|
		uint64(d.l)<<40|uint64(d.marker)<<44|uint64(d.decision)<<48|uint64(d.listed)<<52)
	return explore.Mix(h, explore.Bit(d.ended)|explore.Bit(d.alarmed)<<1|explore.Bit(d.apart)<<2|
		explore.Bit(d.doomed)<<3|uint64(d.told)<<8|uint64(d.bad)<<16|uint64(d.crashes)<<24|uint64(d.breaks)<<32)
}

// Trace tells a way in words.
func (w *world) Trace(way []explore.Move) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s. The shortest way, step by step.\n", w.size)
	d := w.Start()
	for n, m := range way {
		what := w.tell(&d, m)
		w.Do(&d, m)
		fmt.Fprintf(&b, "%d. %s. L: %v, marker %d; others: %v; log: %v\n", n+1, what, d.l, d.marker,
			d.others[:w.size.Others], d.decision)
	}
	if broken := w.Broken(&d); broken != "" {
		fmt.Fprintf(&b, "# %s\n", broken)
	}
	return b.String()
}

// commitAtL commits work and marker at L, unless that was settled. It reports whether it has.
func (w *world) commitAtL(d *deal, m marker) bool {
	if d.marker == toAbort {
		d.l = aborted
		return false
	}
	if d.doomed && d.l != committed {
		w.fail(d, "A2: L commits behind a marker to abort that was inserted")
	}
	if mutant.MarkerApart {
		d.marker, d.apart = m, true
		return true
	}
	d.l, d.marker = committed, m
	return true
}
