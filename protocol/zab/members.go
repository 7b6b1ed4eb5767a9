// SPDX-License-Identifier: Apache-2.0

package zab

import (
	"errors"
	"fmt"
	"slices"
	"sort"

	"github.com/concordtx/concord/internal/mutant"
)

// Who the members are is said by entries of the log. Config.Change tells such an entry,
// a change, from others. Three rules make it safe; doc.go has the argument.
//
//  1. The set in force at a node is the latest of which it knows that it was committed. An
//     entry is committed by a quorum of the set before it; also a change, and then the new
//     set is in force.
//  2. A leader proposes a change only when it has delivered everything before it that was
//     one. So whoever has two changes in his log knows that the first of them was committed.
//  3. The voters of a set and of the next differ by one node, so any two quorums of the two
//     sets share a voter.

// ErrMembers answers a proposal of a change that may not be made now, or not at all.
// Refused wraps it with the reason.
var ErrMembers = errors.New("the members cannot be changed like that")

// Set says who the members are from one position of the log on.
type Set struct {
	// At is the entry that says so; zero: the list that the cluster began with.
	At      Zxid
	Members []Member // never changed
}

// Learned says that a set was committed, which somebody told who knows. A node that was
// away may know nobody of those who lead the cluster now.
type Learned struct{ Set Set }

func (Learned) isEvent() {}

// membership is what a node knows of the sets.
type membership struct {
	known   Set      // the latest that was delivered, or learned
	changes []change // of the log, not delivered yet, in order
}

// change is a set, and the entry that says so.
type change struct {
	Set
	data []byte
}

// force returns the set in force, and what the entry said if it was not delivered yet: one that
// stands before another in the log was committed.
func (m *membership) force() (s Set, said []byte) {
	if i := len(m.changes) - 2; i >= 0 && m.known.At.Less(m.changes[i].At) {
		return m.changes[i].Set, m.changes[i].data
	}
	return m.known, nil
}

// InForce returns the set in force. If it follows from the log alone, and its entry was not delivered
// yet, said is what that holds: whoever tells others of sets knows more than the members by it.
func (n *Node) InForce() (s Set, said []byte) { return n.members.force() }

func (m *membership) clone() membership {
	return membership{known: m.known, changes: slices.Clone(m.changes)}
}

// ordered checks a list of members and orders it by ID.
func ordered(list []Member) ([]Member, error) {
	members := slices.Clone(list)
	sort.Slice(members, func(i, j int) bool { return members[i].ID < members[j].ID })
	if len(members) > maxMembers {
		return nil, fmt.Errorf("%d, at most %d are possible", len(members), maxMembers)
	}
	for i, m := range members {
		switch {
		case m.ID == 0:
			return nil, errors.New("id 0 means nobody")
		case i > 0 && members[i-1].ID == m.ID:
			return nil, fmt.Errorf("id %d is there twice", m.ID)
		}
	}
	if countVoters(members) == 0 {
		return nil, errors.New("there must be a voter")
	}
	return members, nil
}

func countVoters(members []Member) int {
	voters := 0
	for _, m := range members {
		if !m.Observer {
			voters++
		}
	}
	return voters
}

func votes(members []Member, id NodeID) bool {
	return slices.ContainsFunc(members, func(m Member) bool { return m.ID == id && !m.Observer })
}

// votersApart counts the nodes that vote in one of two sets only.
func votersApart(a, b []Member) int {
	apart := 0
	for _, m := range a {
		if !m.Observer && !votes(b, m.ID) {
			apart++
		}
	}
	for _, m := range b {
		if !m.Observer && !votes(a, m.ID) {
			apart++
		}
	}
	return apart
}

// change returns the set that an entry makes, if it is a change.
func (n *Node) change(e *Entry) (s Set, ok bool, err error) {
	if n.cfg.Change == nil {
		return s, false, nil
	}
	list, ok := n.cfg.Change(e.Data)
	if !ok {
		return s, false, nil
	}
	s.At = e.Zxid
	s.Members, err = ordered(list)
	return s, true, err
}

// appended takes note of the changes among new entries of the log.
func (n *Node) appended(entries []Entry) {
	before := len(n.members.changes)
	for i := range entries {
		s, ok, err := n.change(&entries[i])
		if err != nil {
			panicf("entry %s makes no set of members: %v", entries[i].Zxid, err)
		}
		if ok {
			n.members.changes = append(n.members.changes, change{s, entries[i].Data})
		}
	}
	if len(n.members.changes) > before {
		n.takeForce()
	}
}

// cutChanges forgets the changes after z, which are not in the log any more.
func (n *Node) cutChanges(z Zxid) {
	m := &n.members
	m.changes = slices.DeleteFunc(m.changes, func(c change) bool { return z.Less(c.At) })
	n.takeForce()
}

// deliverChanges lets the sets count that were delivered, up to where that is.
func (n *Node) deliverChanges() {
	m := &n.members
	if len(m.changes) == 0 || n.delivered.Less(m.changes[0].At) {
		return
	}
	for len(m.changes) > 0 && !n.delivered.Less(m.changes[0].At) {
		if m.known.At.Less(m.changes[0].At) {
			m.known = m.changes[0].Set
		}
		m.changes = m.changes[1:]
	}
	n.takeForce()
	if n.lead != nil {
		n.advanceCommit()
	}
}

// endReign gives up leading when that is due: with a tick, so that whoever watches sees what was
// committed before. A leader that is no voter counts nothing until then.
func (n *Node) endReign() {
	switch {
	case n.lead == nil:
	case n.observer(): // it may not count itself
		n.enterLooking("it is no voter any more")
	case n.lead.transfer != 0:
		n.tryTransfer()
	}
}

// learned takes over a newer set. A leader that hears of one that is not in its own log
// leads nobody who matters, and what it counted so far it counted in another set.
func (n *Node) learned(s Set) {
	members, err := ordered(s.Members)
	if err != nil {
		n.note("ignoring a set of members: %v", err)
		return
	}
	s.Members = members
	if m := &n.members; !m.known.At.Less(s.At) {
		return
	} else if n.lead != nil {
		if slices.ContainsFunc(m.changes, func(c change) bool { return c.At == s.At }) {
			return // it will be delivered
		}
		n.enterLooking("there is a newer set of members")
	}
	n.members.known = s
	n.takeForce()
}

// takeForce makes the set in force the one that counts, and lets everything that goes by
// the place of a member follow.
func (n *Node) takeForce() {
	s, _ := n.members.force()
	if s.At == n.set.At {
		return
	}
	old := n.set.Members
	n.set = s
	n.note("the members are %s since %s", describe(s.Members), s.At)
	n.countMembers()

	ballots, lost := n.elect.ballots, n.elect.lost
	n.elect.ballots, n.elect.lost = make([]heardBallot, len(s.Members)), make([]bool, len(s.Members))
	places := make([]int, len(old)) // by the old place
	for i, m := range old {
		j := n.place(m.ID)
		places[i] = j
		if j >= 0 {
			n.elect.ballots[j], n.elect.lost[j] = ballots[i], lost[i]
		}
	}
	if n.lead != nil {
		n.lead.take(n, old, places)
	}
	n.moveReads(places)
	switch {
	case n.follow != nil:
		n.role = n.followingRole()
		n.report("the members have changed")
	case n.lead == nil && n.started:
		n.enterLooking("the members have changed")
	}
}

// take lets the peers follow a new set. The session of a node with another role ends: it
// opens one in its new role at once. One who is no member any more hears that it was removed.
func (l *leader) take(n *Node, old []Member, places []int) {
	peers := l.peers
	l.peers = make([]peer, len(n.set.Members))
	for i, m := range old {
		p, j := &peers[i], places[i]
		switch {
		case m.ID == n.cfg.ID:
		case j < 0:
			if p.step == stepSynced {
				n.sendTo(m.ID, l.epoch, p.session, Commit{Upto: n.commit})
			}
		default:
			l.peers[j] = *p
			if n.set.Members[j].Observer != m.Observer {
				n.dropSession(j, "its role has changed")
			}
		}
	}
	if l.transfer != 0 && !votes(n.set.Members, l.transfer) {
		n.stopTransfer("node %d is no voter any more", l.transfer)
	}
}

// countMembers finds out what follows from the set in force.
func (n *Node) countMembers() {
	n.me = n.place(n.cfg.ID)
	n.quorum = majority(countVoters(n.set.Members))
}

func describe(members []Member) string {
	text := ""
	for i, m := range members {
		if i > 0 {
			text += " "
		}
		text += fmt.Sprint(m.ID)
		if m.Observer {
			text += "(observer)"
		}
	}
	return text
}

// mayChange says why a leader must not propose a change now, or nil.
func (n *Node) mayChange(s Set) error {
	var why string
	switch m := &n.members; {
	case len(m.changes) > 0:
		why = "another change is under way"
	case votersApart(n.set.Members, s.Members) > 1:
		why = "one voter comes or goes at a time"
	case !votes(s.Members, n.cfg.ID):
		why = "the leader has to hand over first"
	default:
		return nil
	}
	return fmt.Errorf("%w: %s", ErrMembers, why)
}

// commitLimit is how far the quorums of the set in force reach: up to the next change.
func (n *Node) commitLimit() Zxid {
	if len(n.members.changes) > 0 {
		return n.members.changes[0].At
	}
	return n.tail()
}

// durableAtQuorum is how far a quorum of the set in force has the log, up to the next change.
func (n *Node) durableAtQuorum() Zxid {
	if c := n.members.changes; mutant.NewSetAtOnce && len(c) > 0 {
		return n.reachedBy(c[len(c)-1].Members)
	}
	return minZxid(n.reachedBy(n.set.Members), n.commitLimit())
}

// reachedBy is how far a quorum of a set has the log; its members are peers, or this node.
func (n *Node) reachedBy(members []Member) Zxid {
	var t tally[Zxid]
	t.add(n.stable, lessZxid)
	for _, m := range members {
		if m.Observer || m.ID == n.cfg.ID {
			continue
		}
		if i := n.place(m.ID); i >= 0 {
			t.add(n.lead.peers[i].match, lessZxid)
		}
	}
	return t.reached(majority(countVoters(members)))
}
