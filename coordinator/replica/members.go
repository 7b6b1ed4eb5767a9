// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

// Who the members are is said by the log; the configuration says it only until the log does,
// and who founds the cluster. Members come and go one at a time, by a MembersRecord each,
// which the leader writes twice: whoever has the second knows that the first is done. A new
// voter learns first, in no quorum, and is made a voter when it has caught up. A leader that is to
// go hands over before.

// PeerMet says that this node and another agree to talk, and what that one belongs to.
type PeerMet struct {
	Node    zab.NodeID
	Cluster txn.ClusterID // 0: it knows of none yet
	// List is what it knows of the members, if that is later than what this node knows.
	List List
}

// AddAsked asks for a node to become a member.
type AddAsked struct {
	Request  uint64
	Member   Member
	Key      string // tells a repeated request
	Who, Why string
}

// RemoveAsked asks for a member to be one no more.
type RemoveAsked struct {
	Request  uint64
	Node     zab.NodeID
	Key      string
	Who, Why string
}

// LeadAsked asks the leader to hand over to another voter.
type LeadAsked struct {
	Request  uint64
	Node     zab.NodeID
	Who, Why string
}

func (PeerMet) IsEvent()     {}
func (AddAsked) IsEvent()    {}
func (RemoveAsked) IsEvent() {}
func (LeadAsked) IsEvent()   {}

// RequestNo implements Asking.
func (e AddAsked) RequestNo() uint64 { return e.Request }

// RequestNo implements Asking.
func (e RemoveAsked) RequestNo() uint64 { return e.Request }

// RequestNo implements Asking.
func (e LeadAsked) RequestNo() uint64 { return e.Request }

// membersWork is what a leader has in hand about them. It is dropped with its leadership, but for
// the handing over of that.
type membersWork struct {
	change   []txn.Record // for an entry of its own, not proposed yet
	underway bool         // a change is, or is about to be, on its way into the log
	waiting  []memberWait
	// looked is what had been committed when a learner was last seen in a session: who has all
	// of it the next time has caught up.
	looked map[zab.NodeID]zab.Zxid
}

// memberWait is a request that waits until its change is done.
type memberWait struct {
	request uint64
	key     string
}

// handover is leadership on its way to another node.
type handover struct {
	to       zab.NodeID
	request  uint64 // 0: nobody waits
	started  bool   // the log knows of it
	deadline time.Time
	// remove: the request is to remove this node, and goes on at the next leader.
	remove bool
}

// handoverPatience is how long the next leader may take, once the log has let go of this one.
const handoverPatience = 10 * time.Second

// takeList takes over a list that is later than what is known.
func (c *Core) takeList(l List) {
	if !c.list.At.Less(l.At) {
		return
	}
	if !SameMembers(c.list.Members, l.Members) {
		c.Note("the members are %s since %v", txn.ListText(FromMembers(l.Members)), l.At)
	}
	c.list = l
}

// followSet takes over the list of the log's set in force if the state is behind it: two changes in the
// log tell that the first was committed. Whoever is met has to hear of it, since those whom it made
// voters may not know by themselves, and without them there is no quorum.
func (c *Core) followSet() {
	s, said := c.zab.InForce()
	if said == nil || !c.list.At.Less(s.At) {
		return
	}
	list, ok := txn.MembersOf(said)
	if !ok {
		panic(fmt.Sprintf("replica: the change of members at %v does not decode", s.At))
	}
	c.takeList(List{At: s.At, Members: ToMembers(list)})
}

// stateList is what the state says of the members.
func stateList(t *txn.ClusterState) (l List, ok bool) {
	m := t.Members()
	if m == nil {
		return List{}, false
	}
	return List{At: m.At, Members: ToMembers(m.List)}, true
}

// A node with an empty store must not found a cluster with others who are as blank while those
// who know the log are away: it would be another cluster under the same addresses. So a
// voter sleeps until it has met all other voters, or somebody who belongs to the cluster.

// Blank reports whether a node with this store knows nothing of any cluster.
func Blank(s zab.Storage, t *txn.ClusterState) bool {
	hard, _, last, _ := s.Initial()
	return hard == zab.HardState{} && last.IsZero() && t.Cluster() == 0
}

// missing are the voters that a blank node has not met.
func (c *Core) missing() (ids []zab.NodeID) {
	for _, m := range c.list.Members {
		if !m.Observer && m.ID != c.config.Node && !c.met[m.ID] {
			ids = append(ids, m.ID)
		}
	}
	return ids
}

func (c *Core) onPeerMet(e PeerMet) error {
	if c.list.At.Less(e.List.At) {
		c.takeList(e.List)
		c.wake("node %d reports who belongs to the cluster", e.Node)
		return c.stepLog(zab.Learned{Set: zab.Set{At: e.List.At, Members: ZabMembers(e.List.Members)}})
	}
	if c.asleep {
		c.met[e.Node] = true
		switch {
		case e.Cluster != 0:
			c.wake("node %d belongs to cluster %v", e.Node, e.Cluster)
		case len(c.missing()) == 0:
			c.wake("all voters have met")
		}
	}
	return nil
}

func (c *Core) wake(format string, args ...any) {
	if c.asleep {
		c.asleep = false
		c.Note("this node has an empty store, and takes part from now on: "+format, args...)
	}
}

// onMembersDelivered sees what an entry has said of the members.
func (c *Core) onMembersDelivered() {
	l, ok := stateList(c.State())
	if !ok || l.At == c.delivered {
		return
	}
	c.delivered = l.At
	c.takeList(l)
	c.changes.underway = false
	c.answerChanged()
}

// answerChanged answers who waits for the change that is done.
func (c *Core) answerChanged() {
	m := c.State().Members()
	if m == nil || !m.Settled {
		return
	}
	c.changes.waiting = slices.DeleteFunc(c.changes.waiting, func(w memberWait) bool {
		if w.key != m.Key {
			return false
		}
		c.reply(Reply{Request: w.request, Zxid: c.Zxid()})
		return true
	})
}

// keepMembers does what is due about the members: the log shall say who they are, and that the
// latest change is done.
func (c *Core) keepMembers() {
	if c.changes.underway || c.State().Level() < txn.LevelMembers {
		return
	}
	switch m := c.State().Members(); {
	case m == nil:
		c.takeChange(txn.MembersRecord{Members: FromMembers(c.list.Members)})
	case !m.Settled:
		c.takeChange(txn.MembersRecord{Members: m.List})
	}
}

// takeChange lets a change go into the log next.
func (c *Core) takeChange(r txn.MembersRecord, more ...txn.Record) {
	slices.SortFunc(r.Members, func(a, b txn.Member) int { return cmp.Compare(a.ID, b.ID) })
	c.changes.underway = true
	c.changes.change = append([]txn.Record{r}, more...)
}

// proposeChange proposes the change that waits, in an entry of its own.
func (c *Core) proposeChange() error {
	records := c.changes.change
	if len(records) == 0 {
		return nil
	}
	c.changes.change = nil
	c.proposal++
	_, err := c.stepProposed(txn.EncodeRecords(nil, records...), records, 0)
	return err
}

// changeRefused hears that the log has not taken a change.
func (c *Core) changeRefused(r txn.MembersRecord, err error) {
	c.changes.underway = false
	c.changes.waiting = slices.DeleteFunc(c.changes.waiting, func(w memberWait) bool {
		if w.key != r.Key {
			return false
		}
		c.reply(Reply{Request: w.request, Err: err})
		return true
	})
}

// mayChange answers a request for a change that cannot be made now, or is made already.
func (c *Core) mayChange(request uint64, key string) bool {
	if !c.ready(request) {
		return false
	}
	m := c.State().Members()
	switch {
	case m == nil:
		c.reply(Reply{Request: request, Err: txn.Refusedf("the log does not say yet who the members are: it will when "+
			"all of them run a release that knows feature level %d and have been up together; see \"concord status\"",
			txn.LevelMembers)})
	case m.Key == key && m.Settled && !c.changes.underway:
		c.reply(Reply{Request: request, Zxid: c.Zxid()})
	case m.Key == key || slices.ContainsFunc(c.changes.waiting, func(w memberWait) bool { return w.key == key }):
		c.changes.waiting = append(c.changes.waiting, memberWait{request, key}) // asked again
	case !m.Settled || c.changes.underway:
		c.reply(Reply{Request: request, Err: ErrBusy})
	default:
		return true
	}
	return false
}

func (c *Core) onAddAsked(e AddAsked) {
	if !c.mayChange(e.Request, e.Key) {
		return
	}
	old, there := c.list.Find(e.Member.ID)
	why := ""
	switch {
	case there && old.Learner && !e.Member.Observer && old.Peer == e.Member.Peer && old.API == e.Member.API:
		c.reply(Reply{Request: e.Request, Zxid: c.Zxid()}) // somebody goes on waiting for it
		return
	case there:
		why = fmt.Sprintf("node %d is a member already (%v): see \"concord member ls\"", old.ID, RoleOf(old))
	case len(c.list.Members) >= txn.MaxMembers:
		why = fmt.Sprintf("a cluster has at most %d members: remove one first", txn.MaxMembers)
	default:
		why = c.occupied(e.Member)
	}
	if why == "" && !c.quorumWithout(0, FromMembers(c.list.Members)) {
		c.reply(Reply{Request: e.Request,
			Err: txn.Unavailablef("too few voters follow this leader for a decision: see \"concord status\"")})
		return
	}
	if l, learns := c.learner(); why == "" && learns {
		why = fmt.Sprintf("node %d is being added and has not caught up yet: wait for it, or remove it with "+
			"\"concord member remove %d\"", l.ID, l.ID)
	}
	if why != "" {
		c.reply(Reply{Request: e.Request, Err: txn.Refusedf("%s", why)})
		return
	}
	m := txn.Member{ID: uint64(e.Member.ID), Role: txn.Learner, Peer: e.Member.Peer, API: e.Member.API}
	if e.Member.Observer {
		m.Role = txn.Observer
	}
	c.takeChange(txn.MembersRecord{Members: append(FromMembers(c.list.Members), m), Who: e.Who, Why: e.Why, Key: e.Key})
	c.changes.waiting = append(c.changes.waiting, memberWait{e.Request, e.Key})
	c.Alarm("%s adds node %d as %v: %s", e.Who, m.ID, m.Role, e.Why)
}

// occupied says which member has an address of a new one.
func (c *Core) occupied(m Member) string {
	for _, o := range c.list.Members {
		for _, addr := range []string{m.Peer, m.API} {
			if addr == o.Peer || addr == o.API {
				return fmt.Sprintf("the address %s is that of node %d: give the new node its own", addr, o.ID)
			}
		}
	}
	return ""
}

// learner returns who is on the way to be a voter.
func (c *Core) learner() (Member, bool) {
	i := slices.IndexFunc(c.list.Members, func(m Member) bool { return m.Learner })
	if i < 0 {
		return Member{}, false
	}
	return c.list.Members[i], true
}

func (c *Core) onRemoveAsked(e RemoveAsked) {
	if !c.mayChange(e.Request, e.Key) {
		return
	}
	m, there := c.list.Find(e.Node)
	rest := slices.DeleteFunc(FromMembers(c.list.Members), func(m txn.Member) bool { return m.ID == uint64(e.Node) })
	switch l, learns := c.learner(); {
	case !there:
		c.reply(Reply{Request: e.Request, Err: noMember(e.Node)})
	case learns && l.ID != e.Node:
		c.reply(Reply{Request: e.Request,
			Err: txn.Refusedf("node %d is being added and has not caught up yet: wait for it, or remove it first, "+
				"with \"concord member remove %d\"", l.ID, l.ID)})
	case !m.Observer && countVoters(rest) == 0:
		c.reply(Reply{Request: e.Request,
			Err: txn.Refusedf("node %d is the last voter, and nobody would be left to decide: add another one first, "+
				"with \"concord member add\"", e.Node)})
	case !m.Observer && !c.quorumWithout(e.Node, rest):
		c.reply(Reply{Request: e.Request,
			Err: txn.Refusedf("without node %d too few of the voters that are left follow this leader, and the "+
				"cluster would stop: bring them back, or remove those first; see \"concord status\"", e.Node)})
	case e.Node == c.config.Node:
		c.handOver(handover{to: c.bestFollower(), request: e.Request, remove: true})
	default:
		c.takeChange(txn.MembersRecord{Members: rest, Who: e.Who, Why: e.Why, Key: e.Key})
		c.changes.waiting = append(c.changes.waiting, memberWait{e.Request, e.Key})
		c.Alarm("%s removes node %d: %s", e.Who, e.Node, e.Why)
	}
}

func noMember(id zab.NodeID) error {
	return txn.NotFoundf("there is no member %d: see \"concord member ls\"", id)
}

// quorumWithout reports whether the voters of a list that follow this leader are a quorum of it
// when a node goes.
func (c *Core) quorumWithout(gone zab.NodeID, list []txn.Member) bool {
	follow := 0
	if gone != c.config.Node {
		follow = 1
	}
	for _, p := range c.zab.Status().Peers {
		if m, ok := txn.FindMember(list, uint64(p.ID)); ok && m.Role == txn.Voter && p.Synced {
			follow++
		}
	}
	return follow >= countVoters(list)/2+1
}

func countVoters(list []txn.Member) (n int) {
	for _, m := range list {
		if m.Role == txn.Voter {
			n++
		}
	}
	return n
}

// bestFollower is the voter that has most of the log.
func (c *Core) bestFollower() (best zab.NodeID) {
	var most zab.Zxid
	for _, p := range c.zab.Status().Peers {
		if !p.Observer && p.Synced && (best == 0 || most.Less(p.Match)) {
			best, most = p.ID, p.Match
		}
	}
	return best
}

// watchLearners makes a voter of who has caught up.
func (c *Core) watchLearners() {
	l, learns := c.learner()
	m := c.State().Members()
	if !learns || m == nil || !m.Settled || c.changes.underway {
		return
	}
	s := c.zab.Status()
	i := slices.IndexFunc(s.Peers, func(p zab.PeerStatus) bool { return p.ID == l.ID && p.Synced })
	if i < 0 {
		delete(c.changes.looked, l.ID)
		return
	}
	before, looked := c.changes.looked[l.ID]
	c.changes.looked[l.ID] = s.Commit
	at := slices.IndexFunc(c.speakers, func(s Speaker) bool { return s.Node == l.ID })
	if !looked || at < 0 || s.Peers[i].Match.Less(before) {
		return
	}
	list := FromMembers(c.list.Members)
	for i := range list {
		if list[i].ID == uint64(l.ID) {
			list[i].Role = txn.Voter
		}
	}
	c.Note("node %d has caught up, and becomes a voter", l.ID)
	c.takeChange(txn.MembersRecord{Members: list}, txn.MemberRecord{Node: uint64(l.ID), Store: c.speakers[at].Store})
}

// watchAddresses takes the word of each member for where it is.
func (c *Core) watchAddresses() {
	m := c.State().Members()
	if m == nil || !m.Settled || c.changes.underway {
		return
	}
	list := slices.Clone(m.List)
	for i := range list {
		at := slices.IndexFunc(c.speakers,
			func(s Speaker) bool { return uint64(s.Node) == list[i].ID && s.Peer != "" && s.API != "" })
		if at >= 0 {
			list[i].Peer, list[i].API = c.speakers[at].Peer, c.speakers[at].API
		}
	}
	if !slices.Equal(list, m.List) {
		c.takeChange(txn.MembersRecord{Members: list})
	}
}

func (c *Core) onLeadAsked(e LeadAsked) {
	if !c.ready(e.Request) {
		return
	}
	m, there := c.list.Find(e.Node)
	switch {
	case !there:
		c.reply(Reply{Request: e.Request, Err: noMember(e.Node)})
	case e.Node == c.config.Node:
		c.reply(Reply{Request: e.Request, Zxid: c.Zxid()}) // it is so, perhaps since the request was made first
	case m.Observer:
		c.reply(Reply{Request: e.Request,
			Err: txn.Refusedf("node %d is not a voter (%v) and cannot lead: name one that \"concord member ls\" shows "+
				"as a voter", e.Node, RoleOf(m))})
	case c.diverged.Why != "":
		c.reply(Reply{Request: e.Request, Err: c.Distrusted()})
	default:
		c.Note("%s moves leadership to node %d: %s", e.Who, e.Node, e.Why)
		c.handOver(handover{to: e.Node, request: e.Request})
	}
}

// handOver begins to hand leadership to another node. New records wait for the next leader.
func (c *Core) handOver(h handover) {
	if c.handing != nil {
		c.reply(Reply{Request: h.request, Err: ErrBusy})
		return
	}
	c.handing = &h
}

// proceedHandover tells the log once what was proposed before is on its way.
func (c *Core) proceedHandover() error {
	h := c.handing
	if h == nil {
		return nil
	}
	switch {
	case h.started && !h.deadline.IsZero() && c.now.After(h.deadline):
		c.endHandover(txn.Unavailablef("node %d gave up leadership, and nobody took it within %v: see \"concord "+
			"status\"", c.config.Node, handoverPatience))
	case !h.started && c.leading:
		h.started = true
		return c.stepLog(zab.Transfer{To: h.to})
	}
	return nil
}

// onTransferEnded hears that the log goes on with this leader.
func (c *Core) onTransferEnded(e zab.TransferEnded) {
	c.Note("leadership stays here: node %d: %s", e.To, e.Why)
	c.endHandover(txn.Unavailablef("node %d cannot take over leadership now: %s; see \"concord status\", and ask again",
		e.To, e.Why))
}

// followHandover looks at who leads after this node.
func (c *Core) followHandover(e zab.RoleChanged) {
	h := c.handing
	switch {
	case h == nil || !h.started:
	case h.remove && e.Role != zab.Leading:
		c.endHandover(c.notLeader(h.to))
	case !e.Established:
		if h.deadline.IsZero() && e.Role != zab.Leading {
			h.deadline = c.now.Add(handoverPatience)
		}
	case e.Leader == h.to:
		c.endHandover(nil)
	case !h.deadline.IsZero():
		c.endHandover(txn.Unavailablef("node %d leads now, not node %d: see \"concord status\", and ask again",
			e.Leader, h.to))
	}
}

func (c *Core) endHandover(err error) {
	if r := c.handing.request; r != 0 {
		c.reply(Reply{Request: r, Err: err, Zxid: c.Zxid()})
	}
	c.handing = nil
}

// changeOf tells the log which entries change the members.
func changeOf(data []byte) ([]zab.Member, bool) {
	list, ok := txn.MembersOf(data)
	if !ok {
		return nil, false
	}
	return ZabMembers(ToMembers(list)), true
}
