// SPDX-License-Identifier: Apache-2.0

// Package twopc holds the cores of presumed-abort two-phase commit: Initiator (who
// holds the sessions: the SDK), Coordinator (one transaction at the leader) and
// Participant (one branch at an agent that hosts it).
//
// A core is a value with Step(Event) []Effect. It has no clock, no goroutine and no
// I/O; a driver brings events in and carries effects out, in their order, and decides
// nothing. The three speak the words of package protocol, and the Initiator a few of its own:
// the file event.go says what may happen, effect.go what may be asked for.
//
// # What a core owes
//
//  1. Agreement: no two cores, and no core twice, act on different decisions.
//  2. Commit needs a Yes (or ReadOnly) of every branch; a Yes is said only after the
//     resource made the branch durable.
//  3. A decision is told to anybody only after its record was delivered by the log.
//  4. After a Yes nobody decides alone: without the decision a branch stays prepared.
//  5. Nothing found is not success: a branch counts as finished by what its resource
//     proved, and as lost or contradicted otherwise.
//
// # What a core is owed
//
// Effects may get lost with a crash, messages may be lost, repeated and reordered;
// Tick makes a core ask for what is still missing. The log delivers the first decision
// of a transaction to everybody and never another. Package internal/explore/twopcworld checks 1 to 5
// over every order of those, and that each planted mistake is found.
//
// # Who talks to whom
//
// Who drives a transaction collects the votes (Initiator): of its own sessions, and of agents, each of which
// has a Participant for its branch. The Coordinator hears of a transaction with the commit request, when
// all have voted, or when a scan of a database finds a prepared branch. It decides through the log alone;
// what nobody reports finished, its driver has finished through connections of its own or by an agent.
// Package internal/explore/twopcworld explores all three as they are shipped.
//
// # Presumed abort
//
// An initiator with a No branch ends all of them by itself and sends no message, unless it
// cannot: a branch may be prepared behind a connection that broke. Then it tells the coordinator, and
// keeps trying. A coordinator that is asked about a transaction it never heard of has an abort record
// delivered first, and answers then: the late commit request finds that record.
//
// An initiator with one branch commits it in one phase and asks nobody, unless the decision
// is to be recorded. So that record alone does not say that nothing was committed.
//
// The protocol is that of Mohan, Lindsay and Obermarck, "Transaction Management in the
// R* Distributed Database Management System" (1986), with votes carried in the one commit
// request and with the coordinator's log replicated.
package twopc
