// SPDX-License-Identifier: Apache-2.0

package recovery

import (
	"fmt"
	"slices"
	"time"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/internal/mutant"
	"github.com/concordtx/concord/txn"
)

// Kind says what is to be done about a listed branch.
type Kind uint8

// Leave: nothing, its transaction may be alive. Commit, Rollback: apply the decision.
// Abort: let the log decide to abort first. Report: nothing may be done, somebody has
// to look at it. Settle: let its last resource decide first.
const (
	Leave Kind = iota + 1
	Commit
	Rollback
	Abort
	Report
	Settle
)

// String returns the word that the CLI shows.
func (k Kind) String() string {
	if int(k) >= len(kinds) {
		return fmt.Sprintf("invalid(%d)", k)
	}
	return kinds[k]
}

var kinds = [...]string{"", "leave", "commit", "rollback", "abort", "report", "settle"}

// Action is what is to be done about one listed branch, and why.
type Action struct {
	Kind   Kind
	XID    txn.XID
	Branch txn.Branch // as the decision record keeps it; number and resource only, if there is none
	Since  time.Time  // when it was prepared, if the resource says so
	Why    string
}

// Decision is how the branch is to end; Undecided: it is left alone.
func (a Action) Decision() txn.Decision {
	switch a.Kind {
	case Commit:
		return txn.Commit
	case Rollback, Abort:
		return txn.Abort
	}
	return txn.Undecided
}

// Decisions is what the log knows: txn.Table is one.
type Decisions interface {
	Get(id txn.ID) (txn.Txn, bool)
	TooOld(id txn.ID) bool
	// Witness returns what the log has of a transaction that its members decide, and have not.
	Witness(id txn.ID) (txn.Witness, bool)
	// LeaseEnded reports whether the lease was granted and has ended; of 0 it is false.
	LeaseEnded(n txn.Lease) bool
}

// Rules are the numbers of the cluster.
type Rules struct {
	Cluster txn.ClusterID
	// MaxAge is how long a transaction may take from its birth to its decision.
	MaxAge time.Duration
	// ThreePhase says that the cluster decides three-phase transactions, LastResource that it settles those of a last
	// resource.
	ThreePhase, LastResource bool
	// Horizon is the latest birth of a transaction that the log decides. Zero: any.
	Horizon time.Time
}

// Sightings remembers which branches a resource has listed, and since when: one value
// per resource, owned by whoever plans. The zero value is ready to use.
//
// A listing may be planned a piece at a time: Begin, Judge for each of its branches, End.
type Sightings struct {
	first   map[txn.XID]*sighting
	next    map[txn.XID]*sighting // of the listing that is being planned
	fresh   *sighting             // of what it shows for the first time
	undated []*sighting
}

// sighting is when a listing showed something for the first time. Zero until Date.
type sighting struct{ at time.Time }

// Date gives the sightings that are new since the last call a time. Judge itself does not: its now
// may be that of an earlier tick, and a branch would be taken for older than it is.
func (s *Sightings) Date(now time.Time) {
	for _, x := range s.undated {
		x.at = now
	}
	s.undated = nil
}

// Begin begins a new listing. What an unfinished one has shown is forgotten.
func (s *Sightings) Begin() {
	s.next, s.fresh = map[txn.XID]*sighting{}, &sighting{}
	s.undated = append(s.undated, s.fresh)
}

// Judge says what is to be done about a branch of the listing that was begun, and remembers that it
// was seen. It returns false if the branch is none of ours.
func (s *Sightings) Judge(resource string, p adapters.Prepared, d Decisions, r Rules, now time.Time) (Action, bool) {
	first, again := s.first[p.XID]
	if !again {
		first = s.fresh
	}
	if ours(p, r) {
		s.next[p.XID] = first
	}
	return plan(resource, p, d, r, now, first.at, again)
}

// End ends the listing: what it did not show was not seen.
func (s *Sightings) End() { s.first, s.next = s.next, nil }

// Preview is Judge without remembering, of a listing that is not this value's.
func (s *Sightings) Preview(resource string, p adapters.Prepared, d Decisions, r Rules, now time.Time) (Action, bool) {
	var at time.Time
	first, again := s.first[p.XID]
	if again {
		at = first.at
	}
	return plan(resource, p, d, r, now, at, again)
}

// Plan plans for one listing of one resource, made at now, and remembers it. Actions
// are in the order of the listing's xids.
func (s *Sightings) Plan(resource string, listing []adapters.Prepared, d Decisions, r Rules, now time.Time) []Action {
	actions := make([]Action, 0, len(listing))
	s.Begin()
	for _, p := range listing {
		if a, ours := s.Judge(resource, p, d, r, now); ours {
			actions = append(actions, a)
		}
	}
	s.End()
	slices.SortFunc(actions, func(a, b Action) int { return a.XID.Compare(b.XID) })
	return actions
}

func ours(p adapters.Prepared, r Rules) bool {
	return p.XID.Cluster == r.Cluster || mutant.TouchForeign
}

func plan(resource string, p adapters.Prepared, d Decisions, r Rules, now, first time.Time, again bool) (Action, bool) {
	if !ours(p, r) {
		return Action{}, false
	}
	a := judge(p.XID, resource, d, r, now, first, again)
	a.Since = p.Since
	return a, true
}

func judge(x txn.XID, resource string, d Decisions, r Rules, now, first time.Time, again bool) Action {
	a := Action{XID: x, Branch: txn.Branch{No: x.Branch, Resource: resource}}
	t, decided := d.Get(x.ID)
	switch up := givenUp(t, x.Branch); {
	case decided && up != nil:
		a.Kind, a.Why = Report, fmt.Sprintf("%s has given it up (%s): %s", up.Who, up.Why, endIt(x))
	case decided && t.Decision == txn.Abort:
		a.Kind, a.Why = Rollback, "the log says abort"
		if t.Reason != "" {
			a.Why += ": " + t.Reason
		}
	case decided:
		i := slices.IndexFunc(t.Branches, func(b txn.Branch) bool { return b.No == x.Branch && b.Resource == resource })
		if i < 0 {
			a.Kind, a.Why = Report, "the log says commit, but for other branches than this one: look into the "+
				"databases, then "+endIt(x)
			break
		}
		a.Kind, a.Branch, a.Why = Commit, t.Branches[i], "the log says commit"
		if t.Ended {
			a.Why += ", and the branch is back after it was finished"
		}
	case mutant.PresumeCommit:
		a.Kind, a.Why = Commit, "no decision"
	case open(x.ID, d):
		a.Kind, a.Why = Leave, "its members decide it: the agents that hold its branches, and the cluster"
	case !r.decides(x.ID.Class()):
		a.Kind, a.Why = Report, fmt.Sprintf("of the class %v, which is not switched on in this cluster, so the "+
			"lack of a decision here says nothing: look into the databases, then %s", x.ID.Class(), endIt(x))
	case d.TooOld(x.ID):
		a.Kind, a.Why = Report, "older than what the log remembers, so its decision is unknown: look into the "+
			"databases, then "+endIt(x)
	case !r.Horizon.IsZero() && x.ID.Time().After(r.Horizon):
		a.Kind, a.Why = Report, fmt.Sprintf("dated %s, so far ahead that no client of this cluster can have begun "+
			"it: run \"concord tx resolve %v --abort\"", x.ID.Time().UTC().Format(time.RFC3339), x.ID)
	case d.LeaseEnded(x.ID.Lease()):
		a.Kind, a.Why = Abort, "no decision, and "+txn.LeaseEnded(x.ID.Lease())
	case !again && !mutant.NoGrace:
		a.Kind, a.Why = Leave, "no decision, seen for the first time"
	case now.Sub(x.ID.Time()) < r.MaxAge && (first.IsZero() || now.Sub(first) < r.MaxAge) && !mutant.NoGrace:
		a.Kind, a.Why = Leave, fmt.Sprintf("no decision, may be alive: younger than %v", r.MaxAge)
	default:
		a.Kind, a.Why = Abort, fmt.Sprintf("no decision, and older than %v: whoever began it is gone", r.MaxAge)
	}
	if a.Kind == Abort && x.ID.Class() == txn.LastResource {
		a.Kind = Settle
	}
	return a
}

// decides reports whether the cluster decides transactions of a class.
func (r Rules) decides(class txn.Class) bool {
	switch class {
	case txn.Plain, txn.Recorded:
		return true
	case txn.ThreePhase:
		return r.ThreePhase
	case txn.LastResource:
		return r.LastResource
	}
	return false
}

// endIt is the next step for a branch that nobody but a person can end.
func endIt(x txn.XID) string {
	return fmt.Sprintf("end it with \"concord tx settle %v/%d --commit\" or \"--abort\"", x.ID, x.Branch)
}

// open reports whether the members of a transaction decide it, and have not.
func open(id txn.ID, d Decisions) bool {
	_, open := d.Witness(id)
	return open
}

// givenUp returns the word of the operator who gave up a branch, or nil.
func givenUp(t txn.Txn, no txn.BranchNo) *txn.Heuristic {
	i := slices.IndexFunc(t.Heuristics, func(h txn.Heuristic) bool {
		return h.Branch == no &&
			h.By == txn.FromOperator
	})
	if i < 0 {
		return nil
	}
	return &t.Heuristics[i]
}
