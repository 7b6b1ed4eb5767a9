// SPDX-License-Identifier: Apache-2.0

// Package zab is the atomic broadcast core of concord: a few nodes agree on one
// history of entries, in one order, and every entry that is delivered anywhere is
// delivered everywhere, whatever crashes. It decides; it does nothing: no clock, no
// network, no disk, no goroutine, no randomness.
//
// # What you hold
//
// A Node is the core of one cluster member. Step takes one Event and returns the
// Effects to carry out, in order. The same events give the same effects. Status
// tells where it stands, Clone and Fingerprint serve exhaustive exploration.
//
// # What you owe the core
//
//  1. One goroutine calls Step. Nothing it waits for may block it.
//  2. Writes go to disk in the order of their IDs, each as one atomic batch; several may
//     share a sync. When they are durable say Persisted with the last ID. When a
//     write fails the process ends: a disk that failed once is not asked again.
//  3. Messages to one peer go over one connection at a time, first in, first out. If one
//     has to be dropped, drop the connection and say PeerLost on both sides. Sending
//     needs no waiting: a core that must not say something yet does not say it.
//  4. Delivered entries go to the state machine in order; say Applied when it holds
//     them. A restart may not bring back applied state without its log entries.
//  5. Tick comes at a steady pace, 50 ms for the default Config.
//  6. Config.Boot grows with each start of the process, and is durable before New.
//  7. Now and then say Compact, with a point that the stored state holds, or the log grows
//     for ever. Of a snapshot the core knows the zxid only: taking, carrying, staging and
//     verifying it is the driver's part, between SendSnapshot and SnapshotStaged. After
//     Restored the state machine begins anew from the store.
//  8. The applied state holds the set of members as of its position, and New gets it. Say
//     Learned when somebody who belongs to the cluster tells of a later set.
//
// The driving loop, with everything slow behind channels:
//
//	for {
//		select {
//		case <-ticker.C:
//			effects = node.Step(zab.Tick{})
//		case ev := <-events: // Received, Proposed, ReadAsked, Persisted, Applied, PeerLost, ...
//			effects = node.Step(ev)
//		}
//		for _, e := range effects {
//			switch e := e.(type) {
//			case zab.Send:
//				peers[e.Message.To].enqueue(zab.AppendMessage(nil, e.Message))
//			case zab.Write:
//				logWriter <- e
//			case zab.Deliver:
//				applier <- e.Entries
//			case zab.SendSnapshot, zab.FetchSnapshot, zab.Restored:
//				snapshots.carryOut(e)
//			case zab.Accepted, zab.Refused, zab.Dropped:
//				answerProposer(e)
//			case zab.TransferEnded:
//				answerOperator(e)
//			case zab.ReadReady, zab.ReadFailed:
//				answerReader(e)
//			case zab.RoleChanged, zab.Note:
//				logLine(e)
//			}
//		}
//	}
//
// # The four phases
//
// Election: looking nodes exchange Ballots until a quorum names the voter with the
// best (current epoch, last zxid, id). It is a hint about who should lead; a wrong one costs
// time and nothing else.
//
// Discovery: a follower opens a session with FollowerInfo. The leader picks an
// epoch above everything that a quorum has promised, makes it durable, and announces it with
// LeaderInfo. A follower makes it durable and promises it with AckEpoch, after
// which it listens to no older leader. A quorum of promises makes the epoch this
// leader's alone, and its log the initial history of the epoch.
//
// Synchronization: Sync says where the follower's log has to be cut, Propose carries what it
// lacks, NewLeader ends the stream. The follower makes the history durable, then
// the epoch, then says AckNewLeader. A quorum of those commits the initial
// history: the leader is established, and says UpToDate. A follower that ends before the
// leader's log begins is told to fetch a snapshot instead. It stages the snapshot beside
// what it has and installs it in one write; its first Ack tells where the stream goes on.
//
// Broadcast: Propose carries new entries, Ack says that everything up to a zxid is
// durable, and what a quorum has is committed. Commit tells, if no Propose or Ping
// does. Observers get committed entries only, with Inform, and are in no quorum.
// Ping and Pong show that the other side lives; Pongs of a quorum also confirm
// reads, which followers ask for with ReadReq and ReadResp. Reject ends a session.
//
// HandOver ends a reign in favour of a follower that has everything.
//
// Every message but a Ballot carries the epoch that the sender speaks for and the session
// that the follower chose. What belongs to another session is not acted upon.
//
// # Members that change
//
// Some entries are changes: each names a set of members, C0 being the one that the cluster begins
// with, Ci the one that the change zi names. Three rules:
//
//  1. The set in force at a node is the latest that it knows to be committed: because it delivered
//     the change, or has a later change in its log, or was told (Learned). All of its
//     quorums are of that set: for discovery, for synchronization, for entries, for reads.
//     A leader commits nothing behind a change before it has delivered that, so an entry is
//     committed by a quorum of the set as of its position, a change by one of the set before it.
//  2. A change is proposed when all earlier ones are delivered at the leader. So a log that has zi
//     proves that z(i-1) is committed, and whoever has zi has at least C(i-1) in force. That is
//     also so after a restart, because New looks through what is not applied of the log.
//  3. Ci and C(i+1) differ by one voter, so a quorum of one shares a voter with each quorum of the
//     other.
//
// Claim: when the leader L of epoch e closes discovery with a quorum Q of its set Cj, its log has
// everything that was committed in epochs before e. Assume it of all leaders before L, and let z
// be committed by one of them, by a quorum P of Cm.
//
//   - j is m-1, m or m+1: P and Q share a voter, by rule 3. It had z before it promised e, and L
//     is not behind it, so L has z. That is the argument of a set that never changes.
//   - In particular L has each change zk with k-1, k or k-2 equal to j that was committed before
//     e: by rule 2 the first leader to commit zk had C(k-1) in force.
//   - j > m+1: zj was committed before L began, and by the voter that its quorum of C(j-1) shares
//     with those who told L what they promised, in an epoch before e. So L has zj. Who
//     committed z had no zj in his log, by rule 2, so who committed zj had z before it in his.
//     Logs that share an entry agree up to it: L has z.
//   - j < m-1: z(j+2) was committed before z, so before e, and L has it. By rule 2 it has at least
//     C(j+1) in force, so this does not happen.
//
// A leader that hears of a later set before it is established gives up, so Q is of one set. One
// that found changes in its log that it did not know to be committed commits its initial
// history by a quorum of the set in force at it, which is what Cm stands for above.
//
// What rules 1 to 3 do not give is that whoever is left can go on: when a voter goes and is
// switched off, a node that crashed may not know any more that this was committed, and wait for
// it. Therefore the driver proposes each set twice, and says that a change is done when
// the second is delivered: then a quorum of the new set has in its log that it is in force.
// A node that was away may know nobody of today's members, hence Learned. A new voter is
// an observer first, so that it does not lack everything when it is counted.
//
// # Sources, and where this differs
//
// F. Junqueira, B. Reed, M. Serafini, "Zab: High-performance broadcast for
// primary-backup systems", DSN 2011: phases 1 to 3 are sections IV.A to IV.C. A. Medeiros,
// "ZooKeeper's atomic broadcast protocol: theory and practice", 2012: section 4 for what
// is run in practice, with the election choosing the history. Read index: D. Ongaro, "Consensus:
// bridging theory and practice", 2014, section 6.4. Differences from ZooKeeper:
//
//   - The epoch of a follower is written when NewLeader arrives and after the
//     history, by one ordered log writer. A log whose last epoch is above Current is legal.
//   - A zxid is 32 bits of epoch and 64 of counter; the last zxid always names a real
//     entry. Acks and commits are cumulative, and each entry names its predecessor.
//   - A repeated promise of an epoch counts if it was made to the same leader. A leader
//     that is refused for that reason while discovery is open tries a higher epoch at once.
//   - DIFF or TRUNC follows from the greatest own zxid that is not above the follower's last;
//     there is no second cache with a truth of its own. SNAP is chosen when, and only when,
//     the log does not reach back to the follower; so a snapshot holds all that the follower
//     has and that is worth keeping, and one that does not is refused. Snapshots are exact.
//   - A ballot counts for a candidate that was itself heard in this round. Waiting for a better
//     vote is skipped when all voters that can be reached agree. A candidate that could not
//     gather a quorum abstains for a while.
//   - A looking node joins whoever says that it leads, if the node itself would complete the
//     quorum; settled ballots are compared by leader alone.
//   - A leader that meets a voter with a higher promise abdicates, once in a while,
//     and its next epoch is above every promise it heard of.
//   - Followers acknowledge entries during synchronization too. Before AckNewLeader that
//     only opens the leader's window.
package zab
