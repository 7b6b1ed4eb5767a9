// SPDX-License-Identifier: Apache-2.0

package txnsim

import (
	"math/rand/v2"
	"slices"

	"github.com/concordtx/concord/adapters/joined"
	"github.com/concordtx/concord/api"
	"github.com/concordtx/concord/coordinator/commit"
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/internal/sim"
	"github.com/concordtx/concord/txn"
)

// In some seeds clients call services, which join their transactions with a branch of their own, and one of them hands
// the transaction on to another one. Which calls a service does, and for which it votes, is joined.Calls of the
// product; its driver, databases and network are here. Calls, votes and decisions are lost, repeated and late; a
// service may be killed at any time, and starts again as another one; somebody who has seen a call makes calls of his
// own.

// service is one process that joins transactions, over all its lives.
type service struct {
	w     *world
	bank  *bank
	no    txn.BranchNo // of its branches
	next  *service     // that it hands transactions on to; nil: none
	life  int
	parts map[txn.ID]*part
}

// part is what a life of a service does in a transaction.
type part struct {
	s      *service
	life   int
	ghost  *ghost
	calls  joined.Calls
	done   map[api.CallName]bool
	own    *branch
	stolen bool // somebody else had work done in it
	failed bool // a call
	onward []*account
	voting bool
	voted  bool // yes
	told   bool // how it ends, by who began it
	over   bool
}

// account is what a caller knows of a service that it has called.
type account struct {
	s        *service
	life     int
	heard    joined.Heard
	branches []*branch // of the service, and of those behind it
}

// settlePatience is for how long a service waits for a decision; then the cluster ends what is prepared.
const settlePatience = 20 * sim.Second

// call is a call on its way.
type call struct {
	name api.CallName
	hand bool // the service is to hand the transaction on
	twin bool // it arrives once more
}

// openServices gives some seeds services. They draw from a generator of their own.
func (w *world) openServices(seed uint64) {
	if seed%8 != 3 || seed%5 == 0 {
		return
	}
	w.errands = rand.New(rand.NewPCG(seed, 0x73657276))
	w.quirks.Retention = 0 // of what the log has forgotten it tells nobody
	for i := range 2 {
		s := &service{w: w, bank: w.banks[i], no: txn.BranchNo(10 * (i + 1)), parts: map[txn.ID]*part{}}
		w.services = append(w.services, s)
	}
	w.services[0].next = w.services[1]
	if w.Swarm.Quiet {
		return
	}
	for _, s := range w.services {
		mean := 300*sim.Millisecond + sim.Instant(w.errands.ExpFloat64()*float64(3*sim.Second))
		w.often(mean, s.kill)
	}
}

func (w *world) errand(p float64) bool { return !w.Healed && !w.Swarm.Quiet && w.errands.Float64() < p }

// deliver brings something to a service or back, once, or twice, or never.
func (w *world) deliver(twin bool, do func()) {
	if !w.errand(w.loss) {
		w.After(w.About(10*sim.Millisecond)+1, do)
	}
	if twin {
		w.After(w.About(sim.Second)+1, do)
	}
}

// kill is kill -9: what is not prepared is rolled back.
func (s *service) kill() {
	s.w.hit(ServiceKilled)
	s.life++
	for _, p := range s.inOrder() {
		p.over = true
		if p.own != nil {
			p.own.closeSession()
		}
	}
	clear(s.parts)
}

func (s *service) inOrder() (parts []*part) {
	for _, p := range s.parts {
		parts = append(parts, p)
	}
	slices.SortFunc(parts, func(a, b *part) int { return a.ghost.id.Compare(b.ghost.id) })
	return parts
}

// visit calls a service, and goes on with what it has answered, or with false if there was no answer, or a bad one.
func (w *world) visit(g *ghost, s *service, k call, known *account, hear func(*account, bool)) {
	answered := false
	answer := func(life int, branches []*branch, ok bool) {
		w.deliver(false, func() {
			if answered {
				return
			}
			answered = true
			if known == nil {
				known = &account{s: s, life: life}
			}
			if known.life != life { // another process has the same database
				hear(nil, false)
				return
			}
			known.heard.Add(k.name)
			known.branches = branches
			hear(known, ok)
		})
	}
	w.deliver(k.twin, func() { s.receive(g, k, answer) })
	w.After(500*sim.Millisecond, func() {
		if !answered {
			answered = true
			w.hit(CallUnanswered)
			if w.planted == ForgiveLostAnswer {
				hear(known, true)
				return
			}
			hear(known, false)
		}
	})
	if w.errand(0.1) { // somebody else has seen the call, and makes one of his own
		theft := call{name: k.name + 1, hand: false}
		w.After(w.About(200*sim.Millisecond)+1, func() { s.receive(g, theft, func(int, []*branch, bool) {}) })
	}
}

// receive does a call.
func (s *service) receive(g *ghost, k call, answer func(life int, branches []*branch, ok bool)) {
	w := s.w
	refuse := func() { answer(s.life, nil, false) }
	p := s.parts[g.id]
	if p == nil {
		if w.Now-g.born > sim.Instant(rules.MaxTransaction.Microseconds()) {
			refuse() // the call carries the deadline
			return
		}
		p = &part{s: s, life: s.life, ghost: g, done: map[api.CallName]bool{}}
		s.parts[g.id] = p
		p.look()
	}
	if err := p.calls.Enter(k.name); err != nil {
		w.hit(CallRefused)
		refuse()
		return
	}
	asked := p.voting || p.voted || p.over
	p.work(k)
	leave := func(ok bool) {
		p.calls.Leave(k.name)
		p.failed = p.failed || !ok
		if asked && ok {
			w.check.Fail("JOIN", "a call in %v was done after the votes were asked for, so nobody votes for its work",
				g.id)
		}
		answer(p.life, p.branches(), ok && !p.failed)
	}
	if !k.hand || s.next == nil {
		leave(p.own != nil && !p.own.failed)
		return
	}
	w.hit(HandedOn)
	further := call{name: k.name + 2, twin: w.errand(0.1)}
	w.visit(g, s.next, further, p.account(s.next), func(a *account, ok bool) {
		if a != nil && !slices.Contains(p.onward, a) {
			p.onward = append(p.onward, a)
		}
		leave(ok && !p.over && p.own != nil && !p.own.failed)
	})
}

// work is what a call does in the service's database, once for each name.
func (p *part) work(k call) {
	w, key := p.s.w, branchKey{p.ghost.id, p.s.no}
	switch {
	case p.own == nil && p.s.bank.branches[key] != nil:
		p.failed = true // another life has it, and the database lets nobody else
		return
	case p.own == nil:
		p.own = &branch{ghost: p.ghost, no: p.s.no, part: p, work: w.errands.Uint64() | 1}
		p.s.bank.add(p.own)
		if w.quirks.Rows > 0 {
			p.own.row = w.errands.IntN(w.quirks.Rows)
		}
		if !p.own.lock() { // nobody waits here
			p.own.failed = true
		}
	}
	if p.own.state == active && p.done[k.name] {
		p.own.doubled = true
	}
	p.done[k.name] = true
	p.stolen = p.stolen || !p.ghost.made[k.name]
	p.own.stolen = p.own.stolen || p.own.state == active && p.stolen
}

func (p *part) account(s *service) *account {
	if i := slices.IndexFunc(p.onward, func(a *account) bool { return a.s == s }); i >= 0 {
		return p.onward[i]
	}
	return nil
}

// branches are all that are open here, and behind.
func (p *part) branches() (all []*branch) {
	if p.own != nil {
		all = append(all, p.own)
	}
	for _, a := range p.onward {
		all = append(all, a.branches...)
	}
	return all
}

// look asks the cluster again and again, before the vote whether it goes on, and behind it how it was decided.
func (p *part) look() {
	w := p.s.w
	w.After(w.About(400*sim.Millisecond)+1, func() {
		if p.over {
			return
		}
		late := w.Now-p.ghost.born > sim.Instant(rules.MaxTransaction.Microseconds())
		if !p.voting && late || p.voted && late && w.planted == BreakPromise {
			p.end(txn.Abort)
			return
		}
		if w.Now-p.ghost.born > settlePatience { // perhaps nobody has decided, and a DBA has taken what was prepared
			p.leave()
			return
		}
		p.ask(nil)
		p.look()
	})
}

// leave lets go of the transaction, as it is.
func (p *part) leave() {
	p.over = true
	delete(p.s.parts, p.ghost.id)
	if p.own != nil {
		p.own.closeSession()
	}
}

// ask asks the cluster, and ends if that knows a decision; or with want only if it is this one.
func (p *part) ask(want *txn.Decision) {
	w, n := p.s.w, p.s.w.leaderOrAny()
	op := w.check.history.ask(p.ghost.id, askView, w.Now)
	w.question(n, false, func(request uint64) replica.Event {
		return commit.ViewAsked{Request: request, ID: p.ghost.id}
	}, func(r commit.Reply) {
		if r.Err != nil {
			return
		}
		if r.View.Known || !w.mayBePurged(p.ghost.id) { // else nobody can tell it from an undecided one
			op.answer(r.View.Txn.Decision, w.Now)
		}
		d := r.View.Txn.Decision
		gone := n.Up && n.Host.(*host).table.LeaseEnded(p.ghost.id.Lease())
		switch {
		case p.over || want != nil && d != *want:
		case d == txn.Undecided && gone && !p.voting:
			p.end(txn.Abort)
		case d == txn.Undecided:
		case p.voted:
			w.hit(DecisionFollowed)
			p.end(d)
		case !p.voting: // it was decided without this service
			p.end(txn.Abort)
		}
	}, func() {})
}

// poll asks a service for its votes, several times; one answer counts.
func (w *world) poll(a *account, hear func(yes bool)) {
	heard, known := a.heard, a.branches
	answered := false
	answer := func(yes bool) {
		w.deliver(false, func() {
			if !answered {
				answered = true
				hear(yes)
			}
		})
	}
	var try func(n int)
	try = func(n int) {
		if answered {
			return
		}
		if n == 0 {
			answered = true
			hear(false)
			return
		}
		w.deliver(w.errand(0.1), func() { a.s.vote(a.life, known, heard, answer) })
		w.After(200*sim.Millisecond, func() { try(n - 1) })
	}
	if len(known) > 0 {
		try(4)
		return
	}
	hear(true) // it holds nothing, and is told how it ends
}

// vote answers with the votes of all branches here and behind.
func (s *service) vote(life int, known []*branch, heard joined.Heard, answer func(yes bool)) {
	if len(known) == 0 {
		answer(true)
		return
	}
	p := s.parts[known[0].ghost.id]
	switch {
	case p == nil || p.life != life || s.life != life:
		answer(false)
		return
	case !p.calls.Ask():
		if p.voted || p.over {
			answer(p.voted)
		}
		return
	}
	p.voting = true
	var nos []txn.BranchNo
	var opened []api.OpenedBranch
	for _, b := range known {
		nos = append(nos, b.no)
	}
	for _, b := range p.branches() {
		opened = append(opened, api.OpenedBranch{No: b.no, Resource: b.bank.name})
	}
	if err := p.calls.Differ(heard, nos, opened); err != nil || p.failed {
		if err != nil {
			s.w.hit(VoteUnheard)
		}
		p.end(txn.Abort)
		answer(false)
		return
	}
	p.prepare(answer)
}

// prepare prepares its own branch, and asks those behind for their votes.
func (p *part) prepare(answer func(yes bool)) {
	w, left, no := p.s.w, 1+len(p.onward), false
	count := func(yes bool) {
		left--
		if no = no || !yes; left > 0 || p.over {
			return
		}
		if no {
			p.end(txn.Abort)
		} else {
			p.voted = true
		}
		answer(p.voted)
	}
	w.After(w.About(10*sim.Millisecond)+1, func() { count(p.own.prepare() && !p.over) })
	for _, a := range p.onward {
		w.poll(a, count)
	}
}

// tell brings a decision to a service. Without a proof the service asks the cluster first.
func (w *world) tell(a *account, id txn.ID, d txn.Decision, proof bool) {
	for range 2 {
		w.deliver(false, func() {
			p := a.s.parts[id]
			switch {
			case p == nil || p.life != a.life || p.over:
			case proof:
				p.calls.Ask()
				p.told = true
				p.end(d)
			default:
				p.ask(&d)
			}
		})
	}
}

// end ends the part. An abort before its vote is its own.
func (p *part) end(d txn.Decision) {
	w, proof := p.s.w, p.told
	p.over, p.voting = true, true
	p.calls.Ask()
	delete(p.s.parts, p.ghost.id)
	for _, a := range p.onward {
		w.tell(a, p.ghost.id, d, proof)
	}
	b := p.own
	if b == nil {
		return
	}
	if d == txn.Commit && p.voted {
		w.hit(JoinedCommitted)
	}
	attempt{b: b, d: d, own: true, holder: true, evident: !b.bank.noMarker, done: func(f txn.Finish, err error) {
		if err == nil && d == txn.Commit && p.life == p.s.life {
			n, xid := w.leaderOrAny(), b.xid()
			w.say(func() {
				w.Event(n, asked{event: commit.Finished{XID: xid, Finish: f, By: txn.FromClient, Who: "service",
					Why: "seen by its session"}})
			})
		}
		b.closeSession()
	}}.run()
}

// joinedCommits is JOIN: what commits in a service was done once, and for who began the transaction.
func (c *checker) joinedCommits(b *branch) {
	switch {
	case b.part == nil || b.state != committed:
	case b.doubled:
		c.Fail("JOIN", "a call in %v that arrived twice was done twice, and both commit", b.ghost.id)
	case b.stolen:
		c.Fail("JOIN", "the work of somebody who took part in %v without being asked commits", b.ghost.id)
	}
}
