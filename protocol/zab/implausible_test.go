// SPDX-License-Identifier: Apache-2.0

package zab

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

// A broken peer that claims an epoch near the last one must not make sound nodes promise it:
// after the next change of leader there would be none left.
func TestAnEpochBeyondBeliefIsNotTakenOver(t *testing.T) {
	for _, claimed := range []Epoch{maxEpoch - 3, maxEpoch - 1, 1 << 31, 3 + maxEpochGap} {
		c := startedCluster(t, 3, 0)
		c.run(10)
		leader, follower := c.leader(), c.hosts[0]
		epoch := leader.core.Status().Epoch

		c.step(leader, Received{Message{From: 1, To: leader.core.cfg.ID, Session: math.MaxUint64 - 1,
			Body: FollowerInfo{Accepted: claimed}}})
		require.Equal(t, Leading, leader.core.Status().Role, "a claim of %d", claimed)
		require.Less(t, leader.core.hard.Accepted, claimed)

		f := follower.core.follow
		c.step(leader, Received{Message{From: 1, To: leader.core.cfg.ID, Epoch: epoch, Session: f.session,
			Body: Reject{Reason: StaleEpoch, Accepted: claimed}}})
		require.Zero(t, leader.core.seenAccepted, "a reject with %d", claimed)

		// as after a lost connection, with an impostor at the other end
		follower.core.openSession(leader.core.cfg.ID, 0)
		c.step(follower, Received{Message{From: leader.core.cfg.ID, To: 1, Epoch: claimed,
			Session: follower.core.follow.session, Body: LeaderInfo{}}})
		require.Less(t, follower.core.hard.Accepted, claimed, "an announcement of %d", claimed)

		c.run(400)
		require.Equal(t, Leading, c.leader().core.Status().Role)
		require.Less(t, c.leader().core.Status().Epoch, claimed)
	}
}

// A node that was away while leaders changed very often is no broken peer.
func TestAnEpochThatIsFarAheadIsBelieved(t *testing.T) {
	c := newCluster(3, 0, nil)
	for id, h := range c.hosts {
		h.disk.hard = HardState{Accepted: 1, AcceptedFrom: 1, Current: 1}
		if id != 1 {
			h.disk.hard = HardState{Accepted: maxEpochGap - 10, AcceptedFrom: 2, Current: maxEpochGap - 10}
		}
	}
	for _, h := range c.hosts {
		c.start(h)
	}
	c.run(100)
	require.Greater(t, c.hosts[1].core.Status().Epoch, Epoch(maxEpochGap-10))
	require.True(t, c.hosts[1].core.Status().Established)
}

func TestARoundBeyondBeliefIsIgnored(t *testing.T) {
	c := startedCluster(t, 3, 0)
	h := c.hosts[0]
	h.core.enterLooking("for the test")
	c.step(h, Received{Message{From: 2, To: h.core.cfg.ID,
		Body: Ballot{Seq: math.MaxUint64, Round: math.MaxUint64, State: Looking, Vote: Vote{Leader: 2}}}})
	require.Less(t, h.core.elect.round, uint64(maxRound))
}

// Two nodes that lead each other one after the other may choose the same number for their
// sessions. A late word to the former leader must not end the session of today.
func TestRejectOfASessionTheOtherWayRoundIsIgnored(t *testing.T) {
	c := startedCluster(t, 3, 0)
	c.run(10)
	follower, host := c.hosts[0], c.leader()
	leader := host.core
	require.Equal(t, Following, follower.core.Status().Role)
	session := follower.core.follow.session

	c.step(follower, Received{Message{
		From: leader.cfg.ID, To: follower.core.cfg.ID, Epoch: leader.epoch(), Session: session,
		Body: Reject{Reason: StaleEpoch, Accepted: leader.epoch()},
	}})
	require.True(t, follower.core.Status().Established)
	require.Equal(t, session, follower.core.follow.session)

	c.step(host, Received{Message{
		From: follower.core.cfg.ID, To: leader.cfg.ID, Session: session,
		Body: Reject{Reason: UnknownSession, Accepted: leader.epoch()},
	}})
	require.Equal(t, session, leader.lead.peers[leader.place(follower.core.cfg.ID)].session)
}
