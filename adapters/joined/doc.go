// SPDX-License-Identifier: Apache-2.0

// Package joined makes branches that another service has opened part of the transaction that this process
// began. It is what the SDK holds of a service that has joined: the service has the sessions, votes, and
// ends what it voted for, by its own SDK; this package asks it for its votes, all of them in one call, and tells it
// the decision.
//
// # What always holds
//
//  1. A service votes Yes only if what it has done in the transaction is what it was heard to have done: the calls that
//     it has answered, by their number and the exclusive or of their random names, and the branches that it
//     told of. So nothing commits of a call whose answer was lost.
//  2. It votes, and ends branches, only in the life in which it opened them: a process that has started again is
//     another instance.
//  3. It is asked by proofs that only who began the transaction can make (txn.Secret), and that a service which has
//     handed the transaction on passes on. What it is told is decided was decided by the cluster; who has no proof of
//     that shows the capability, and the service asks the cluster.
//  4. A branch here is never committed in one phase: its service may have to learn the decision from the
//     cluster, so there has to be one.
//  5. A service that joins may call others in the same transaction: to it they are what it is to who began it, so the
//     calls of one transaction are a tree. Whoever is called is asked by who has called it, and nobody else.
package joined
