// SPDX-License-Identifier: Apache-2.0

// Package threepc holds the cores of three-phase commit that neither blocks nor splits:
// Coordinator (one transaction at the leader, who speaks for the cluster) and Participant (one
// transaction at an agent that holds branches of it). Each of them may become a candidate, who
// tries to end what nobody else ends.
//
// A core is a value with Step(Event) []Effect. It has no clock, no goroutine and no I/O; a driver
// brings events in and carries effects out, in their order, and decides nothing. They speak the
// words of package protocol, and a few more of their own in event.go and effect.go. What
// members say to each other is in message.go.
//
// # In one sentence
//
// The members, that is the agents that voted Yes and the cluster as the witness, run single-decree
// Paxos on {Commit, Abort}: an election is a ballot, a candidate a proposer, a member an acceptor;
// LastElected is its promise, LastAttempt and the state its accepted value. Only the first
// election may bring in Commit, and only with all votes; where nothing was accepted a candidate
// takes Abort.
//
// The protocol is quorum-based three-phase commit (Skeen 1981 and 1982) as Keidar and Dolev made it
// resilient over several attempts ("Increasing the Resilience of Atomic Commit, at No Additional
// Cost", 1998). Textbook rules are not used: a time-out that commits in pre-committed, one that
// aborts while waiting, and "somebody is pre-committed, so pre-commit" all split.
//
// # Why votes are not sent straight to acceptors
//
// Paxos Commit (Gray and Lamport 2006) runs one instance for each branch and has agents send their
// votes to all acceptors. With n agents and n+1 acceptors that is about n(n+1) messages for the
// votes alone, and every acceptor forces n of them. Here the leader collects votes and proposes
// once: 6n messages (CanCommit, Vote, PreCommit, Ack, Decided, Finished), of which two
// rounds come before the reply, three records in the log and three forced writes at each
// agent, against 4n messages and two records in two-phase commit. What is paid is one more
// delay: votes, and then the attempt.
//
// # What a core owes
//
//  1. No two members decide differently, whatever crashes, is lost or comes late.
//  2. Commit needs a Yes or ReadOnly of every agent that was asked; a Yes is said when the
//     databases have prepared and the journal has Wait.
//  3. Whatever a member says was durable before: a promise, an answer, a vote, an
//     acknowledgement, and a candidate's own number and choice.
//  4. Members that are connected finish, if those of them that have an entry are a quorum of the
//     list that they know, or one has decided, has not voted, or is the witness without
//     a record. Others wait, and are shown with the members that are missing.
//  5. An agent without an entry knows nothing: it counts for nothing, so what is forgotten or
//     lost costs progress and never agreement.
//
// # What a core is owed
//
// Messages may be lost, repeated and reordered, if they reach only whom they are for: the cluster,
// the gid and the journal of the addressee are checked before. The journal writes entries in the
// order of Force and Write, and Forced says so once for each Force. The log delivers what the leader proposes in
// order or, when its leadership ends, not at all, and nothing of an old leader after a new one is
// established. Then:
//
//   - After every record of the gid, whoever proposed it, the leader steps Folded with what the table
//     has if the gid is open, protocol.Delivered if it is decided, Forgotten if it is unknown and
//     too old.
//   - A new leader makes a Coordinator with Resume of every open gid.
//   - Tick asks again, every second or two; ElectionDue comes after more silence than a change of
//     leader takes, then rarer and at random; TimeUp comes a second after a candidate began.
//     Nothing that is safe depends on them.
//   - A restarted agent makes its Participants with Recover, in a new epoch, and says Listed for what
//     its databases hold prepared. An entry is kept while Kept says so.
//
// Package internal/explore/threepcworld checks 1 to 4 over every order of those, on these cores and on the fold
// of txn.Table, and that each planted mistake is found.
package threepc
