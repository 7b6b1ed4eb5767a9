// SPDX-License-Identifier: Apache-2.0

// Package adapters is the contract between concord and the databases that it makes
// commit together: small interfaces, in two halves, the rules that every implementation owes, and
// the little code that all of them share. The suite in adaptertest checks the rules on real servers.
//
// # Two halves
//
// PREPARE TRANSACTION and XA PREPARE must run on the session that did the work, so
// whoever holds the session prepares: normally the application. That is the session
// half, Session. The recovery half, Resource, is held by coordinator nodes: it
// finishes branches whose session is gone, lists what is prepared, and checks that a
// database is fit to take part. One type per database implements both (Adapter); who needs
// less asks for less: Opener to begin branches, Finisher to end them, Lister, Keeper, Checker,
// Validator. Database is what all of them say of themselves, and Global is the transaction that
// opens branches.
//
// # What an adapter may offer besides
//
// Not every database has all of it, so it is asked for at run time; where it is missing, what it
// is for does not happen. An adapter asserts what it offers, so that a method with another name
// does not compile.
//
// A Resource may be Batching (thousands of branches that dead clients left are ended in seconds), Marked (an old copy
// of the database is noticed), a WaitLister (deadlocks that
// go through several databases are found), an Inspector (operators see what the database knows of a
// branch), Logging (what its driver has to say goes to the log of the client) and Hosted (an agent holds its
// branches). A Session may be Waiting (its transaction takes
// part in the search for deadlocks), Failing (errors name the branch that they came from), Reading
// (branches that only read cost no prepare), Counted (its prepared branch names its siblings, so
// that an operator can tell whether all are there), Levelled (its evidence has a newer form),
// Undecided (somebody else may end its branch) and Claiming (an agent votes for it).
//
// A database can be the last resource of a transaction, which decides by its own commit, if its Resource is a Settler
// and its Session is Last; a Session that is Tagged can be prepared beside it.
//
// # Rules
//
//  1. VoteYes is said only when the branch is durably prepared and will be listed by
//     Recover. A failed transaction votes No, whatever the server's answer looks like.
//  2. "Not found" is never success. Finishing a branch answers Done (this call did
//     it), AlreadyDone (evidence proves it), Contradicted (evidence proves the other
//     outcome) or Lost (it is not there and nothing proves anything). Everything else
//     is an error, which means "try again": the branch may still be there.
//  3. Commit and Rollback are idempotent and may be called by several nodes at once.
//  4. Recover lists every prepared branch of ours (of any cluster) and nothing else.
//     What does not parse as txn.XID is foreign: never touched, never echoed into SQL.
//  5. A session that prepared a branch finishes it as long as it lives. Somebody else
//     fences first: ends that session, sees that it is gone, and only then finishes.
//  6. A branch that wrote is never taken for one that did not.
//  7. What a branch record says of evidence and holder comes from anybody. Only what the
//     adapter itself could have written is valid, and even that is not believed: nobody is
//     ended, and nothing concluded, by a record alone.
//  8. Every call ends soon after its context ends, and leaves no statement running
//     with locks held and no poisoned session in a pool.
//  9. A branch knows its own transaction. Whatever the application's SQL did to it, a vote of
//     yes is for all of the work; where part of it may be committed the error wraps
//     ErrTorn, and where nothing can be it does not.
//  10. Nothing of an aborted branch is seen outside, and nothing of any branch is left in a
//     session that somebody else gets.
//  11. A statement that failed, or was never sent, is missed at the vote even if the application
//     ignored its error, unless a savepoint that is older was rolled back to.
package adapters
