// SPDX-License-Identifier: Apache-2.0

// Package participant is the agent: a process that stands next to databases, holds branches of
// global transactions in them for others, and votes and finishes as the cluster decides. So
// transactions can be driven from any language.
//
// Core is the agent without clock, disk, network and databases, Journal what it remembers over
// restarts, Agent what carries one out with the other. Package statement executes what is sent,
// package service puts it on the network.
//
// # The life of a branch
//
// A branch is opened by its first request, works, votes, and is finished by the decision of its
// transaction. It has one session of its database. Before its vote the agent may roll it back by
// itself: when it heard nothing for too long, when it is shut down, when it is killed. After a Yes
// it is held, over any crash, until the decision comes: from a caller, or because the agent asked
// the cluster for it.
//
// # What a caller must send
//
//  1. A gid of class R (recorded), or 0 if the transaction has further branches elsewhere, minted
//     by whoever begins; the cluster's id; for each resource a branch number of its own, the same
//     everywhere. Class T is for three phases, see below; M is refused.
//  2. Journal and epoch of the agent, asked for (Describe) before the first request and kept for
//     the whole transaction. A refusal that says that the agent has started again, or is another
//     one, means: roll back everywhere and begin anew. The caller learns the new epoch by Describe.
//  3. Requests of a branch one after the other, numbered from 1 without a gap: Execute, Savepoint
//     and RollbackTo share the numbers. Whoever got no answer repeats the very same request under
//     the same number, within the silence of the branch.
//  4. Prepare with number and digest of the last answer it got, for every branch, at most once the
//     requests are answered. A branch without a request needs none: it does not exist.
//  5. decide_by_ms: how long it collects votes from now on, 10 s at most. Once that is over the
//     agent may make the cluster abort what has no decision.
//  6. The commit record with the branches that voted yes, word for word as Prepare answered; those
//     that voted read-only are left out, and need no Finish.
//  7. Finish to every branch that voted yes or was opened, with the decision as the log delivered
//     it, and the branch as the record has it; again until it is answered. Then it tells the
//     cluster what was found. A branch that voted No needs no Finish, and may get one.
//
// The cluster notes in which life of which journal an agent has voted in three phases, and counts no vote
// of an earlier life or of another journal under that name: its promises may be forgotten there.
//
// # What a caller may rely on
//
//  1. Each piece of work is done at most once, whatever is repeated, lost or late, and its answer
//     stays the same. An answer with an error is an answer: it counts, and is in the digest.
//  2. Yes is for exactly the work that the digest stands for, durably prepared in the database, and
//     with its entry forced to the journal. It is said again, word for word, in every later life.
//  3. No leaves nothing prepared. If the database cannot be reached to be sure of it, the agent
//     goes on until it is, and rolls back what is prepared late. With torn, part of the branch may
//     be committed: its own SQL did that.
//  4. An agent that lost a session, by a crash or because the connection broke, never says Yes for
//     its branch.
//  5. Finish answers only what the database proved: done, already-done, contradicted, lost. Lost and
//     contradicted are in the journal, with the work, before they are said, and stay there. No
//     answer means: ask again.
//  6. Nothing that comes late opens or prepares anything: an earlier epoch is refused, and what has
//     ended is remembered for 10 minutes, by which no request can be on its way any more.
//  7. A prepared branch that the agent knows nothing of, since it may be an application's own, is
//     never ended but by a decision that the cluster has made. Asking for it makes one only when
//     the transaction is older than the cluster lets any become (max_age). So nothing stays
//     prepared for ever; whoever wants it sooner lists (ListBranches with fresh) and decides.
//  8. Every refusal is one of: invalid (never repeat it), failed_precondition (it does not fit the
//     state: the text says what to do), not_found, resource_exhausted and unavailable (nothing was
//     done, try again), deadline_exceeded (it goes on: repeat it).
//
// # Three phases
//
// In a transaction of class T the caller opens branches and works as above, and then asks the cluster to
// commit, naming agents, epochs, and for each branch number and digest of the last answer; it does
// not call Prepare. The cluster asks for the vote of all branches here together. The members, that
// is the agents and the cluster, decide as package protocol/threepc says, and talk to each other by
// Deliver. A caller who has heard the decision may call Finish, to know when the branch has ended;
// before the commit request Finish with abort rolls the branches here back. What was answered,
// promised, accepted and decided is in the journal before it is said. An agent without an entry
// knows nothing of a transaction, and does not take part in its elections.
//
// # Statements and values
//
// A statement is one statement of its database, with $1 (PostgreSQL) or ? (MySQL, MariaDB) for each
// argument; for an embedded store it is a command (statement.Pebble). What would end or change the
// transaction is refused before it is sent, as far as its words tell; what they do not tell the
// vote finds out. After any error but such a refusal a branch takes only RollbackTo an older
// savepoint, Prepare, which says No, and Finish. Results are bounded: at most 10,000 rows and 1 MiB.
// Integers, decimals, bytes, times, booleans, texts, JSON and null are typed both ways; what else a
// database has comes as the text that the database prints.
//
// # The journal
//
// For each transaction it has an entry with a kind and a version. Of two phases: the branches that
// voted Yes, their decision once heard, and their work; a branch that ended well is taken off. The
// order is: the database prepares, the entry is forced, Yes is said; the decision is written without a
// force while the database is told. Of three phases: the members, what was promised and accepted, and the branches;
// it is kept until the branches have ended, the cluster knows the decision, and 10 minutes more.
// The database prepares beside the journal. All entries that are due share one force. Before evidence is
// forgotten in a database the journal is forced: what was found by it is not asked for again.
package participant
