// SPDX-License-Identifier: Apache-2.0

package commit

import (
	"github.com/concordtx/concord/internal/mutant"
	"github.com/concordtx/concord/txn"
)

// What a person does is in the log twice: that it begins before it does, and how it ended. So nothing is done of
// which the log does not know, and what nobody saw to the end is known to be that. Where not every member can
// read such records none is written.

// ActAsked puts into the log what a person begins to do. The record gets its time here.
type ActAsked struct {
	Request uint64
	txn.ActRecord
}

// ActEnded puts into the log how it ended.
type ActEnded struct {
	Request uint64
	txn.ActEndRecord
}

// ActsAsked asks for the acts that are kept.
type ActsAsked struct{ Request uint64 }

func (ActAsked) IsEvent()  {}
func (ActEnded) IsEvent()  {}
func (ActsAsked) IsEvent() {}

// RequestNo implements replica.Asking.
func (e ActAsked) RequestNo() uint64 { return e.Request }

// RequestNo implements replica.Asking.
func (e ActEnded) RequestNo() uint64 { return e.Request }

// RequestNo implements replica.Asking.
func (e ActsAsked) RequestNo() uint64 { return e.Request }

func (c *Machine) onActAsked(e ActAsked) {
	e.Time = c.core.Now()
	if c.table.Level() < txn.LevelCaller {
		e.From = txn.Caller{}
	}
	c.note(e.Request, e.ActRecord)
}

// note answers when the log has a record, or cannot have it yet.
func (c *Machine) note(request uint64, r txn.Record) {
	switch {
	case !c.ready(request):
	case c.table.Level() < txn.LevelAudit:
		c.reply(Reply{Request: request, Zxid: c.core.Zxid()})
	default:
		c.core.Propose(r)
		c.core.Await(request)
	}
}

// answerActs answers from a state that was confirmed.
func (c *Machine) answerActs(e ActsAsked) {
	if c.ready(e.Request) {
		c.reply(Reply{Request: e.Request, Zxid: c.core.Zxid(), Acts: c.table.Acts()})
	}
}

// closeActs says, as a new leader, how those ended that an earlier one left open: handing over to this node is
// done, and of any other nobody knows.
func (c *Machine) closeActs() {
	if mutant.LeaveActsOpen {
		return
	}
	for _, a := range c.table.Acts() {
		switch {
		case a.Outcome != txn.ActBegun:
		case a.Kind == txn.ActLead && a.Node == uint64(c.core.Self()):
			c.core.Propose(txn.ActEndRecord{Key: a.Key, Outcome: txn.ActDone})
		default:
			c.core.Propose(txn.ActEndRecord{Key: a.Key, Outcome: txn.ActUnknown,
				Says: "the leader changed before it ended: look at what it is about"})
		}
	}
}
