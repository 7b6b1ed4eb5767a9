// SPDX-License-Identifier: Apache-2.0

package commit

import (
	"fmt"
	"slices"

	"github.com/concordtx/concord/txn"
)

// BranchesAsked asks a leader how far it is with these transactions.
type BranchesAsked struct {
	Request uint64
	IDs     []txn.ID
}

func (BranchesAsked) IsEvent() {}

// RequestNo implements replica.Asking.
func (e BranchesAsked) RequestNo() uint64 { return e.Request }

// look is a ViewAsked for everything that is being answered. Listings are gone through a piece in
// a turn; each branch counts as it is at that moment.
type look struct {
	ViewAsked
	view     *View
	listings []*listing
	done     int // of the first of them
}

// answerView looks at one transaction, or begins to look at everything.
func (c *Machine) answerView(e ViewAsked) {
	if !c.ready(e.Request) {
		return
	}
	v := &View{Branches: map[txn.XID]BranchView{}, InDoubt: map[txn.XID]ListedBranch{}}
	for _, why := range c.unlisted() {
		v.Unlisted = append(v.Unlisted, why.Error())
	}
	if e.ID.IsZero() {
		for _, w := range c.table.Witnesses() {
			c.viewCouncil(v, w)
		}
		k := &look{ViewAsked: e, view: v}
		for _, name := range c.config.Resources {
			k.listings = append(k.listings, c.scans[name].listing)
		}
		c.looks = append(c.looks, k)
		return
	}
	v.Txn, v.Known = c.table.Get(e.ID)
	v.Acts = c.table.Acts()
	if w, open := c.table.Witness(e.ID); open {
		c.viewCouncil(v, w)
	}
	v.TooOld = !v.Known && c.table.TooOld(e.ID)
	if v.Known && !v.Txn.Finished() {
		v.Open = []txn.Txn{v.Txn}
	}
	c.viewBranches(v, e.ID)
	for _, b := range c.listed[e.ID] {
		c.viewListed(v, b)
		if !b.ours && !slices.Contains(v.Foreign, b.xid) {
			v.Foreign = append(v.Foreign, b.xid)
		}
	}
	c.reply(Reply{Request: e.Request, Zxid: c.core.Zxid(), View: v})
}

// lookOn goes on with the oldest look.
func (c *Machine) lookOn() {
	if len(c.looks) == 0 {
		return
	}
	k := c.looks[0]
	if !c.core.Leading() {
		c.looks = c.looks[1:]
		c.reply(Reply{Request: k.Request, Err: c.core.NotLeader()})
		return
	}
	for left := c.core.Piece(); len(k.listings) > 0; k.listings, k.done = k.listings[1:], 0 {
		l := k.listings[0]
		for ; k.done < len(l.answer); k.done++ {
			if left--; left < 0 {
				return
			}
			c.core.Spend(1)
			if b := l.branches[l.answer[k.done].XID]; b != nil {
				c.viewListed(k.view, b)
			}
		}
	}
	c.looks = c.looks[1:]
	c.reply(Reply{Request: k.Request, Zxid: c.core.Zxid(), View: k.view})
}

func (c *Machine) viewCouncil(v *View, w txn.Witness) {
	c.core.Spend(1)
	o := CouncilView{Witness: w}
	if l := c.live[w.ID]; l != nil && l.council != nil {
		o.Missing = l.council.missing
	}
	v.Councils = append(v.Councils, o)
}

func (c *Machine) viewListed(v *View, b *listedBranch) {
	if b.lingers {
		x, _ := c.table.Get(b.xid.ID)
		v.InDoubt[b.xid] = ListedBranch{Resource: b.resource, Decision: x.Decision, Err: c.whyListed(b),
			Last: c.lastTagged(b.xid.ID, b.last), Tried: b.tried.view()}
	}
}

func (c *Machine) viewBranches(v *View, id txn.ID) {
	l := c.inHand(id)
	if l == nil {
		return
	}
	for _, no := range l.core.Unfinished() {
		c.core.Spend(1)
		b := l.branch(no)
		w := b.work
		if d := c.due[b.Resource]; d != nil {
			w = d.current(w, c.core.Now())
		}
		v.Branches[c.xid(id, no)] = BranchView{Err: c.whyUnfinished(b), Tried: w.view()}
	}
}

func (w work) view() Tried { return Tried{Attempts: w.attempts, Failed: w.failed, Due: w.due} }

func (c *Machine) onBranchesAsked(e BranchesAsked) {
	if !c.ready(e.Request) {
		return
	}
	v := &View{Branches: map[txn.XID]BranchView{}}
	for _, id := range e.IDs {
		c.viewBranches(v, id)
	}
	c.reply(Reply{Request: e.Request, Zxid: c.core.Zxid(), View: v})
}

// unlisted returns which resources have not told lately what they hold prepared; nil if all have.
func (c *Machine) unlisted() []error {
	var why []error
	for _, name := range c.config.Resources {
		switch s := c.scans[name]; {
		case s.err != nil:
			why = append(why, fmt.Errorf("resource %s could not be listed (%w)", name, s.err))
		case s.at.IsZero():
			why = append(why, fmt.Errorf("resource %s has not been listed yet", name))
		}
	}
	return why
}
