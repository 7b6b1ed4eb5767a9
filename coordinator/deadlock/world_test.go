// SPDX-License-Identifier: Apache-2.0

package deadlock

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/txn"
)

// world is two databases with locks and a few sessions that are used again and again, clients whose
// transactions take locks in any order, and a detector that hears of all this late. The
// world knows at every moment who really waits for whom.
type world struct {
	r       *rand.Rand
	d       Detector
	now     time.Duration
	bases   []*base
	clients []*simClient
	born    uint16
	mail    []mail // on its way
	truth   map[time.Duration]map[txn.ID]bool

	quiet bool // nobody is in the middle of his commit, or gives up by himself

	found, ended int
}

type mail struct {
	at   time.Duration
	open func()
}

// base is one database.
type base struct {
	name  string
	free  []string          // sessions
	locks map[int]*simLock  // by key
	of    map[string]txn.ID // whose each session is
}

type simLock struct {
	holder string
	queue  []simWait
}

type simWait struct {
	session string
	since   time.Duration
}

// simTx works on one key after the other.
type simTx struct {
	id       txn.ID
	sessions map[*base]string
	waits    *base // nil: it works
	since    time.Duration
	voting   bool
	over     time.Duration // it ends then, unless it waits
}

type simClient struct {
	txs   []*simTx
	heard uint64
	next  time.Duration // report
	busy  bool          // a report is on its way
}

const (
	worldStep = 50 * time.Millisecond
	worldKeys = 4
)

func newWorld(seed uint64) *world {
	w := &world{r: rand.New(rand.NewPCG(seed, 7)), truth: map[time.Duration]map[txn.ID]bool{}}
	for _, name := range []string{"billing", "orders"} {
		b := &base{name: name, locks: map[int]*simLock{}, of: map[string]txn.ID{}}
		for i := range 5 {
			b.free = append(b.free, fmt.Sprintf("%s%d", name[:1], i))
		}
		for k := range worldKeys {
			b.locks[k] = &simLock{}
		}
		w.bases = append(w.bases, b)
	}
	w.clients = []*simClient{{}, {}}
	return w
}

func (w *world) clock() time.Time { return time.Unix(1_000_000, 0).Add(w.now) }

// run returns an error if a victim was named without need, or a deadlock lasted.
func (w *world) run(steps int) error {
	for range steps {
		w.now += worldStep
		for _, c := range w.clients {
			w.work(c)
			w.report(c)
		}
		due := slices.Clone(w.mail)
		w.mail = slices.DeleteFunc(w.mail, func(m mail) bool { return m.at <= w.now })
		for _, m := range due {
			if m.at <= w.now {
				m.open()
				for _, f := range w.d.Found() {
					w.found++
					if err := w.check(f); err != nil {
						return err
					}
				}
			}
		}
		w.truth[w.now] = w.deadlocked()
		if look, ask := w.d.Tick(w.clock()); len(ask) > 0 {
			w.look(look, ask)
		}
	}
	return nil
}

// work lets the transactions of a client go on.
func (w *world) work(c *simClient) {
	if len(c.txs) < 3 && w.r.IntN(3) == 0 {
		w.born++
		x := &simTx{sessions: map[*base]string{}, over: w.now + time.Duration(200+w.r.IntN(2500))*time.Millisecond}
		x.id = txn.NewID(w.clock())
		copy(x.id[6:], []byte{0, 0, 0, 0, 0, 0, 0, byte(w.born >> 8), byte(w.born), 0}) // so that a seed is a world
		c.txs = append(c.txs, x)
	}
	for _, x := range slices.Clone(c.txs) {
		switch {
		case x.waits != nil && !w.quiet && w.r.IntN(120) == 0: // it is given up, for a reason of its own
			w.end(c, x)
		case x.waits != nil && !w.quiet && !x.voting && w.r.IntN(80) == 0: // the statement alone
			x.waits.leave(x.sessions[x.waits])
			x.waits = nil
		case x.waits != nil:
		case w.now >= x.over:
			if !w.quiet && !x.voting && len(x.sessions) > 1 && w.r.IntN(3) == 0 { // a constraint that is checked late
				x.voting = true
				w.lock(c, x)
				continue
			}
			w.end(c, x)
		case w.r.IntN(6) == 0:
			w.lock(c, x)
		}
	}
}

func (w *world) lock(c *simClient, x *simTx) {
	b := w.bases[w.r.IntN(len(w.bases))]
	s, has := x.sessions[b]
	if !has {
		if len(b.free) == 0 {
			return
		}
		s, b.free = b.free[len(b.free)-1], b.free[:len(b.free)-1] // the last one given back
		x.sessions[b], b.of[s] = s, x.id
	}
	key := w.r.IntN(worldKeys)
	l := b.locks[key]
	switch {
	case l.holder == s:
	case l.holder == "":
		l.holder = s
	default:
		l.queue = append(l.queue, simWait{s, w.now})
		x.waits, x.since = b, w.now
		if w.circleIn(b, s) {
			w.end(c, x)
		}
	}
}

// edges are the waits in a database.
func (b *base) edges(visit func(from, to string, since time.Duration)) {
	for _, key := range slices.Sorted(maps.Keys(b.locks)) {
		l := b.locks[key]
		for i, q := range l.queue {
			visit(q.session, l.holder, q.since)
			for _, ahead := range l.queue[:i] {
				visit(q.session, ahead.session, q.since)
			}
		}
	}
}

// circleIn is how a database itself finds a deadlock.
func (w *world) circleIn(b *base, s string) bool {
	to := map[string][]string{}
	b.edges(func(from, of string, _ time.Duration) { to[from] = append(to[from], of) })
	been := map[string]bool{}
	var reaches func(at string) bool
	reaches = func(at string) bool {
		for _, next := range to[at] {
			if next == s || !been[next] && func() bool { been[next] = true; return reaches(next) }() {
				return true
			}
		}
		return false
	}
	return reaches(s)
}

// end commits or rolls back: locks and sessions are free.
func (w *world) end(c *simClient, x *simTx) {
	c.txs = slices.DeleteFunc(c.txs, func(o *simTx) bool { return o == x })
	for _, b := range w.bases {
		s, has := x.sessions[b]
		if !has {
			continue
		}
		b.leave(s)
		for _, key := range slices.Sorted(maps.Keys(b.locks)) {
			l := b.locks[key]
			if l.holder != s {
				continue
			}
			l.holder = ""
			if len(l.queue) > 0 {
				l.holder, l.queue = l.queue[0].session, l.queue[1:]
				if o := w.find(b.of[l.holder]); o != nil {
					o.waits = nil
				}
			}
		}
		delete(b.of, s)
		b.free = append(b.free, s)
	}
}

// leave gives a wait up.
func (b *base) leave(s string) {
	for _, l := range b.locks {
		l.queue = slices.DeleteFunc(l.queue, func(q simWait) bool { return q.session == s })
	}
}

func (w *world) find(id txn.ID) *simTx {
	for _, c := range w.clients {
		for _, x := range c.txs {
			if x.id == id {
				return x
			}
		}
	}
	return nil
}

// report sends what a client sees, which arrives later; so does the answer.
func (w *world) report(c *simClient) {
	var all []Waiter
	for _, x := range c.txs {
		if x.waits == nil || w.now-x.since < Longer {
			continue
		}
		said := Waiter{ID: x.id, Voting: x.voting}
		for _, b := range w.bases {
			if s, has := x.sessions[b]; has {
				said.Branches = append(said.Branches, Branch{Session{b.name, s}, x.waits == b})
			}
		}
		all = append(all, said)
	}
	if len(all) == 0 || c.busy || w.now < c.next {
		return
	}
	c.busy = true
	heard := c.heard
	w.send(func() {
		victims := w.d.Report(w.clock(), heard, all)
		done := w.d.Done()
		w.send(func() {
			c.busy, c.next = false, w.now+250*time.Millisecond
			if c.heard != done {
				c.heard, c.next = done, w.now
			}
			for _, v := range victims {
				if x := w.find(v.Victim); x != nil && !x.voting {
					w.ended++
					w.end(c, x)
				}
			}
		})
	})
}

func (w *world) send(open func()) {
	late := time.Duration(w.r.IntN(4)) * worldStep
	if !w.quiet && w.r.IntN(25) == 0 {
		late = time.Duration(w.r.IntN(40)) * worldStep
	}
	w.mail = append(w.mail, mail{w.now + late, open})
}

// look asks the databases; each answers with what it was at some moment in between.
func (w *world) look(number uint64, ask []string) {
	for _, b := range w.bases {
		if !slices.Contains(ask, b.name) {
			continue
		}
		w.send(func() {
			var waits []adapters.Wait
			b.edges(func(from, to string, since time.Duration) {
				if w.now-since >= Longer {
					waits = append(waits, adapters.Wait{Session: from, For: to, Since: time.Unix(0, int64(since))})
				}
			})
			w.send(func() {
				w.d.Answer(w.clock(), number, b.name, waits)
			})
		})
	}
}

// deadlocked are the transactions that are in a circle at this moment.
func (w *world) deadlocked() map[txn.ID]bool {
	g := newGraph()
	for _, b := range w.bases {
		b.edges(func(from, to string, _ time.Duration) { g.add(node{id: b.of[from]}, node{id: b.of[to]}, b.name) })
	}
	in := map[txn.ID]bool{}
	for _, c := range g.components(func(arc) bool { return true }) {
		for _, n := range c {
			in[n.id] = true
		}
	}
	return in
}

// check holds a victim against the truth: between the two looks it was in a circle, and it did not
// commit when its client was heard.
func (w *world) check(f Deadlock) error {
	between := w.d.earlier.Sub(time.Unix(1_000_000, 0)) // when the later look began
	if !w.truth[between][f.Victim] {
		return fmt.Errorf("after %v: no deadlock: %v", w.now, f)
	}
	if w.d.waiters[f.Victim].Voting {
		return fmt.Errorf("after %v: the victim commits, as its client has said: %v", w.now, f)
	}
	return nil
}

// lasting returns an error if somebody has been in a deadlock for so long.
func (w *world) lasting(d time.Duration) error {
	for id := range w.truth[w.now] {
		x := w.find(id)
		for at := w.now; w.truth[at][id] && x != nil; at -= worldStep {
			if w.now-at > d {
				return fmt.Errorf("after %v: %v is in a deadlock since %v", w.now, id, at)
			}
		}
	}
	return nil
}
