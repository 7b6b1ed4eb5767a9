// SPDX-License-Identifier: Apache-2.0

package commit

import (
	"cmp"
	"container/heap"
	"time"

	"github.com/concordtx/concord/txn"
)

// A leader may have any number of branches to finish, and nobody goes through all of them.
// Each waits in one of these places: for its time, for room at the workers of its resource, or
// with the workers. What was finished meanwhile is dropped when its turn comes.

// slot is a place with the workers of a resource: for first attempts, or for others.
type slot struct {
	resource string
	again    bool
}

// most is how many branches may be there.
func (s slot) most() int {
	if s.again {
		return MaxRetries
	}
	return MaxTasks
}

// due has the branches of one resource that the leader has to finish.
type due struct {
	// away: the resource has left the configuration, and they wait until it is back.
	away bool
	open byAge[*branch] // of committed transactions
	// era counts how often the resource has come back. What failed in an earlier one says nothing
	// about a branch, and has kept it waiting for long enough.
	era     uint64
	timers  timers             // branches of committed transactions that wait for their time
	fresh   readyBranches      // that wait for room, and were never tried
	retries readyBranches      // and that were
	back    [][]readyBranch    // that waited to be tried again when the resource came back
	chases  [2][]*listedBranch // listed branches with a decision, never tried and tried
}

// current is what counts of the attempts at a branch.
func (d *due) current(w work, now time.Time) work {
	if w.attempts > 0 && w.era < d.era {
		w.attempts, w.due = 0, now
	}
	w.era = d.era
	return w
}

// returned is when a resource that could not be asked answers again.
func (d *due) returned() {
	d.era++
	d.back = append(d.back, d.retries)
	d.retries = nil
}

// waits reports whether something waits for room.
func (d *due) waits() bool {
	return len(d.fresh)+len(d.retries)+len(d.chases[0])+len(d.chases[1]) > 0
}

// dueAt returns what is due at a resource, also at one that has left the configuration.
func (c *Machine) dueAt(resource string) *due {
	d := c.due[resource]
	if d == nil {
		d = &due{away: true}
		c.due[resource] = d
	}
	return d
}

// takeUp takes a branch in hand.
func (c *Machine) takeUp(b *branch, at time.Time) {
	d := c.dueAt(b.Resource)
	b.open, b.work = true, work{due: at, era: d.era}
	d.open.add(b)
	c.setWorking(b, true)
	c.await(b)
}

// putDown lets go of a branch: it is finished, or its transaction is not in hand any more.
func (c *Machine) putDown(b *branch) {
	if b == nil || !b.open {
		return
	}
	c.setWorking(b, false)
	c.dueAt(b.Resource).open.remove(b)
	b.open, b.work = false, work{}
}

// letGo lets go of a transaction.
func (c *Machine) letGo(id txn.ID) {
	l := c.live[id]
	if l == nil {
		return
	}
	delete(c.live, id)
	for i := range l.branches {
		c.putDown(&l.branches[i])
	}
}

func (c *Machine) setWorking(b *branch, working bool) {
	for _, listed := range c.listed[b.of.id] {
		if listed.ours && listed.xid.Branch == b.No && listed.resource == b.Resource {
			listed.setWorking(working)
		}
	}
}

// timer is when a branch is due. Those of an earlier era are.
type timer struct {
	era uint64
	at  time.Time
	x   txn.XID
}

// timers is a heap, the earliest first.
type timers []timer

func (t timers) Len() int { return len(t) }
func (t timers) Less(i, j int) bool {
	return cmp.Or(cmp.Compare(t[i].era, t[j].era), t[i].at.Compare(t[j].at), t[i].x.Compare(t[j].x)) < 0
}
func (t timers) Swap(i, j int) { t[i], t[j] = t[j], t[i] }

// Push implements heap.Interface.
func (t *timers) Push(x any) { *t = append(*t, x.(timer)) }

// Pop implements heap.Interface.
func (t *timers) Pop() any {
	last := len(*t) - 1
	x := (*t)[last]
	*t = (*t)[:last]
	return x
}

// readyBranch is a branch of a committed transaction whose time has come.
type readyBranch struct {
	x        txn.XID
	attempts int
	due      time.Time
}

// readyBranches is a heap: first those that were never tried, from the youngest on, since a new decision is not to
// wait behind thousands of old ones, whose clients have long given up; then those that failed, the fewer times the
// sooner.
type readyBranches []readyBranch

func (r readyBranches) Len() int { return len(r) }
func (r readyBranches) Less(i, j int) bool {
	a, b := &r[i], &r[j]
	if a.attempts == 0 && b.attempts == 0 {
		return b.x.Compare(a.x) < 0
	}
	return cmp.Or(cmp.Compare(a.attempts, b.attempts), a.due.Compare(b.due), a.x.Compare(b.x)) < 0
}
func (r readyBranches) Swap(i, j int) { r[i], r[j] = r[j], r[i] }

// Push implements heap.Interface.
func (r *readyBranches) Push(x any) { *r = append(*r, x.(readyBranch)) }

// Pop implements heap.Interface.
func (r *readyBranches) Pop() any {
	last := len(*r) - 1
	x := (*r)[last]
	*r = (*r)[:last]
	return x
}

// await has a branch wait for its time.
func (c *Machine) await(b *branch) {
	if d := c.dueAt(b.Resource); !d.away {
		heap.Push(&d.timers, timer{era: d.era, at: b.due, x: c.xid(b.of.id, b.No)})
	}
}

// sweep gives branches that are due to the recovery workers, a piece in a turn: first those that
// were never tried, from the youngest on; then those that failed, the fewer times the sooner. What
// nobody can finish comes last, and in few places, so it delays nobody.
func (c *Machine) sweep() {
	if !c.sweeping && c.core.Now().Before(c.nextSweep) {
		return
	}
	c.sweeping, c.nextSweep = false, c.core.Now().Add(sweepInterval)
	for _, name := range c.config.Resources {
		d := c.due[name]
		if c.table.Quarantined(name) {
			continue
		}
		left := c.wakeDue(d, c.core.Piece())
		left = c.assignReady(&d.fresh, slot{name, false}, left)
		left = c.assignReady(&d.retries, slot{name, true}, left)
		left = c.chase(d, slot{name, false}, left)
		left = c.chase(d, slot{name, true}, left)
		switch {
		case left == 0:
			c.sweeping = true
		case d.waits(): // there is more to do than they can take: look again at the next tick
			c.nextSweep = c.core.Now()
		}
	}
}

// wakeDue has branches wait for room whose time has come. It returns how many steps are left.
func (c *Machine) wakeDue(d *due, left int) int {
	for ; left > 0 && len(d.back) > 0; left-- {
		last := &d.back[len(d.back)-1]
		if n := len(*last); n > 0 {
			c.makeReady(d, (*last)[n-1].x)
			*last = (*last)[:n-1]
		} else {
			d.back = d.back[:len(d.back)-1]
		}
	}
	for ; left > 0 && len(d.timers) > 0 && (d.timers[0].era < d.era || !c.core.Now().Before(d.timers[0].at)); left-- {
		c.makeReady(d, heap.Pop(&d.timers).(timer).x)
	}
	return left
}

// makeReady has a branch wait for room, or on for its time.
func (c *Machine) makeReady(d *due, x txn.XID) {
	c.core.Spend(1)
	b := c.unfinished(x)
	if b == nil {
		return
	}
	b.work = d.current(b.work, c.core.Now())
	switch {
	case c.core.Now().Before(b.due):
		c.await(b)
	case b.attempts > 0:
		heap.Push(&d.retries, readyBranch{x, b.attempts, b.due})
	default:
		heap.Push(&d.fresh, readyBranch{x, b.attempts, b.due})
	}
}

// unfinished returns a branch of a committed transaction that is to be finished and not with the
// workers, or nil.
func (c *Machine) unfinished(x txn.XID) *branch {
	if _, busy := c.tasks[x]; busy {
		return nil
	}
	if b := c.live[x.ID].branch(x.Branch); b != nil && b.open {
		return b
	}
	return nil
}

// assignReady gives branches to the workers, as many as they have room for.
func (c *Machine) assignReady(ready *readyBranches, s slot, left int) int {
	for ; left > 0 && ready.Len() > 0 && c.load[s] < s.most(); left-- {
		c.core.Spend(1)
		x := heap.Pop(ready).(readyBranch).x
		if b := c.unfinished(x); b != nil {
			c.assign(Task{XID: x, Branch: *b.Branch, Decision: b.of.core.Decision(), Again: s.again, Trace: b.of.trace})
		}
	}
	return left
}

// chase gives listed branches with a known decision to the workers, as many as they have room
// for. Those that failed lately wait for a later scan.
func (c *Machine) chase(d *due, s slot, left int) int {
	queue := &d.chases[0]
	if s.again {
		queue = &d.chases[1]
	}
	for ; left > 0 && len(*queue) > 0 && c.load[s] < s.most(); left-- {
		c.core.Spend(1)
		b := (*queue)[0]
		*queue = (*queue)[1:]
		b.tried = d.current(b.tried, c.core.Now())
		_, busy := c.tasks[b.xid]
		switch again := b.tried.attempts > 0; {
		case b.gone || busy || again && c.core.Now().Before(b.tried.due):
		case s.again && !again: // its resource came back
			d.chases[0] = append(d.chases[0], b)
		default:
			t := b.chase
			t.Again = again
			c.assign(t)
		}
	}
	return left
}
