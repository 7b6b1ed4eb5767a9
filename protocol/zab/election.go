// SPDX-License-Identifier: Apache-2.0

package zab

import "github.com/concordtx/concord/internal/mutant"

// election is the state of fast leader election: every looking voter tells all
// others the best candidate it knows, until a quorum names the same one. Rounds keep
// old ballots out. Nothing of it is durable, and nothing of it is needed for safety:
// discovery decides whether the elected node may lead.
type election struct {
	round   uint64
	vote    Vote
	ballots []heardBallot // the latest of each member
	lost    []bool        // connection lost, and nothing was heard since
	seq     uint32

	resendAt   uint64 // tick
	resendWait uint64
	votedAt    uint64 // tick of the vote
	finalizeAt uint64 // tick at which a quorum stops waiting for a better vote; 0: no quorum

	// A node that was elected and then could not gather a quorum stays away as a
	// candidate for a while, or the same hopeless one is elected for ever.
	abstainUntil uint64
	abstainWait  uint64
	// standing counts the ticks in a row in which this node was its own candidate, and was
	// heard, and did not gather a quorum of votes.
	standing int
}

type heardBallot struct {
	Ballot
	known bool
}

const (
	firstResend = 2
	maxResend   = 20
	never       = ^uint64(0)
)

// enterLooking gives up whatever was, and starts a new round of the election.
func (n *Node) enterLooking(reason string) {
	n.leaveReign()
	n.role, n.phase, n.established = Looking, Election, false
	n.report(reason)
	n.stayAwayWhileDiskStalls()
	el := &n.elect
	el.round++
	el.vote = n.ownVote()
	for i := range el.ballots {
		b := &el.ballots[i]
		if !b.known || b.State != Looking || b.Round < el.round || !n.mayLead(b.Vote.Leader) {
			b.known = false // settled ballots are from before; the settled say it again
			continue
		}
		if b.Round > el.round {
			el.round = b.Round
		}
		if b.Vote.better(el.vote) {
			el.vote = b.Vote
		}
	}
	el.finalizeAt, el.votedAt = 0, n.now
	n.campaign()
	n.tryDecide()
}

// leaveReign ends leading or following, and tells whoever waits for an outcome.
func (n *Node) leaveReign() {
	n.failReads()
	if n.role != Looking {
		n.elect.standing = 0
	}
	if l := n.lead; l != nil && n.established && n.commit.Less(n.tail()) && n.tail().Epoch == l.epoch {
		n.emit(Dropped{After: n.commit})
	}
	n.lead, n.follow = nil, nil
}

// ownVote is this node's candidacy: none for an observer and for who abstains.
func (n *Node) ownVote() Vote {
	if n.observer() || n.now < n.elect.abstainUntil {
		return Vote{}
	}
	return Vote{Leader: n.cfg.ID, Epoch: n.durable.Current, Last: n.stable}
}

// mayLead reports whether id is a voter that can be reached, or nobody at all.
func (n *Node) mayLead(id NodeID) bool {
	if id == 0 {
		return true
	}
	i := n.place(id)
	return i >= 0 && !n.set.Members[i].Observer && !n.elect.lost[i]
}

// campaign tells all voters the own ballot, now and then again in growing intervals.
func (n *Node) campaign() {
	n.elect.resendWait = firstResend
	n.sendBallots()
}

func (n *Node) sendBallots() {
	n.elect.resendAt = n.now + n.elect.resendWait
	if mutant.TimerNotRearmed && n.elect.round > 1 {
		n.elect.resendAt = never
	}
	for i, m := range n.set.Members {
		if i != n.me && !m.Observer {
			n.sendBallot(i)
		}
	}
}

func (n *Node) sendBallot(to int) {
	n.elect.seq++
	b := Ballot{
		Seq:   uint64(n.cfg.Boot)<<32 | uint64(n.elect.seq),
		Round: n.elect.round,
		State: n.role,
		Vote:  n.elect.vote,
	}
	if n.role != Looking {
		b.Vote = Vote{Leader: n.leaderID(), Epoch: n.epoch(), Last: n.stable}
	}
	n.send(to, 0, 0, b)
}

// abstain is called when this node was elected and then failed to lead.
func (n *Node) abstain() {
	el := &n.elect
	wait := uint64(2 * n.cfg.FinalizeTicks)
	if el.abstainWait > 0 {
		wait = min(2*el.abstainWait, uint64(4*n.cfg.SyncTicks))
	}
	el.abstainWait = wait
	el.abstainUntil = n.now + wait
}

// maxRound is a round that no honest node comes to: whoever followed a peer beyond it would
// be at the end of the numbers with the next election, and its ballots older than all others.
const maxRound = 1 << 48

// onBallot keeps the latest ballot of each member and lets it have its effect.
func (n *Node) onBallot(from int, b Ballot) {
	old := &n.elect.ballots[from]
	if b.Seq <= old.Seq || b.State > Observing || b.Round > maxRound {
		return
	}
	*old = heardBallot{Ballot: b, known: true}
	switch {
	case n.set.Members[from].Observer:
		if n.role == Following || n.role == Leading {
			n.sendBallot(from)
		}
	case n.role == Looking:
		n.ballotWhileLooking(from, b)
	default:
		n.ballotWhileSettled(from, b)
	}
}

func (n *Node) ballotWhileLooking(from int, b Ballot) {
	el := &n.elect
	if b.State == Looking && !n.observer() {
		vote := b.Vote
		if !n.mayLead(vote.Leader) {
			vote = Vote{}
		}
		switch {
		case b.Round > el.round:
			el.round = b.Round
			n.adopt(n.ownVote(), vote)
		case b.Round == el.round && vote.better(el.vote):
			n.adopt(el.vote, vote)
		case b.Round < el.round || el.vote.better(b.Vote):
			n.sendBallot(from) // the sender does not know yet
		}
	}
	n.tryDecide()
}

// adopt takes the better of two votes and tells everybody.
func (n *Node) adopt(a, b Vote) {
	if b.better(a) {
		a = b
	}
	n.elect.vote = a
	n.elect.finalizeAt, n.elect.votedAt = 0, n.now
	n.campaign()
}

func (n *Node) ballotWhileSettled(from int, b Ballot) {
	if n.follow != nil && n.follow.leader == n.set.Members[from].ID {
		if n.leaderLeft(b) {
			n.enterLooking("the leader stopped leading")
			return
		}
		n.leaderLives(b)
	}
	if b.State != Looking {
		return
	}
	n.sendBallot(from)
	if n.lead != nil && n.phase == Discovery && b.Round > n.elect.round {
		n.supporterLeft()
	}
}

// leaderLives notes a sign of life of a leader that has no epoch yet. Who was elected
// first may have greeted the leader before it knew: it greets once more.
func (n *Node) leaderLives(b Ballot) {
	f := n.follow
	if f.epoch != 0 || f.parked {
		return
	}
	f.heard = n.now
	if b.State == Leading && !f.leading {
		f.leading = true
		n.greet()
	}
}

// leaderLeft reports whether the own leader's ballot says that it leads no more.
func (n *Node) leaderLeft(b Ballot) bool {
	switch b.State {
	case Looking:
		return b.Round != n.elect.round // in the same round it is only about to decide
	case Leading:
		return false
	}
	return true
}

// tryDecide ends the election when its outcome is clear: somebody leads already with a
// quorum, or a quorum votes for one candidate and nothing better is to be expected.
func (n *Node) tryDecide() {
	if n.role != Looking {
		return
	}
	if i := n.settledLeader(); i >= 0 {
		n.elect.round = n.elect.ballots[i].Round
		n.becomeFollower(n.set.Members[i].ID, "joined a leader")
		return
	}
	if n.observer() || n.elect.vote.Leader == 0 || !n.candidateHeard() {
		n.elect.finalizeAt = 0
		return
	}
	support, missing := n.support()
	switch {
	case support < n.quorum:
		n.elect.finalizeAt = 0
	case missing == 0 || n.elect.finalizeAt != 0 && n.now >= n.elect.finalizeAt:
		n.decide()
	case n.elect.finalizeAt == 0:
		n.elect.finalizeAt = n.now + uint64(n.cfg.FinalizeTicks)
	}
}

func (n *Node) decide() {
	if n.elect.vote.Leader == n.cfg.ID {
		n.becomeLeader("elected")
		return
	}
	n.becomeFollower(n.elect.vote.Leader, "elected another")
}

// settledLeader returns who says that it leads while enough others say that they
// follow it, or -1. Without its own word the others may only not have noticed its death.
func (n *Node) settledLeader() int {
	for i := range n.set.Members {
		b := &n.elect.ballots[i]
		if i == n.me || !b.known || b.State != Leading || b.Vote.Leader != n.set.Members[i].ID ||
			n.set.Members[i].Observer {
			continue
		}
		followers := 0
		if !n.observer() {
			followers = 1
		}
		for j := range n.set.Members {
			o := &n.elect.ballots[j]
			if j != n.me && !n.set.Members[j].Observer && o.known && o.State != Looking &&
				o.Vote.Leader == b.Vote.Leader {
				followers++
			}
		}
		if followers >= n.quorum {
			return i
		}
	}
	return -1
}

// candidateHeard reports whether the candidate was heard in this round itself; one
// that is only known from others may be dead or out of reach.
func (n *Node) candidateHeard() bool {
	i := n.place(n.elect.vote.Leader)
	return i == n.me || n.elect.ballots[i].known && n.elect.ballots[i].Round == n.elect.round
}

// support counts the voters of this round that share the own vote, and those that can
// be reached but did not say so.
func (n *Node) support() (support, missing int) {
	for i, m := range n.set.Members {
		b := &n.elect.ballots[i]
		switch {
		case m.Observer:
		case i == n.me, b.known && b.Round == n.elect.round && b.Vote.Leader == n.elect.vote.Leader:
			support++
		case !n.elect.lost[i]:
			missing++
		}
	}
	return support, missing
}

// candidateLost restarts the election when its favourite went away.
func (n *Node) candidateLost(id NodeID) {
	if n.elect.vote.Leader == id {
		n.enterLooking("candidate lost")
		return
	}
	n.tryDecide()
}

func (n *Node) lookingTick() {
	n.stayAwayWhileDiskStalls()
	el := &n.elect
	if el.abstainUntil != 0 && n.now >= el.abstainUntil {
		el.abstainUntil = 0
		if own := n.ownVote(); own.better(el.vote) {
			n.adopt(own, el.vote)
		}
	}
	if el.vote.Leader != 0 && !n.candidateHeard() && n.now-el.votedAt > uint64(n.cfg.SyncTicks) {
		// Others still vote for it, because we do: two of us can keep a dead candidate
		// alive for ever by telling each other.
		el.lost[n.place(el.vote.Leader)] = true
		n.enterLooking("candidate never heard")
		return
	}
	if n.standsInVain() {
		el.abstainUntil = max(el.abstainUntil, n.now+uint64(n.cfg.SyncTicks))
		n.enterLooking("too few voters hear this candidate")
		return
	}
	if n.now >= el.resendAt {
		el.resendWait = min(2*el.resendWait, maxResend)
		n.sendBallots()
	}
	n.tryDecide()
}

// standsInVain reports whether this node has been a candidate for long without a quorum.
// Others may wait for it who could elect somebody else: a node between two halves hears the
// best candidate, and the other half never does.
func (n *Node) standsInVain() bool {
	el := &n.elect
	heard := false
	for i, m := range n.set.Members {
		heard = heard || i != n.me && !m.Observer && el.ballots[i].known && !el.lost[i]
	}
	if !heard || el.vote.Leader != n.cfg.ID {
		el.standing = 0
		return false
	}
	if el.standing++; el.standing <= 2*n.cfg.SyncTicks {
		return false
	}
	el.standing = 0
	return true
}
