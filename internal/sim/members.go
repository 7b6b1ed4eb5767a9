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
func (c *cluster) setOf(log []zab.Entry) zab.Set {
	for _, e := range slices.Backward(log) {
		if members, ok := c.change(e.Data); ok {
			return zab.Set{At: e.Zxid, Members: members}
		}
	}
	return zab.Set{Members: c.members}
}

// changeMembers lets a leader make the latest change known for done, or change one more thing: a
// node goes, comes back as an observer, becomes a voter, or is one no more.
func (c *cluster) changeMembers() {
	leader := c.leader()
	if leader == nil || c.propose == nil {
		return
	}
	var last [2]string
	for _, e := range slices.Backward(leader.disk.view) {
		if _, ok := c.change(e.Data); ok {
			if last[0] == "" {
				last[0] = string(e.Data)
				continue
			}
			last[1] = string(e.Data)
			break
		}
	}
	if last[0] != last[1] {
		c.propose(leader, []byte(last[0]))
		return
	}
	members := slices.Clone(leader.host.Status().Set.Members)
	id := zab.NodeID(1 + c.rng.IntN(len(c.nodes)))
	switch i := slices.IndexFunc(members, func(m zab.Member) bool { return m.ID == id }); {
	case i < 0:
		members = append(members, zab.Member{ID: id, Observer: !c.chance(0.2)})
		slices.SortFunc(members, func(a, b zab.Member) int { return int(a.ID) - int(b.ID) })
	case id == leader.id && len(c.nodes) > 1: // it may not, and is refused
		if c.propose(leader, changeTo(slices.Delete(members, i, i+1))); c.chance(0.5) {
			c.moveLeadership()
		}
		return
	case c.chance(0.5):
		members[i].Observer = !members[i].Observer
	default:
		members = slices.Delete(members, i, i+1)
	}
	c.propose(leader, changeTo(members))
}

// moveLeadership asks the leader to hand over to some node.
func (c *cluster) moveLeadership() {
	if leader := c.leader(); leader != nil {
		c.event(leader, zab.Transfer{To: zab.NodeID(1 + c.rng.IntN(len(c.nodes)))})
	}
}

// gossip lets nodes tell others who the members are, as they do when they meet and twice a
// second from then on. Only who hears something new has a step of it.
func (c *cluster) gossip(every instant) {
	for _, from := range c.nodes {
		if !from.up || from.paused {
			continue
		}
		for _, m := range from.host.Status().Set.Members {
			to := c.nodes[m.ID-1]
			if to == from || !to.up || to.paused || c.net.links[from.index][to.index].cuts > 0 {
				continue
			}
			c.tell(from, to)
		}
	}
	c.after(every, func() { c.gossip(every) })
}

// tells is what a node hears of another that is a bare core.
func (c *cluster) tells(from, to *node) {
	set := from.host.Status().Set
	if to.host.Status().Set.At.Less(set.At) {
		c.check.counters.hit(NewerSetLearned)
		c.event(to, zab.Learned{Set: set})
	}
}

// belongs reports whether a node is one of the members of the leader; of itself, whether it votes.
func (c *cluster) belongs(leader, n *node) bool {
	return slices.ContainsFunc(leader.host.Status().Set.Members, func(m zab.Member) bool {
		return m.ID == n.id && (n != leader || !m.Observer)
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
	c.sets = append(c.sets, committedSet{len(c.committed), zab.Set{At: e.Zxid, Members: members}})
	for _, m := range members {
		if g := c.ghost(m.ID); g != nil && !m.Observer {
			g.observer = false // and is a former voter for ever
		}
	}
	if voters(members) < voters(before.Members) {
		c.counters.hit(VoterWent)
	}
	if voters(members) > voters(before.Members) {
		c.counters.hit(VoterCame)
	}
}

// inForce are the sets by whose quorums the last of so many committed entries may have been
// committed: the members as of its position, or, if its leader found a change in its log that it did
// not know to be committed, those before.
func (c *Checker) inForce(committed int) []committedSet {
	last := len(c.sets) - 1
	for last > 0 && c.sets[last].after >= committed {
		last--
	}
	return c.sets[max(0, last-1) : last+1]
}

// countUpto counts the committed entries up to one.
func (c *Checker) countUpto(z zab.Zxid) int {
	n, _ := slices.BinarySearchFunc(c.committed, z, compareZxid)
	return min(n+1, len(c.committed))
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

// quorumHolds reports whether a quorum of one of the sets fulfils a condition, and how many of the
// last do.
func (c *Checker) quorumHolds(sets []committedSet, holds func(*ghost) bool) (ok bool, have int) {
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
func (c *cluster) removed() map[zab.NodeID]bool {
	out := map[zab.NodeID]bool{}
	sets := c.check.sets
	n := len(sets)
	if n < 3 || c.chance(0.3) || !slices.Equal(sets[n-1].Members, sets[n-2].Members) || voters(sets[n-1].Members) < 2 {
		return out // beside a single voter one that comes back may be needed, if a change is under way
	}
	for _, node := range c.nodes {
		if !slices.ContainsFunc(sets[n-1].Members, func(m zab.Member) bool { return m.ID == node.id }) {
			out[node.id] = true
		}
	}
	return out
}
