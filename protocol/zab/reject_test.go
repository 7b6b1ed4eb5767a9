// SPDX-License-Identifier: Apache-2.0

package zab

import (
	"testing"

	"github.com/stretchr/testify/require"
)

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
