// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"cmp"
	"container/heap"
	"time"

	"github.com/concordtx/concord/protocol/twopc"
	"github.com/concordtx/concord/txn"
)

// A leader may have any number of branches to finish, and nobody goes through all of them.
// Each waits in one of these places: for its time (timers), for room at the workers of its
// resource (queues), or with the workers (tasks). An entry whose branch was finished meanwhile
// is dropped when its turn comes.

// timer is when a transaction has a branch that is due.
type timer struct {
	at time.Time
	id txn.ID
}

// timers is a heap, the earliest first.
type timers []timer

func (t timers) Len() int { return len(t) }
func (t timers) Less(i, j int) bool {
	return cmp.Or(t[i].at.Compare(t[j].at), compareID(t[i].id, t[j].id)) < 0
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

// readyBranches is a heap of branches of one resource that are due, the oldest transactions
// first.
type readyBranches []txn.XID

func (r readyBranches) Len() int           { return len(r) }
func (r readyBranches) Less(i, j int) bool { return r[i].Compare(r[j]) < 0 }
func (r readyBranches) Swap(i, j int)      { r[i], r[j] = r[j], r[i] }

// Push implements heap.Interface.
func (r *readyBranches) Push(x any) { *r = append(*r, x.(txn.XID)) }

// Pop implements heap.Interface.
func (r *readyBranches) Pop() any {
	last := len(*r) - 1
	x := (*r)[last]
	*r = (*r)[:last]
	return x
}

// wake has a transaction looked at when a branch of it is due.
func (c *Core) wake(l *live, at time.Time) {
	if l.wakes.IsZero() || at.Before(l.wakes) {
		l.wakes = at
		heap.Push(&c.timers, timer{at: at, id: l.id})
	}
}

// sweep looks at what is due, a piece in a turn, and gives it to the recovery workers as far as
// they have room.
func (c *Core) sweep() {
	if c.sweeping = c.sweeping || !c.now.Before(c.nextSweep); !c.sweeping {
		return
	}
	c.nextSweep = c.now.Add(sweepInterval)
	left := c.piece()
	for ; left > 0 && len(c.timers) > 0 && !c.now.Before(c.timers[0].at); left-- {
		c.steps++
		t := heap.Pop(&c.timers).(timer)
		if l := c.live[t.id]; l != nil && l.wakes.Equal(t.at) {
			l.wakes = time.Time{}
			c.carry(l, l.core.Step(twopc.Tick{}))
		}
	}
	c.sweeping = left == 0
	for _, name := range c.config.Resources {
		ready := c.queues[name]
		for left = c.piece(); left > 0 && ready.Len() > 0 && c.load[name] < maxTasks; left-- {
			c.steps++
			c.assignReady(heap.Pop(ready).(txn.XID))
		}
		c.sweeping = c.sweeping || left == 0
	}
}

// assignReady gives a branch to the workers, if it is still to be finished.
func (c *Core) assignReady(x txn.XID) {
	l := c.live[x.ID]
	if l == nil {
		return
	}
	w, open := l.work[x.Branch]
	if !open {
		return
	}
	w.ready = false
	l.work[x.Branch] = w
	if _, busy := c.tasks[x]; !busy {
		c.assign(Task{XID: x, Branch: l.branches[x.Branch], Decision: l.core.Decision()})
	}
}

// finishDue has a branch wait for the workers if its time has come, else for its time. One of a
// resource that has left the configuration waits until it is back.
func (c *Core) finishDue(l *live, no txn.BranchNo) {
	c.steps++
	w, open := l.work[no]
	x := c.xid(l.id, no)
	ready := c.queues[l.branches[no].Resource]
	if _, busy := c.tasks[x]; busy || !open || w.ready || ready == nil {
		return
	}
	if c.now.Before(w.due) {
		c.wake(l, w.due)
		return
	}
	w.ready = true
	l.work[no] = w
	heap.Push(ready, x)
}
