// SPDX-License-Identifier: Apache-2.0

package txn

import "fmt"

// Vote is the answer of a branch to Prepare.
type Vote uint8

// VoteNo: the branch is rolled back. VoteYes: the branch is prepared, survives any
// crash and will be listed by Recover. VoteReadOnly: the branch wrote nothing and
// has ended.
const (
	VoteNo Vote = iota
	VoteYes
	VoteReadOnly
)

// Decision is what a global transaction was decided to become. The first decision
// for a gid wins, for ever.
type Decision uint8

// Undecided means that the log holds no decision (yet).
const (
	Undecided Decision = iota
	Commit
	Abort
)

// Outcome is what became of a branch or of a whole transaction.
type Outcome uint8

// Unknown: it could not be learned. Committed, Aborted: it is so everywhere.
// HeuristicCommit, HeuristicRollback: the resource ended the branch against the
// decision. HeuristicMixed: some branches did. HeuristicHazard: nobody can tell.
// Unrecorded: the cluster was asked before it was told anything; two or more databases will
// never commit it, but one alone may have, since that one did not have to tell. Pending: no
// decision so far.
const (
	Unknown Outcome = iota
	Committed
	Aborted
	HeuristicCommit
	HeuristicRollback
	HeuristicMixed
	HeuristicHazard
	Unrecorded
	Pending
)

// Heuristic reports whether the outcome contradicts, or may contradict, a decision.
func (o Outcome) Heuristic() bool { return o >= HeuristicCommit && o <= HeuristicHazard }

// Protocol is the commit protocol of a transaction.
type Protocol uint8

// TwoPhase is presumed-abort two-phase commit, the default. ThreePhaseCommit is that of
// transactions of class ThreePhase.
const (
	TwoPhase Protocol = iota
	ThreePhaseCommit
)

// Source is who brought a fact into the log. What follows from a fact depends on it; the
// names and reasons beside it are for people alone.
type Source uint8

// FromClient: the client whose transaction it is, or who asked about it. FromCluster: the
// cluster by itself, that is its scans and its workers. FromOperator: a person.
const (
	FromClient Source = iota
	FromCluster
	FromOperator
)

// Branch is the part of a global transaction at one resource, as the decision
// record keeps it: all that somebody else needs to finish it.
type Branch struct {
	No       BranchNo
	Resource string
	// Evidence is what the resource can be asked for later to tell whether the branch
	// committed, in words of its adapter; empty if there is none.
	Evidence string
	// Holder names the session that prepared the branch, in words of its adapter;
	// empty if it does not matter.
	Holder string
}

// Finish is what an attempt to finish a prepared branch found.
type Finish uint8

// Done: this call did it. AlreadyDone: it was done before, and there is evidence.
// Contradicted: there is evidence that the resource ended the branch the other way.
// Lost: the branch is not there and nothing proves what became of it.
const (
	Done Finish = iota + 1
	AlreadyDone
	Contradicted
	Lost
)

func name(names []string, v uint8) string {
	if int(v) < len(names) && names[v] != "" {
		return names[v]
	}
	return fmt.Sprintf("invalid(%d)", v)
}

// String returns no, yes or read-only.
func (v Vote) String() string { return name([]string{"no", "yes", "read-only"}, uint8(v)) }

// String returns undecided, commit or abort.
func (d Decision) String() string { return name([]string{"undecided", "commit", "abort"}, uint8(d)) }

// String returns the outcome in lower case with hyphens.
func (o Outcome) String() string {
	return name([]string{"unknown", "committed", "aborted", "heuristic-commit", "heuristic-rollback", "heuristic-mixed",
		"heuristic-hazard",
		"unrecorded", "pending"}, uint8(o))
}

// String returns client, cluster or operator.
func (s Source) String() string { return name([]string{"client", "cluster", "operator"}, uint8(s)) }

// String returns two_phase or three_phase.
func (p Protocol) String() string { return name([]string{"two_phase", "three_phase"}, uint8(p)) }

// String returns done, already-done, contradicted or lost.
func (f Finish) String() string {
	return name([]string{"", "done", "already-done", "contradicted", "lost"}, uint8(f))
}
