// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"fmt"
	"slices"
	"strings"

	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

// Nodes that folded the same entries have the same state. When two of them have not, at least
// one must not answer any more, and who cannot tell which answers nothing either:
//
//   - A node that sees a voter with another state at the same position goes on only while a
//     majority of the voters, itself counted, is known to have its own state there.
//   - When so many differ that no majority can, it stops for good: it takes no part in the log,
//     refuses every request, and says so again after each start, until its store is replaced.
//   - In between it refuses what it is asked, and waits for the voters that it has not heard.
//
// So a minority stops by itself, and where no majority agrees all do.

// StateSeen says what the table of another node had folded, and its rolling hash there.
type StateSeen struct {
	Node   zab.NodeID
	At     zab.Zxid
	Digest txn.Digest
}

func (StateSeen) IsEvent() {}

// divergence is what a node knows of states that differ from its own.
type divergence struct {
	// Why is why this node is not to be trusted any more; empty: it is.
	Why     string
	suspect string                   // why it answers nothing for the time being
	claims  map[zab.NodeID]StateSeen // at positions that this node has not come to
	stances map[zab.NodeID]stance
	told    string // as last noted
}

// stance is what the last comparison with a node said.
type stance struct {
	same bool
	at   zab.Zxid // of that; if it differs, of the first that did
}

// onStateSeen compares a state now, or when this node has come so far.
func (c *Core) onStateSeen(e StateSeen) {
	d := &c.diverged
	if !e.At.IsZero() {
		c.wake("node %d has the log of a cluster", e.Node)
	}
	if c.Zxid().Less(e.At) {
		if old, waits := d.claims[e.Node]; !waits || e.At.Less(old.At) {
			d.claims[e.Node] = e
		}
		return
	}
	c.compareState(e)
	c.judge()
}

// compareClaims compares what others have said of positions that this node has come to.
func (c *Core) compareClaims() {
	d := &c.diverged
	compared := false
	for node, e := range d.claims {
		if !c.Zxid().Less(e.At) {
			delete(d.claims, node)
			c.compareState(e)
			compared = true
		}
	}
	if compared {
		c.judge()
	}
}

func (c *Core) compareState(e StateSeen) {
	same, known := c.digests.compare(e.At, e.Digest)
	if !known {
		return
	}
	old, heard := c.diverged.stances[e.Node]
	if !same && heard && !old.same {
		return
	}
	c.diverged.stances[e.Node] = stance{same: same, at: e.At}
}

// judge decides whether this node may go on.
func (c *Core) judge() {
	d := &c.diverged
	voters, agree, since := 0, 0, zab.Zxid{}
	var differ []zab.NodeID
	for _, m := range c.list.Members {
		if s, heard := d.stances[m.ID]; heard && !s.same && m.ID != c.config.Node {
			differ = append(differ, m.ID)
			if since.Less(s.at) {
				since = s.at
			}
		}
	}
	against := 0
	for _, m := range c.list.Members {
		if m.Observer {
			continue
		}
		voters++
		s, heard := d.stances[m.ID]
		switch {
		case m.ID == c.config.Node, heard && s.same && !s.at.Less(since):
			agree++
		case slices.Contains(differ, m.ID):
			against++
		}
	}
	majority := voters/2 + 1
	text := ""
	if len(differ) > 0 {
		text = fmt.Sprintf("the state of this node, %d, differs at %v from that of %s", c.config.Node, since,
			nodeNames(differ))
	}
	switch d.suspect = ""; {
	case against == 0 || agree >= majority:
		if text != "" {
			text += "; a majority agrees with this node: replace the store of " + nodeNames(differ) +
				" with \"concord member replace\""
		}
	case voters-against < majority:
		c.stopForGood(text)
		return
	default:
		d.suspect = text + "; it answers nothing until it knows with whom the majority agrees: bring the other nodes up"
		text = d.suspect
	}
	if text != d.told {
		d.told = text
		if text == "" {
			c.Note("the states of all nodes are equal again")
		} else {
			c.Alarm("%s", text)
		}
	}
}

// stopForGood ends everything that this node does.
func (c *Core) stopForGood(why string) {
	d := &c.diverged
	d.Why = why + ", so that no majority can agree with it. From now on it takes part in nothing and answers " +
		"nothing. Stop it, move its directory away, run \"concord member replace " + fmt.Sprint(c.config.Node) +
		"\" on the others, and start it with an empty one; if all nodes say this, put back a backup of one of them"
	d.suspect = ""
	c.Alarm("%s", d.Why)
	c.fx.Distrust = d.Why
	c.failWaiting(c.Distrusted())
	c.failReads()
	c.clearLeadership()
	c.leading, c.rising, c.role = false, false, zab.RoleChanged{Role: zab.Looking}
}

// distrusted is the answer of a node that must not answer; nil: it may.
func (c *Core) Distrusted() error {
	if why := c.diverged.Why + c.diverged.suspect; why != "" {
		return txn.Unavailablef("%s", why)
	}
	return nil
}

// refuseAll is all that a node does that has stopped for good.
func (c *Core) refuseAll(e Event) {
	switch e := e.(type) {
	case Tick:
		c.now = e.Now
	case Asking:
		c.reply(Reply{Request: e.RequestNo(), Err: c.Distrusted()})
	}
}

func nodeNames(ids []zab.NodeID) string {
	slices.Sort(ids)
	var names []string
	for _, id := range ids {
		names = append(names, fmt.Sprintf("node %d", id))
	}
	return strings.Join(names, ", ")
}

// Warnings are what an operator should know of the members and their states.
func (c *Core) Warnings() (texts []string) {
	if text := c.diverged.Why; text != "" {
		texts = append(texts, text)
	} else if text := c.diverged.told; text != "" {
		texts = append(texts, text)
	}
	if c.asleep {
		texts = append(texts, fmt.Sprintf("the store of this node, %d, is empty, and it has not met %s: a cluster "+
			"is founded when all of its voters have met, and joined when somebody answers who belongs to it",
			c.config.Node, nodeNames(c.missing())))
	}
	if l, learns := c.learner(); learns {
		texts = append(texts, fmt.Sprintf("node %d is learning: it becomes a voter when it has caught up; start it "+
			"if it is not running, or run \"concord member remove %d\"", l.ID, l.ID))
	}
	return texts
}
