// SPDX-License-Identifier: Apache-2.0

package twopcworld

import (
	"math/bits"

	"github.com/concordtx/concord/protocol"
	"github.com/concordtx/concord/protocol/twopc"
	"github.com/concordtx/concord/txn"
)

// Branches that are alike at the start may change their names: what is reached under other
// names is the same state, and is visited once. That is right when every step does the same
// under other names, and it is not taken for granted: whenever a core is stepped, it is
// stepped under all other names too, and state, messages and tasks must come out
// renamed. A core that treats branches differently panics here.

// renaming says what each branch is called instead.
type renaming struct {
	at       int // among all of a world
	branch   [maxBranches]txn.BranchNo
	messages [64]int8 // number of the renamed message, -1: not known yet
	tasks    [64]int8
}

// renamings returns all ways to rename alike branches, but the one that changes nothing.
func renamings(size Size) (all []*renaming) {
	var permute func(r renaming, n int)
	permute = func(r renaming, n int) {
		if n == size.Branches {
			for i := range n {
				if r.branch[i] != txn.BranchNo(i) {
					r.at = len(all)
					all = append(all, &r)
					return
				}
			}
			return
		}
		for i := n; i < size.Branches && size.alike(n, i) || i == n; i++ {
			c := r
			c.branch[n], c.branch[i] = r.branch[i], r.branch[n]
			permute(c, n+1)
		}
	}
	var r renaming
	for n := range maxBranches {
		r.branch[n] = txn.BranchNo(n)
	}
	for n := range 64 {
		r.messages[n], r.tasks[n] = -1, -1
	}
	permute(r, 0)
	return all
}

func (r *renaming) no(no txn.BranchNo) txn.BranchNo {
	if no == nobody {
		return no
	}
	return r.branch[no]
}

func (r *renaming) list(branches []txn.Branch) (renamed []txn.Branch) {
	var byNo [maxBranches]*txn.Branch
	for n := range branches {
		byNo[r.branch[branches[n].No]] = &branches[n]
	}
	for n, b := range byNo {
		if b != nil {
			c := *b
			c.No = txn.BranchNo(n)
			renamed = append(renamed, c)
		}
	}
	return renamed
}

func (r *renaming) event(e protocol.Event) protocol.Event {
	switch e := e.(type) {
	case twopc.Enlisted:
		e.No = r.branch[e.No]
		return e
	case twopc.OnlyRead:
		e.No = r.branch[e.No]
		return e
	case protocol.Asked:
		return protocol.Asked{Branches: r.list(e.Branches)}
	case protocol.Voted:
		if e.Vote == txn.VoteYes {
			e.Branch.No = r.branch[e.No]
		}
		e.No = r.branch[e.No]
		return e
	case protocol.Delivered:
		e.Branches = r.list(e.Branches)
		return e
	case protocol.Finished:
		e.No = r.branch[e.No]
		return e
	}
	return e // names no branch
}

func (r *renaming) effect(f protocol.Effect) protocol.Effect {
	switch f := f.(type) {
	case protocol.Prepare:
		f.No = r.branch[f.No]
		return f
	case twopc.CommitOnePhase:
		f.No = r.branch[f.No]
		return f
	case protocol.Finish:
		f.No = r.branch[f.No]
		return f
	case protocol.Propose:
		f.Branches = r.list(f.Branches)
		return f
	}
	return f
}

func (r *renaming) item(i item) item {
	i.no = r.no(i.no)
	if i.event != nil {
		i.event = r.event(i.event)
	}
	if i.effect != nil {
		i.effect = r.effect(i.effect)
	}
	return i
}

// renamedMessages renames a set of messages.
func (w *twoPC) renamedMessages(r *renaming, set uint64) (renamed uint64) {
	for ; set != 0; set &= set - 1 {
		at := bits.TrailingZeros64(set)
		if r.messages[at] < 0 {
			r.messages[at] = int8(bits.TrailingZeros64(w.message(r.item(w.items[at]))))
		}
		renamed |= 1 << r.messages[at]
	}
	return renamed
}

func (w *twoPC) renamedTasks(r *renaming, set uint64) (renamed uint64) {
	for ; set != 0; set &= set - 1 {
		at := bits.TrailingZeros64(set)
		if r.tasks[at] < 0 {
			r.tasks[at] = int8(bits.TrailingZeros64(w.task(r.item(w.tasks[at]))))
		}
		renamed |= 1 << r.tasks[at]
	}
	return renamed
}

// renamed is the whole state under other names.
func (w *twoPC) renamed(r *renaming, d *deal) deal {
	c := *d
	c.net, c.tasks = w.renamedMessages(r, d.net), w.renamedTasks(r, d.tasks)
	c.initiator = w.initiators.twin(r, d.initiator)
	c.coordinator = w.coordinators.twin(r, d.coordinator)
	c.recorded = 0
	for n, to := range r.branch {
		c.participants[to] = w.participants.twin(r, d.participants[n])
		c.resources[to] = d.resources[n]
		c.recorded |= d.recorded >> n & 1 << to
	}
	return c
}

// Fingerprint is the least one of all names.
func (w *twoPC) Fingerprint(d *deal) uint64 {
	least := d.fingerprint()
	for _, r := range w.renamings {
		c := w.renamed(r, d)
		least = min(least, c.fingerprint())
	}
	return least
}
