// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

// Machine is a state machine that a Core carries: it folds what the log delivers, and answers
// requests from that. A Core has one, and calls it within a turn of its own; a machine calls the
// Core back, to propose records, to read and to say how many steps it takes, and has an output of
// its own, which the driver takes after each turn.
type Machine interface {
	// Join tells the machine who carries it. It comes once and first.
	Join(*Core)
	// State is what the machine's state says of the cluster. It is a part of that state, because one
	// write of the store must have both; see txn.ClusterState.
	State() *txn.ClusterState

	// Apply folds one entry of the log, and reports whether it told of more than the cluster. An
	// error means that the entry cannot be read, and ends the node.
	Apply(zab.Entry) (told bool, err error)
	// Load takes the state over that a snapshot has put into the store.
	Load() error

	// Lead says that this node leads and has all that earlier leaders committed, and Resign that
	// it does not lead any more: who waits for records hears err. Keep comes with each tick
	// between them.
	Lead()
	Resign(err error)
	Keep()
	// Gather comes before records make an entry: what was held back for company is proposed now.
	Gather()
	// Delivered says that all is applied for which these requests had to Await.
	Delivered(requests []uint64)
	// Refused says that the log did not take records that this node proposed, and who had to Await
	// them. What it returns is proposed again, before all others.
	Refused(records []txn.Record, requests []uint64, err error) (again []txn.Record)

	// Step handles an event that is none of the Core's, and each Tick, before the time of the Core
	// has moved on.
	Step(Event) error
	// Answer answers a request that has asked to Read: no state is older than this one that was
	// decided before the request was made.
	Answer(Event)
	// GoOn does a piece of each kind of work that is left over from earlier turns, and More reports
	// whether there is any that no event will bring on.
	GoOn()
	More() bool
}

// State is what the state of the machine says of the cluster.
func (c *Core) State() *txn.ClusterState { return c.machine.State() }

// Propose has records go into the log, with the next entry that has room, if this node leads.
func (c *Core) Propose(records ...txn.Record) { c.batch = append(c.batch, records...) }

// Pending counts the records that wait for an entry.
func (c *Core) Pending() int { return len(c.batch) }

// Weigh counts bytes of what clients have asked for among the proposed records.
func (c *Core) Weigh(bytes int) { c.waiting += bytes }

// Waiting is about how many bytes of what clients have asked for wait for an entry.
func (c *Core) Waiting() int { return c.waiting }

// Spend counts steps of this turn.
func (c *Core) Spend(steps int) { c.steps += steps }

// Ready returns nil if this node leads a cluster and may decide, or what to answer.
func (c *Core) Ready() error {
	switch err := c.Distrusted(); {
	case err != nil:
		return err
	case !c.leading:
		return c.untouched(c.role.Leader)
	case c.State().Cluster() == 0:
		return c.untouched(0) // being formed at this moment
	}
	return nil
}

// NotLeader is the answer of a node that does not lead.
func (c *Core) NotLeader() error { return c.notLeader(c.role.Leader) }
