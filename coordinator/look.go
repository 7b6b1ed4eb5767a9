// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"context"
	"slices"

	"github.com/concordtx/concord/txn"
)

// maxBranchesAsked transactions are asked about in one BranchesAsked.
const maxBranchesAsked = 128

// BranchesAsked asks a leader how far it is with these transactions.
type BranchesAsked struct {
	Request uint64
	IDs     []txn.ID
}

func (BranchesAsked) IsEvent() {}

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
func (c *Transactions) answerView(e ViewAsked) {
	if !c.ready(e.Request) {
		return
	}
	v := &View{Branches: map[txn.XID]BranchView{}, InDoubt: map[txn.XID]ListedBranch{}}
	for _, why := range c.unlisted() {
		v.Unlisted = append(v.Unlisted, why.Error())
	}
	if e.ID.IsZero() {
		k := &look{ViewAsked: e, view: v}
		for _, name := range c.config.Resources {
			k.listings = append(k.listings, c.scans[name].listing)
		}
		c.looks = append(c.looks, k)
		return
	}
	v.Txn, v.Known = c.table.Get(e.ID)
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
func (c *Transactions) lookOn() {
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

func (c *Transactions) viewListed(v *View, b *listedBranch) {
	if b.lingers {
		x, _ := c.table.Get(b.xid.ID)
		v.InDoubt[b.xid] = ListedBranch{Resource: b.resource, Decision: x.Decision, Err: c.whyListed(b)}
	}
}

func (c *Transactions) viewBranches(v *View, id txn.ID) {
	l := c.inHand(id)
	if l == nil {
		return
	}
	for _, no := range l.core.Unfinished() {
		c.core.Spend(1)
		w := l.work[no]
		if d := c.due[l.branches[no].Resource]; d != nil {
			w = d.current(w, c.core.Now())
		}
		v.Branches[c.xid(id, no)] = BranchView{Err: c.whyUnfinished(l, no), Attempts: w.attempts, Due: w.due}
	}
}

func (c *Transactions) onBranchesAsked(e BranchesAsked) {
	if !c.ready(e.Request) {
		return
	}
	v := &View{Branches: map[txn.XID]BranchView{}}
	for _, id := range e.IDs {
		c.viewBranches(v, id)
	}
	c.reply(Reply{Request: e.Request, Zxid: c.core.Zxid(), View: v})
}

// View is a linearizable look at one transaction, or, if id is zero, at everything that is not
// finished: each transaction as it is at some moment from the question on. What is open is read
// from the applied state, while the loop goes on.
func (n *Node) View(ctx context.Context, id txn.ID) (*View, error) {
	r, err := n.ask(ctx, func(request uint64) Event { return ViewAsked{Request: request, ID: id} })
	if err != nil || !id.IsZero() {
		return r.View, err
	}
	v := r.View
	err = n.archive.eachOpen(txn.ID{}, func(x txn.Txn) bool {
		v.Open = append(v.Open, x)
		return true
	})
	if err != nil {
		return nil, err
	}
	slices.Reverse(v.Open) // oldest first
	for some := range slices.Chunk(v.Open, maxBranchesAsked) {
		ids := make([]txn.ID, len(some))
		for i, x := range some {
			ids[i] = x.ID
		}
		r, err := n.ask(ctx, func(request uint64) Event { return BranchesAsked{Request: request, IDs: ids} })
		if err != nil {
			return nil, err
		}
		for x, b := range r.View.Branches {
			v.Branches[x] = b
		}
	}
	return v, nil
}
