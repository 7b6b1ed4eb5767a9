// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"fmt"
	"slices"
	"strings"

	"github.com/concordtx/concord/protocol/zab"
)

// changeMark begins an entry that changes the members; "1v 2o" after it names a voter and an
// observer.
const changeMark = "members "

// changeOf tells the changes among the entries of a bare log.
func changeOf(data []byte) (members []zab.Member, ok bool) {
	text, ok := strings.CutPrefix(string(data), changeMark)
	if !ok {
		return nil, false
	}
	for _, word := range strings.Fields(text) {
		var m zab.Member
		var role rune
		if _, err := fmt.Sscanf(word, "%d%c", &m.ID, &role); err != nil {
			panic(err)
		}
		m.Observer = role == 'o'
		members = append(members, m)
	}
	return members, ok
}

func changeTo(members []zab.Member) []byte {
	text := changeMark
	for _, m := range members {
		role := "v"
		if m.Observer {
			role = "o"
		}
		text += fmt.Sprintf("%d%s ", m.ID, role)
	}
	return []byte(text)
}

// setOf finds the members as of the end of a log.
func (c *Cluster) setOf(log []zab.Entry) zab.Set {
	for _, e := range slices.Backward(log) {
		if members, ok := c.Change(e.Data); ok {
			return zab.Set{At: e.Zxid, Members: members}
		}
	}
	return zab.Set{Members: c.Members}
}

// changeMembers lets a leader make the latest change known for done, or change one more thing: a
// node goes, comes back as an observer, becomes a voter, or is one no more.
func (c *Cluster) changeMembers() {
	leader := c.Leader()
	if leader == nil || c.Propose == nil {
		return
	}
	var last [2]string
	for _, e := range slices.Backward(leader.Disk.View) {
		if _, ok := c.Change(e.Data); ok {
			if last[0] == "" {
				last[0] = string(e.Data)
				continue
			}
			last[1] = string(e.Data)
			break
		}
	}
	if last[0] != last[1] {
		c.Propose(leader, []byte(last[0]))
		return
	}
	members := slices.Clone(leader.Host.Status().Set.Members)
	id := zab.NodeID(1 + c.RNG.IntN(len(c.Nodes)))
	switch i := slices.IndexFunc(members, func(m zab.Member) bool { return m.ID == id }); {
	case i < 0:
		members = append(members, zab.Member{ID: id, Observer: !c.Chance(0.2)})
		slices.SortFunc(members, func(a, b zab.Member) int { return int(a.ID) - int(b.ID) })
	case id == leader.ID && len(c.Nodes) > 1: // it may not, and is refused
		if c.Propose(leader, changeTo(slices.Delete(members, i, i+1))); c.Chance(0.5) {
			c.moveLeadership()
		}
		return
	case c.Chance(0.5):
		members[i].Observer = !members[i].Observer
	default:
		members = slices.Delete(members, i, i+1)
	}
	c.Propose(leader, changeTo(members))
}

// moveLeadership asks the leader to hand over to some node.
func (c *Cluster) moveLeadership() {
	if leader := c.Leader(); leader != nil {
		c.Event(leader, zab.Transfer{To: zab.NodeID(1 + c.RNG.IntN(len(c.Nodes)))})
	}
}

// gossip lets nodes tell others who the members are, as they do when they meet and twice a
// second from then on. Only who hears something new has a step of it.
func (c *Cluster) gossip(every Instant) {
	for _, from := range c.Nodes {
		if !from.Up || from.Paused {
			continue
		}
		for _, m := range from.Host.Status().Set.Members {
			to := c.Nodes[m.ID-1]
			if to == from || !to.Up || to.Paused || c.Net.Links[from.Index][to.Index].Cuts > 0 {
				continue
			}
			c.Tell(from, to)
		}
	}
	c.After(every, func() { c.gossip(every) })
}

// tells is what a node hears of another that is a bare core.
func (c *Cluster) tells(from, to *Node) {
	set := from.Host.Status().Set
	if to.Host.Status().Set.At.Less(set.At) {
		c.Check.Counters.Hit(NewerSetLearned)
		c.Event(to, zab.Learned{Set: set})
	}
}

// Belongs reports whether a node is one of the members of the leader; of itself, whether it votes.
func (c *Cluster) Belongs(leader, n *Node) bool {
	return slices.ContainsFunc(leader.Host.Status().Set.Members, func(m zab.Member) bool {
		return m.ID == n.ID && (n != leader || !m.Observer)
	})
}

// committedSet is a set of members, and so many entries were committed before it counted.
type committedSet struct {
	after int
	zab.Set
}

// noteChange sees whether a committed entry changes the members.
func (c *Checker) noteChange(e zab.Entry) {
	members, ok := c.change(e.Data)
	if !ok {
		return
	}
	before := c.sets[len(c.sets)-1]
	c.sets = append(c.sets, committedSet{len(c.Committed), zab.Set{At: e.Zxid, Members: members}})
	for _, m := range members {
		if g := c.ghost(m.ID); g != nil && !m.Observer {
			g.Observer = false // and is a former voter for ever
		}
	}
	if voters(members) < voters(before.Members) {
		c.Counters.Hit(VoterWent)
	}
	if voters(members) > voters(before.Members) {
		c.Counters.Hit(VoterCame)
	}
}

// InForce are the sets by whose quorums the last of so many committed entries may have been
// committed: the members as of its position, or, if its leader found a change in its log that it did
// not know to be committed, those before.
func (c *Checker) InForce(committed int) []committedSet {
	last := len(c.sets) - 1
	for last > 0 && c.sets[last].after >= committed {
		last--
	}
	return c.sets[max(0, last-1) : last+1]
}

// CountUpto counts the committed entries up to one.
func (c *Checker) CountUpto(z zab.Zxid) int {
	n, _ := slices.BinarySearchFunc(c.Committed, z, compareZxid)
	return min(n+1, len(c.Committed))
}

func compareZxid(a, b zab.Zxid) int {
	switch {
	case a.Less(b):
		return -1
	case b.Less(a):
		return 1
	}
	return 0
}

// QuorumHolds reports whether a quorum of one of the sets fulfils a condition, and how many of the
// last do.
func (c *Checker) QuorumHolds(sets []committedSet, holds func(*Ghost) bool) (ok bool, have int) {
	for _, s := range sets {
		have = 0
		for _, m := range s.Members {
			if g := c.ghost(m.ID); !m.Observer && g != nil && holds(g) {
				have++
			}
		}
		ok = ok || have > voters(s.Members)/2
	}
	return ok, have
}

func voters(members []zab.Member) (n int) {
	for _, m := range members {
		if !m.Observer {
			n++
		}
	}
	return n
}

// removed are the nodes that may be switched off: the last change was made known for done, and
// leaves them out.
func (c *Cluster) removed() map[zab.NodeID]bool {
	out := map[zab.NodeID]bool{}
	sets := c.Check.sets
	n := len(sets)
	if n < 3 || c.Chance(0.3) || !slices.Equal(sets[n-1].Members, sets[n-2].Members) || voters(sets[n-1].Members) < 2 {
		return out // beside a single voter one that comes back may be needed, if a change is under way
	}
	for _, node := range c.Nodes {
		if !slices.ContainsFunc(sets[n-1].Members, func(m zab.Member) bool { return m.ID == node.ID }) {
			out[node.ID] = true
		}
	}
	return out
}
