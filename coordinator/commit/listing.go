// SPDX-License-Identifier: Apache-2.0

package commit

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/recovery"
	"github.com/concordtx/concord/txn"
)

// A listing may name any number of branches, so the core never goes through one at once: it
// is judged a piece in a turn, and until that has ended the one before it is what the resource
// holds. What people ask of listings is counted as they change.

// maxGone branches are remembered as finished while a listing is under way. One more is looked for in vain, if the
// listing has it.
const maxGone = 100_000

// maxReport branches of one resource that cannot be finished are told of by name.
const maxReport = 100

// scan is what the leader knows of one resource's prepared branches.
type scan struct {
	resource string
	due      time.Time
	running  bool // asked and not answered, or answered and not judged
	// gone has branches that were finished since it was asked: an answer may have them all the same.
	gone      map[txn.XID]bool
	at        time.Time // of the last listing that was judged
	err       error
	again     bool // a listing under way may be older than the end of a lease
	sightings recovery.Sightings
	evidence  evidenceSweep

	listing *listing // of the last scan
	next    *listing // of the answer that is being judged; nil if there is none
	old     *listing // that next has replaced, while it is taken apart
}

// listing is what a resource held prepared, less what was finished since.
type listing struct {
	at       time.Time // of the answer
	answer   []adapters.Prepared
	done     int // of the answer: judged, or taken apart
	branches map[txn.XID]*listedBranch
	ages     byAge[*listedBranch] // those that are this cluster's
	working  int                  // of them, those that the leader has in hand
	others   map[txn.ClusterID]int
	some     []txn.ClusterID  // the first of others
	reported map[txn.XID]bool // that cannot be finished
	report   []string         // of the first of them
}

func newListing(at time.Time, answer []adapters.Prepared) *listing {
	return &listing{at: at, answer: answer, branches: map[txn.XID]*listedBranch{}, others: map[txn.ClusterID]int{},
		reported: map[txn.XID]bool{}}
}

// take returns the next piece of the answer.
func (l *listing) take(n int) []adapters.Prepared {
	piece := l.answer[l.done:min(l.done+n, len(l.answer))]
	l.done += len(piece)
	return piece
}

// listedBranch is one branch of a listing.
type listedBranch struct {
	xid      txn.XID
	resource string
	in       *listing
	ours     bool        // it is this cluster's
	lingers  bool        // it counts as in doubt
	working  bool        // the leader has it in hand
	gone     bool        // from its listing
	at       int         // place among ages
	chase    Task        // if it has a decision that the workers are to apply
	tried    work        // what they could not do so far
	last     txn.LastTag // of the last resource that decides it
}

func (b *listedBranch) transaction() txn.ID { return b.xid.ID }
func (b *listedBranch) place() *int         { return &b.at }

// enlist adds a branch to a listing.
func (c *Machine) enlist(l *listing, resource string, x txn.XID) *listedBranch {
	if b, twice := l.branches[x]; twice {
		return b
	}
	b := &listedBranch{xid: x, resource: resource, in: l, ours: x.Cluster == c.table.Cluster()}
	l.branches[x] = b
	c.listed[x.ID] = append(c.listed[x.ID], b)
	if !b.ours {
		l.stranger(x.Cluster)
		return b
	}
	l.ages.add(b)
	c.judgeLingering(b)
	if held := c.live[x.ID].branch(x.Branch); held != nil {
		b.setWorking(held.open && held.Resource == resource)
	}
	return b
}

// maxNamed other clusters are named.
const maxNamed = 3

// stranger counts a branch of another cluster.
func (l *listing) stranger(c txn.ClusterID) {
	if l.others[c]++; l.others[c] == 1 && len(l.some) < maxNamed {
		l.some = append(l.some, c)
	}
}

// strangers names the clusters, some of them, of which a scan listed branches.
func (l *listing) strangers() string {
	ids := make([]string, len(l.some), maxNamed+1)
	for i, c := range l.some {
		ids[i] = c.String()
	}
	slices.Sort(ids)
	if more := len(l.others) - len(l.some); more > 0 {
		ids = append(ids, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(ids, ", ")
}

func (b *listedBranch) setWorking(working bool) {
	if b.working != working {
		b.working = working
		if working {
			b.in.working++
		} else {
			b.in.working--
		}
	}
}

// delist takes a branch out of a listing.
func (c *Machine) delist(l *listing, x txn.XID) {
	b, ok := l.branches[x]
	if !ok {
		return
	}
	delete(l.branches, x)
	b.gone = true
	if b.ours {
		l.ages.remove(b)
		c.setLingers(b, false)
		b.setWorking(false)
	} else if l.others[x.Cluster]--; l.others[x.Cluster] == 0 {
		delete(l.others, x.Cluster)
		l.some = slices.DeleteFunc(l.some, func(c txn.ClusterID) bool { return c == x.Cluster })
	}
	rest := c.listed[x.ID]
	for i, other := range rest {
		if other == b {
			rest[i] = rest[len(rest)-1]
			rest[len(rest)-1] = nil
			rest = rest[:len(rest)-1]
			break
		}
	}
	if len(rest) == 0 {
		delete(c.listed, x.ID)
	} else {
		c.listed[x.ID] = rest
	}
}

// unlist forgets that a scan saw a branch, since it was finished after the scan.
func (c *Machine) unlist(x txn.XID) {
	for _, s := range c.scans {
		c.delist(s.listing, x)
		if s.old != nil {
			c.delist(s.old, x)
		}
		if s.next != nil {
			c.delist(s.next, x)
		}
		if s.running && len(s.gone) < maxGone {
			s.gone[x] = true
		}
	}
}

// lingers reports whether a listed branch of this cluster counts as in doubt by itself,
// and not as a part of phase two: it has no decision, or is still there after an abort, or
// after the end of its transaction. The scan may have been faster than that end, so a
// branch after it counts only if the workers, who look at once, could not finish it.
func (c *Machine) lingers(xid txn.XID) bool {
	if _, open := c.table.Witness(xid.ID); open {
		return false // counted as such
	}
	x, decided := c.table.Get(xid.ID)
	if !decided || x.Decision == txn.Abort {
		return true
	}
	_, tried := c.tasks[xid]
	return x.Ended && !tried
}

func (c *Machine) judgeLingering(b *listedBranch) { c.setLingers(b, c.lingers(b.xid)) }

// setLingers counts the transactions of which some listed branch lingers.
func (c *Machine) setLingers(b *listedBranch, lingers bool) {
	switch {
	case b.lingers == lingers:
		return
	case lingers:
		c.lingering[b.xid.ID]++
	default:
		if c.lingering[b.xid.ID]--; c.lingering[b.xid.ID] == 0 {
			delete(c.lingering, b.xid.ID)
		}
	}
	b.lingers = lingers
}

// relist judges the listed branches of a transaction again, after something became known of it.
func (c *Machine) relist(id txn.ID) {
	for _, b := range c.listed[id] {
		c.core.Spend(1)
		if b.ours {
			c.judgeLingering(b)
		}
	}
}

// judgeListings goes on with listings that were answered.
func (c *Machine) judgeListings() {
	left := c.core.Piece()
	for _, name := range c.config.Resources {
		s := c.scans[name]
		if s.old != nil {
			piece := s.old.take(left)
			for _, p := range piece {
				c.judgeVanished(s, s.old.branches[p.XID])
				c.delist(s.old, p.XID)
			}
			left -= len(piece)
			c.core.Spend(len(piece))
			if s.old.done == len(s.old.answer) {
				s.old = nil
			}
		}
		if s.old == nil {
			left = c.judgeListing(s, left)
		}
	}
}

// judgeListing judges a piece of an answer, and returns how many steps are left.
func (c *Machine) judgeListing(s *scan, left int) int {
	if s.next == nil || s.old != nil {
		return left
	}
	piece := s.next.take(left)
	for _, p := range piece {
		c.judgeBranch(s, p)
	}
	c.core.Spend(len(piece))
	if s.next.done == len(s.next.answer) {
		s.sightings.End()
		s.at, s.running = s.next.at, false
		s.listing, s.next, s.old = s.next, nil, s.listing
		s.old.done, s.gone = 0, nil
		if len(s.old.answer) == 0 {
			s.old = nil
		}
	}
	return left - len(piece)
}

// whyListed says what keeps a listed branch, for people; empty if nothing is known to.
func (c *Machine) whyListed(b *listedBranch) string {
	if c.table.Quarantined(b.resource) {
		return txn.Quarantined(b.resource)
	}
	if err := c.scans[b.resource].err; err != nil {
		return err.Error()
	}
	if why := c.whyUnsettled(b); why != "" {
		return why
	}
	return c.orDown(b.resource, b.tried.err)
}

// judging reports whether there is more to do for judgeListings.
func (c *Machine) judging() bool {
	for _, s := range c.scans {
		if s.next != nil || s.old != nil {
			return true
		}
	}
	return false
}
