// SPDX-License-Identifier: Apache-2.0

package commit

import (
	"slices"
	"strings"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/coordinator/deadlock"
)

// WaitsAsked tells a leader which transactions of a client have waited for longer than a second, and asks
// which of them have to end.
type WaitsAsked struct {
	Request uint64
	Heard   uint64 // the look that the client was told of last, before it looked at its transactions
	Waiters []deadlock.Waiter
}

// Waits is the answer of a resource to a WaitsAsk. One that cannot tell has nothing to say.
type Waits struct {
	Resource string
	Look     uint64
	Waits    []adapters.Wait
}

func (WaitsAsked) IsEvent() {}
func (Waits) IsEvent()      {}

// RequestNo implements replica.Asking.
func (e WaitsAsked) RequestNo() uint64 { return e.Request }

// WaitsAsk is the order to list who waits in a database: Waits answers it.
type WaitsAsk struct {
	Resource string
	Look     uint64
}

func (c *Machine) onWaitsAsked(e WaitsAsked) {
	if !c.ready(e.Request) {
		return
	}
	for i := range e.Waiters {
		w := &e.Waiters[i]
		w.Branches = slices.DeleteFunc(w.Branches, func(b deadlock.Branch) bool { return c.scans[b.Resource] == nil })
	}
	c.core.Spend(len(e.Waiters))
	victims := c.waits.Report(c.core.Now(), e.Heard, e.Waiters)
	c.reply(Reply{Request: e.Request, Zxid: c.core.Zxid(), Deadlocks: victims, Look: c.waits.Done()})
	for _, d := range c.waits.Found() {
		c.deadlocks++
		c.core.Note("deadlock between %s: %v; the youngest, %v, is "+
			"ended", strings.Join(d.Resources, " and "), d, d.Victim)
	}
}

func (c *Machine) onWaits(e Waits) {
	c.core.Spend(len(e.Waits))
	if c.core.Leading() {
		c.waits.Answer(c.core.Now(), e.Look, e.Resource, e.Waits)
	}
}

// watchWaits asks the databases who waits, if there is a reason.
func (c *Machine) watchWaits() {
	look, ask := c.waits.Tick(c.core.Now())
	for _, resource := range ask {
		c.fx.Waits = append(c.fx.Waits, WaitsAsk{Resource: resource, Look: look})
	}
}

// Deadlocks returns how many deadlocks between databases this node has found as the leader since its start.
func (c *Machine) Deadlocks() uint64 { return c.deadlocks }
