// SPDX-License-Identifier: Apache-2.0

package zab

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// grown is a cluster that began with so many voters, in which others can come. A ghost watches.
func grown(t *testing.T, voters, others int) (*cluster, *ghost) {
	c := newCluster(voters+others, 0, nil)
	for _, h := range c.hosts {
		h.cfg.Members = c.hosts[0].cfg.Members[:voters]
	}
	g := watch(c)
	c.observe = func(h *host, e Effect) {
		g.look(h)
		g.effect(h, e)
	}
	for _, h := range c.hosts[:voters] {
		require.NoError(t, c.start(h))
	}
	c.run(10)
	require.NotNil(t, c.leader())
	return c, g
}

// join starts a node that knows who the members are from others.
func (c *cluster) join(t *testing.T, h *host) {
	set := c.leader().core.Status().Set
	h.cfg.Members, h.cfg.MembersAt = set.Members, set.At
	require.NoError(t, c.start(h))
}

// refusal proposes something and returns why it was refused, or nil.
func (c *cluster) refusal(h *host, data string) (err error) {
	before := c.observe
	c.observe = func(o *host, e Effect) {
		if r, ok := e.(Refused); ok {
			err = r.Err
		}
		before(o, e)
	}
	c.propose(h, data)
	c.observe = before
	return err
}

func TestAClusterGrowsAndShrinks(t *testing.T) {
	c, g := grown(t, 3, 1)
	leader, added := c.leader(), c.hosts[3]
	c.propose(leader, "before")
	c.propose(leader, "voters=123 observers=4")
	c.run(2)
	c.join(t, added)
	c.run(10)
	require.Equal(t, Observing, added.core.Status().Role)
	require.True(t, added.core.Status().Established, "%s", added.core)
	require.Equal(t, leader.core.commit, added.core.applied)

	c.propose(leader, "voters=1234")
	c.propose(leader, "at the same time")
	c.run(20)
	require.Same(t, leader, c.leader(), "it leads on")
	require.Equal(t, Following, added.core.Status().Role)
	require.True(t, added.core.Status().Established, "%s", added.core)
	require.Equal(t, 3, leader.core.quorum)

	// Two of the first three are gone: no quorum of the four.
	c.crash(c.hosts[0])
	c.crash(c.hosts[1])
	c.run(60)
	require.Nil(t, c.leader())
	require.NoError(t, c.start(c.hosts[0]))
	c.run(60)
	leader = c.leader()
	require.NotNil(t, leader)

	for _, voters := range []string{"134", "34"} {
		if c.leader() == c.hosts[0] {
			c.step(c.hosts[0], Transfer{To: 3})
			c.run(10)
		}
		c.propose(c.leader(), "voters="+voters)
		c.run(10)
	}
	c.propose(c.leader(), "after")
	c.run(3)
	require.Equal(t, "after", string(added.machine[len(added.machine)-1].Data))
	require.NotEqual(t, "after", string(c.hosts[0].machine[len(c.hosts[0].machine)-1].Data), "it is no member")
	require.Less(t, c.hosts[0].core.me, 0)
	g.survey()
	require.Empty(t, g.errs)
}

func TestMembersChangeOneAtATime(t *testing.T) {
	c, g := grown(t, 3, 2)
	leader := c.leader()
	require.Equal(t, NodeID(3), leader.cfg.ID)
	require.NoError(t, c.refusal(leader, "voters=1234"))
	for why, data := range map[string]string{
		"another change is under way": "voters=123",
		"id 1 is there twice":         "voters=1134",
		"there must be a voter":       "voters= observers=123",
		"id 0 means nobody":           "voters=1230",
	} {
		err := c.refusal(leader, data)
		require.ErrorIs(t, err, ErrMembers, data)
		require.ErrorContains(t, err, why)
	}
	c.run(3)
	for why, data := range map[string]string{
		"one voter comes or goes at a time": "voters=1235",
		"the leader has to hand over first": "voters=124",
	} {
		err := c.refusal(leader, data)
		require.ErrorIs(t, err, ErrMembers, data)
		require.ErrorContains(t, err, why)
	}
	require.ErrorIs(t, c.refusal(leader, "voters=135"), ErrMembers, "one for another are two")
	require.ErrorIs(t, c.refusal(c.hosts[0], "voters=123"), ErrNotLeader)
	g.survey()
	require.Empty(t, g.errs)
}

// Of two changes in a log the first was committed, whoever starts with them.
func TestAStartFindsTheChangesInTheLog(t *testing.T) {
	log := []Entry{
		{Zxid: Zxid{1, 1}, Data: []byte("a")},
		{Zxid: Zxid{1, 2}, Prev: Zxid{1, 1}, Data: []byte("voters=12")},
		{Zxid: Zxid{1, 3}, Prev: Zxid{1, 2}, Data: []byte("voters=1")},
	}
	for n, at := range []Zxid{{}, {}, {}, {1, 2}} {
		d := &disk{log: log[:n], hard: HardState{Accepted: 1, AcceptedFrom: 1, Current: 1}}
		core, err := New(Config{ID: 1, Members: []Member{{ID: 1}, {ID: 2}, {ID: 3}}, Change: changeOfTests}, d)
		require.NoError(t, err)
		require.Equal(t, at, core.Status().Set.At, "%d entries", n)
	}
	d := &disk{log: log, applied: Zxid{1, 2}, hard: HardState{Accepted: 1, AcceptedFrom: 1, Current: 1}}
	core, err := New(Config{ID: 3, Members: []Member{{ID: 1}, {ID: 2}}, MembersAt: Zxid{1, 2}, Change: changeOfTests},
		d)
	require.NoError(t, err, "it was removed, and may start")
	for range 100 {
		for _, e := range core.Step(Tick{}) {
			if s, ok := e.(Send); ok {
				require.Zero(t, s.Message.Body.(Ballot).Vote, "it stands for nothing")
			}
		}
	}
}

// A voter that went while it had what was never committed comes back as an observer.
func TestAnObserverThatWasAVoterIsCutBack(t *testing.T) {
	c, g := grown(t, 3, 0)
	last := c.leader()
	require.Equal(t, NodeID(3), last.cfg.ID)
	for j := range c.hosts {
		c.cut[2][j] = true
	}
	c.propose(last, "lost")
	c.settle()
	c.crash(last)
	for _, h := range c.hosts {
		c.step(h, PeerLost{3})
	}
	c.run(30)
	leader := c.leader()
	require.NotNil(t, leader)
	c.propose(leader, "voters=12")
	c.run(5)
	c.propose(leader, "voters=12 observers=3")
	c.run(5)
	for j := range c.hosts {
		c.cut[2][j] = false
	}
	require.Len(t, last.disk.log, 1)
	require.NoError(t, c.start(last))
	c.step(last, Learned{leader.core.Status().Set})
	c.run(30)
	require.True(t, last.core.Status().Established, "%s", last.core)
	require.Len(t, last.machine, 2)
	require.Empty(t, g.errs)
}

// Who was away knows nobody of those who lead now, until somebody tells him.
func TestANodeThatWasAwayLearnsTheMembers(t *testing.T) {
	c, g := grown(t, 3, 3)
	away := c.hosts[0]
	c.crash(away)
	for _, h := range c.hosts[1:3] {
		c.step(h, PeerLost{1})
	}
	for i, voters := range []string{"1234", "12345", "123456", "13456", "1456"} {
		if c.leader() == c.hosts[2] && voters == "1456" {
			c.step(c.hosts[2], Transfer{To: 6})
			c.run(10)
		}
		require.NoError(t, c.refusal(c.leader(), "voters="+voters), voters)
		c.run(2)
		if i < 3 {
			c.join(t, c.hosts[3+i])
		}
		c.run(10)
	}
	c.crash(c.hosts[1])
	c.crash(c.hosts[2])
	require.NotNil(t, c.leader())
	require.NoError(t, c.start(away))
	c.run(50)
	require.False(t, away.core.Status().Established)
	c.step(away, Learned{c.leader().core.Status().Set})
	c.run(50)
	require.True(t, away.core.Status().Established, "%s", away.core)
	require.Equal(t, c.leader().core.commit, away.core.applied)
	require.Empty(t, g.errs)
}

func TestALeaderHandsOver(t *testing.T) {
	c, g := grown(t, 3, 0)
	for _, to := range []NodeID{1, 2, 3, 1} {
		leader := c.leader()
		for range 5 {
			c.propose(leader, "x")
		}
		c.step(leader, Transfer{To: to})
		require.ErrorIs(t, c.refusal(leader, "y"), ErrBusy)
		c.run(6)
		require.NotNil(t, c.leader(), "a moment later")
		require.Equal(t, to, c.leader().cfg.ID)
	}
	require.Len(t, c.hosts[1].machine, 20)
	require.Empty(t, g.errs)
}

func TestWhyLeadershipIsNotHandedOver(t *testing.T) {
	c, g := grown(t, 3, 1)
	leader := c.leader()
	var why string
	c.observe = func(_ *host, e Effect) {
		if e, ok := e.(TransferEnded); ok {
			why = e.Why
		}
	}
	transfer := func(h *host, to NodeID) string {
		why = ""
		c.step(h, Transfer{To: to})
		return why
	}
	require.Contains(t, transfer(c.hosts[0], 2), "not the established leader")
	require.Contains(t, transfer(leader, 3), "it leads already")
	require.Contains(t, transfer(leader, 4), "it is no voter")
	c.crash(c.hosts[0])
	c.step(leader, PeerLost{1})
	require.Contains(t, transfer(leader, 1), "does not follow")

	c.hosts[1].stalled = true
	c.propose(leader, "x")
	require.Empty(t, transfer(leader, 2))
	require.Contains(t, transfer(leader, 2), "already")
	c.run(leader.core.cfg.SyncTicks + 5) // then its disk counts as dead
	require.NotEmpty(t, why)
	require.Empty(t, g.errs)
}

// A voter promised an epoch in an election that came to nothing, and is an observer since. It could
// follow no leader below that promise, so whoever leads makes room for an epoch above it.
func TestAnObserverThatWasAVoterIsNotLockedOutByItsPromise(t *testing.T) {
	c := newCluster(3, 1, nil)
	observer := c.hosts[len(c.hosts)-1]
	observer.disk.hard = HardState{Accepted: 7, AcceptedFrom: observer.cfg.ID}
	for _, h := range c.hosts {
		require.NoError(t, c.start(h))
	}
	c.run(400)
	require.True(t, observer.core.Status().Established)
	require.Greater(t, observer.core.Status().Epoch, Epoch(6))
}

// A blank disk counts the starts of its node from the beginning, so its sessions look older
// than those of the lost disk. They come over another connection, so the leader hears them.
func TestNodeWithABlankDiskIsTakenInByTheLeaderThatReigns(t *testing.T) {
	c := startedCluster(t, 3, 0)
	c.run(10)
	leader := c.leader()
	require.NotNil(t, leader)
	var victim *host
	for _, h := range c.hosts {
		if h != leader {
			victim = h
		}
	}
	restart := func() {
		c.crash(victim)
		for _, h := range c.hosts {
			c.step(h, PeerLost{victim.cfg.ID})
		}
		require.NoError(t, c.start(victim))
	}
	for range 3 {
		restart()
		c.run(10)
		require.True(t, victim.core.Status().Established, "%s", victim.core)
	}
	c.propose(leader, "before")
	c.run(3)

	*victim.disk = disk{}
	restart()
	c.run(20)
	require.Same(t, leader, c.leader(), "it need not end for that")
	require.True(t, victim.core.Status().Established, "%s", victim.core)
	c.propose(leader, "after")
	c.run(3)
	require.Len(t, victim.machine, 2)
}
