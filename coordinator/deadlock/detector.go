// SPDX-License-Identifier: Apache-2.0

package deadlock

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/internal/mutant"
	"github.com/concordtx/concord/txn"
)

const (
	// Longer is how long a transaction has to wait before anybody takes an interest.
	Longer = time.Second
	// lookGap lies between the end of a look at the databases and the beginning of the next.
	lookGap = 400 * time.Millisecond
	// lookTime bounds a look: a database that has not answered by then has nothing to say in it.
	lookTime = 2 * time.Second
	// forgetAfter is how long what a client said holds. It says it four times a second.
	forgetAfter = time.Second
	// maxWaiters transactions are known at a time. Others end by the lock time-outs of their databases.
	maxWaiters = 4096
	// maxVictims are named at a time; the next look finds the rest.
	maxVictims = 16
)

// Session is a session of a database, as the adapter names it.
type Session struct{ Resource, Name string }

// Branch is a branch of a transaction that waits.
type Branch struct {
	Session
	Waits bool // the database was asked for something on this session a second ago, and has not answered
}

// Waiter is a transaction that has waited for longer than a second, as its client says.
type Waiter struct {
	ID       txn.ID
	Voting   bool // it is being committed, and must not be ended any more
	Branches []Branch
}

// Detector finds deadlocks. Its zero value is ready to use.
type Detector struct {
	waiters map[txn.ID]*waiter

	look    uint64          // number of the last one
	done    uint64          // number of the last one that has ended
	pending map[string]bool // databases that have not answered it
	began   time.Time
	ended   time.Time
	seen    map[edge]bool // in it
	before  map[edge]bool // in the one before
	earlier time.Time     // when that began; zero: there was none

	sure []edge    // seen in both, in order
	from time.Time // when the first of both began

	found []Deadlock
}

// waiter is what is known of a transaction.
type waiter struct {
	Waiter
	since  map[Session]time.Time // when its client first said that it has the session
	last   time.Time             // when its client last said something
	after  uint64                // a look that had ended when the client said so
	victim *Deadlock             // that it has to end
}

// edge says that a session waits for another one, or for a prepared branch of a transaction.
type edge struct {
	from     Session
	to       Session
	prepared txn.ID
	since    int64
}

func (e edge) compare(o edge) int {
	return cmp.Or(e.from.compare(o.from), e.to.compare(o.to), e.prepared.Compare(o.prepared),
		cmp.Compare(e.since, o.since))
}

func (s Session) compare(o Session) int {
	return cmp.Or(cmp.Compare(s.Resource, o.Resource), cmp.Compare(s.Name, o.Name))
}

// Clear forgets everything. Looks have numbers above first from now on: clients may still tell of those
// of an earlier leader.
func (d *Detector) Clear(first uint64) { *d = Detector{look: first, done: first} }

// Done is the number of the last look that has ended.
func (d *Detector) Done() uint64 { return d.done }

// Report takes what a client says of all its transactions that wait, and returns those deadlocks of
// which one of them is the victim. The client had heard of a look's end before it looked at its transactions.
func (d *Detector) Report(now time.Time, heard uint64, all []Waiter) (victims []Deadlock) {
	if d.waiters == nil {
		d.waiters = map[txn.ID]*waiter{}
	}
	for _, w := range all {
		known := d.waiters[w.ID]
		if known == nil && len(d.waiters) >= maxWaiters {
			continue
		}
		if known == nil {
			known = &waiter{}
			d.waiters[w.ID] = known
		}
		known.hear(now, heard, w)
	}
	d.judge()
	for _, w := range all {
		if known := d.waiters[w.ID]; known != nil && known.victim != nil {
			victims = append(victims, *known.victim)
		}
	}
	return victims
}

func (w *waiter) hear(now time.Time, heard uint64, said Waiter) {
	since := make(map[Session]time.Time, len(said.Branches))
	for _, b := range said.Branches {
		since[b.Session] = now
		if first, had := w.since[b.Session]; had {
			since[b.Session] = first
		}
	}
	w.Waiter, w.since, w.last, w.after = said, since, now, heard
}

// Tick lets time pass. It returns which databases have to be looked at, and the number of the look that
// has begun: Answer is called once for each.
func (d *Detector) Tick(now time.Time) (look uint64, ask []string) {
	maps.DeleteFunc(d.waiters, func(_ txn.ID, w *waiter) bool { return now.Sub(w.last) > forgetAfter })
	if len(d.pending) > 0 {
		if now.Sub(d.began) > lookTime {
			clear(d.pending)
			d.end(now)
		}
		return 0, nil
	}
	ask = d.worth()
	if ask == nil {
		d.before, d.earlier, d.sure = nil, time.Time{}, nil
		return 0, nil
	}
	if now.Sub(d.ended) < lookGap && !d.ended.IsZero() {
		return 0, nil
	}
	d.look++
	d.began, d.seen, d.pending = now, map[edge]bool{}, map[string]bool{}
	for _, name := range ask {
		d.pending[name] = true
	}
	return d.look, ask
}

// worth returns in which databases transactions wait, or nil if there can be no deadlock.
func (d *Detector) worth() (ask []string) {
	if len(d.waiters) < 2 {
		return nil
	}
	for _, w := range d.waiters {
		for _, b := range w.Branches {
			if b.Waits && !slices.Contains(ask, b.Resource) {
				ask = append(ask, b.Resource)
			}
		}
	}
	if len(ask) < 2 {
		return nil
	}
	slices.Sort(ask)
	return ask
}

// Answer takes what a database says in a look.
func (d *Detector) Answer(now time.Time, look uint64, resource string, waits []adapters.Wait) {
	if look != d.look || !d.pending[resource] {
		return
	}
	delete(d.pending, resource)
	for _, w := range waits {
		e := edge{from: Session{resource, w.Session}, prepared: w.Branch.ID, since: w.Since.UnixMicro()}
		if w.For != "" {
			e.to, e.prepared = Session{resource, w.For}, txn.ID{}
		}
		d.seen[e] = true
	}
	if len(d.pending) == 0 {
		d.end(now)
	}
}

// end ends a look. What it has shown counts once the clients have heard of it.
func (d *Detector) end(now time.Time) {
	d.sure = nil
	for e := range d.seen {
		if d.before[e] || mutant.DeadlockAtOneLook {
			d.sure = append(d.sure, e)
		}
	}
	slices.SortFunc(d.sure, edge.compare)
	d.from = d.earlier
	if d.from.IsZero() {
		d.from = d.began
	}
	d.before, d.earlier, d.ended, d.done = d.seen, d.began, now, d.look
}

// Found returns the deadlocks that were found since the last call.
func (d *Detector) Found() []Deadlock {
	found := d.found
	d.found = nil
	return found
}

// judge looks for circles among the waits that are sure, and names victims.
func (d *Detector) judge() {
	if len(d.sure) == 0 {
		return
	}
	g := d.graph()
	g.leaveToDatabases()
	for range maxVictims {
		victim, circle := g.circle(d.mayEnd)
		if circle == nil {
			return
		}
		found := newDeadlock(victim.id, circle, d.waiters)
		d.waiters[victim.id].victim = &found
		d.found = append(d.found, found)
		g.remove(victim)
	}
}

// mayEnd reports whether a node is a transaction whose client can end it.
func (d *Detector) mayEnd(n node) bool {
	w := d.waiters[n.id]
	return w != nil && (!w.Voting || mutant.DeadlockEndsVoters)
}

// graph makes nodes of those who wait for each other for certain.
func (d *Detector) graph() *graph {
	owners := map[Session]txn.ID{}
	for id, w := range d.waiters {
		if w.after != d.done && !mutant.DeadlockAtOneLook {
			continue // perhaps it has ended, and its sessions are somebody else's
		}
		for s, since := range w.since {
			if since.After(d.from) && !mutant.DeadlockAtOneLook {
				continue
			}
			if _, claimed := owners[s]; claimed {
				owners[s] = txn.ID{} // nobody's
				continue
			}
			owners[s] = id
		}
	}
	g := newGraph()
	place := func(s Session) node {
		if id := owners[s]; !id.IsZero() {
			return node{id: id}
		}
		return node{session: s}
	}
	for _, e := range d.sure {
		to := node{id: e.prepared}
		if e.prepared.IsZero() {
			to = place(e.to)
		}
		g.add(place(e.from), to, e.from.Resource)
	}
	for id, w := range d.waiters {
		if w.victim != nil { // it is being ended
			g.remove(node{id: id})
		}
	}
	return g
}
