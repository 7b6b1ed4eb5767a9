// SPDX-License-Identifier: Apache-2.0

package txn

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/protocol/zab"
)

var (
	agentA = PartyID{Agent: "a", Journal: JournalID{1}}
	agentB = PartyID{Agent: "b", Journal: JournalID{2}}
	short  = []Party{{PartyID: agentA}, {PartyID: agentB}, {}}
)

// situations are the columns of the fold: what is known of a gid before a record comes.
var situations = map[string]func(id ID) []Record{
	"unknown": func(ID) []Record { return nil },
	"too old": func(ID) []Record { return []Record{Watermark{Time: time.Now().Add(time.Hour)}} },
	"open":    func(id ID) []Record { return []Record{opening(id)} },
	"open, promised": func(id ID) []Record {
		return []Record{opening(id), PromiseRecord{ID: id, Election: Election{3, agentA}}}
	},
	"open, attempted": func(id ID) []Record {
		return []Record{opening(id), PreAbortRecord{ID: id, Election: Election{3, agentA}}}
	},
	"open, too old": func(id ID) []Record { return []Record{opening(id), Watermark{Time: time.Now().Add(time.Hour)}} },
	"committed":     func(id ID) []Record { return []Record{opening(id), ProvenRecord{ID: id, Decision: Commit}} },
	"aborted":       func(id ID) []Record { return []Record{AbortRecord{ID: id, Reason: "first"}} },
}

func opening(id ID) PreCommitRecord {
	return PreCommitRecord{ID: id, Election: FirstElection, Members: short, Branches: two, Label: "order"}
}

// What a record makes of each situation: every cell of the table that package threepc
// relies on.
func TestEveryCellOfTheWitnessFold(t *testing.T) {
	type after struct {
		decision Decision // Undecided if there is none
		open     bool
		accepted Decision
		attempt  Election
		elected  Election
		broken   bool
	}
	first := FirstElection
	nothing := after{}
	open := after{open: true, accepted: Commit, attempt: first, elected: first}
	promised := after{open: true, accepted: Commit, attempt: first, elected: Election{3, agentA}}
	attempted := after{open: true, accepted: Abort, attempt: Election{3, agentA}, elected: Election{3, agentA}}
	committed, aborted := after{decision: Commit}, after{decision: Abort}
	alarm := func(a after) after { a.broken = true; return a }

	promise := func(e Election) func(ID) Record {
		return func(id ID) Record { return PromiseRecord{ID: id, Election: e} }
	}
	preCommit := func(e Election) func(ID) Record {
		return func(id ID) Record { return PreCommitRecord{ID: id, Election: e} }
	}
	preAbort := func(e Election) func(ID) Record {
		return func(id ID) Record { return PreAbortRecord{ID: id, Election: e} }
	}

	// A situation that is not named is left as it was.
	unchanged := map[string]after{"unknown": nothing, "too old": nothing, "open": open, "open, promised": promised,
		"open, attempted": attempted, "open, too old": open, "committed": committed, "aborted": aborted}
	for name, row := range map[string]struct {
		record func(ID) Record
		cells  map[string]after
	}{
		"the first PreCommit": {func(id ID) Record { return opening(id) }, map[string]after{"unknown": open}},
		"Promise of a later election": {promise(Election{3, agentB}), map[string]after{
			"open":           {open: true, accepted: Commit, attempt: first, elected: Election{3, agentB}},
			"open, too old":  {open: true, accepted: Commit, attempt: first, elected: Election{3, agentB}},
			"open, promised": {open: true, accepted: Commit, attempt: first, elected: Election{3, agentB}},
			"open, attempted": {open: true, accepted: Abort, attempt: Election{3, agentA},
				elected: Election{3, agentB}},
		}},
		"Promise of an earlier election": {promise(Election{1, agentB}), map[string]after{
			"open":          {open: true, accepted: Commit, attempt: first, elected: Election{1, agentB}},
			"open, too old": {open: true, accepted: Commit, attempt: first, elected: Election{1, agentB}},
		}},
		"PreCommit of the election that was promised": {preCommit(Election{3, agentA}), map[string]after{
			"open": {open: true, accepted: Commit, attempt: Election{3, agentA},
				elected: Election{3, agentA}},
			"open, too old": {open: true, accepted: Commit, attempt: Election{3, agentA},
				elected: Election{3, agentA}},
			"open, promised": {open: true, accepted: Commit, attempt: Election{3, agentA},
				elected: Election{3, agentA}},
		}},
		"PreAbort of an election below the promise": {preAbort(Election{2, agentB}), map[string]after{
			"open":          {open: true, accepted: Abort, attempt: Election{2, agentB}, elected: Election{2, agentB}},
			"open, too old": {open: true, accepted: Abort, attempt: Election{2, agentB}, elected: Election{2, agentB}},
		}},
		"PreAbort of a later election": {preAbort(Election{4, PartyID{}}), map[string]after{
			"open":            {open: true, accepted: Abort, attempt: Election{N: 4}, elected: Election{N: 4}},
			"open, too old":   {open: true, accepted: Abort, attempt: Election{N: 4}, elected: Election{N: 4}},
			"open, promised":  {open: true, accepted: Abort, attempt: Election{N: 4}, elected: Election{N: 4}},
			"open, attempted": {open: true, accepted: Abort, attempt: Election{N: 4}, elected: Election{N: 4}},
		}},
		"Abort, not proven": {func(id ID) Record { return AbortRecord{ID: id, Reason: "asked for"} },
			map[string]after{"unknown": aborted}},
		"Commit, not proven": {func(id ID) Record { return CommitRecord{ID: id, Branches: two} },
			map[string]after{"unknown": committed}},
		"Abort, proven": {func(id ID) Record { return ProvenRecord{ID: id, Decision: Abort} }, map[string]after{
			"unknown": aborted, "open": aborted, "open, promised": aborted, "open, attempted": aborted,
			"open, too old": aborted,
			"committed":     alarm(committed),
		}},
		"Commit, proven": {func(id ID) Record { return ProvenRecord{ID: id, Decision: Commit} }, map[string]after{
			"unknown": alarm(nothing), "open": committed, "open, promised": committed, "open, attempted": committed,
			"open, too old": committed,
			"aborted":       alarm(aborted),
		}},
	} {
		for situation, records := range situations {
			t.Run(name+" where the gid is "+situation, func(t *testing.T) {
				id := NewID(time.Now()).WithClass(ThreePhase)
				r := newReplica()
				for _, before := range records(id) {
					r.fold(t, before)
				}
				want, named := row.cells[situation]
				if !named {
					want = unchanged[situation]
				}
				c := r.fold(t, row.record(id))
				require.Len(t, c.Verdicts, 1, "who proposed it hears of it")
				for _, r := range []*replica{r, r.restarted()} {
					got := after{broken: len(c.Broken) > 0}
					if x, decided := r.Get(id); decided {
						got.decision = x.Decision
					} else if x, held := r.Table.open[id]; held {
						got.decision = x.Decision
					}
					if w, open := r.Witness(id); open {
						got.open, got.accepted, got.attempt, got.elected = true, w.Accepted, w.LastAttempt,
							w.LastElected
						require.Equal(t, short, w.Members, "those of the first election, for ever")
						require.Equal(t, two, w.Branches)
					}
					if got.decision == Undecided && want.decision == Abort && r.TooOld(id) {
						// it was finished at once, and is as old as what is forgotten
						got.decision = c.Verdicts[0].Decision
					}
					require.Equal(t, want, got)
					require.Equal(t, got.open, c.Verdicts[0].Open)
				}
			})
		}
	}
}

// The branches of a commit are those of the record that opened the gid.
func TestAProvenCommitHasTheBranchesOfThePreCommit(t *testing.T) {
	r := newReplica()
	id := NewID(time.Now()).WithClass(ThreePhase)
	c := r.fold(t, opening(id))
	require.Equal(t, []Verdict{{ID: id, Open: true, First: true}}, c.Verdicts)
	require.Empty(t, c.Open)
	c = r.fold(t, ProvenRecord{ID: id, Decision: Commit, Reason: "a quorum"},
		ProvenRecord{ID: id, Decision: Commit}, End{IDs: []ID{id}})
	require.Equal(t, []ID{id}, c.Closed)
	require.Empty(t, c.Witnesses)
	require.Len(t, c.Finished, 1)
	x := c.Finished[0]
	require.Equal(t, two, x.Branches)
	require.Equal(t, "order", x.Label)
	require.Equal(t, ThreePhaseCommit, x.Protocol)
	require.Equal(t, Committed, x.Outcome())
}

// A PreCommit record is a request to commit: under a lease that has ended it comes too late.
func TestAnOpenGidOfAnEndedLeaseIsAborted(t *testing.T) {
	r := newReplica()
	r.fold(t, LeaseRecord{Count: 1})
	r.fold(t, LeaseEndRecord{Leases: []Lease{1}})
	id := NewID(time.Now()).WithLease(1).WithClass(ThreePhase)
	c := r.fold(t, opening(id))
	require.Equal(t, Abort, c.Verdicts[0].Decision)
	_, open := r.Witness(id)
	require.False(t, open)
	x, decided := r.Get(id)
	require.True(t, decided)
	require.Equal(t, Aborted, x.Outcome())
}

func TestElectionsAreOrderedByNumberThenMember(t *testing.T) {
	ordered := []Election{{}, FirstElection, {1, agentA}, {2, PartyID{}}, {2, agentA}, {2, agentB}, {3, PartyID{}}}
	for i, a := range ordered {
		for j, b := range ordered {
			require.Equal(t, i < j, a.Less(b), "%v %v", a, b)
		}
	}
}

func TestStoredOpenGidsRoundTrip(t *testing.T) {
	w := Witness{ID: NewID(time.Now()), Members: sampleParties, Branches: sampleBranches, Label: "order",
		Opened:   zab.Zxid{Epoch: 7, Counter: 9},
		Accepted: Abort, LastAttempt: Election{2, agentB}, LastElected: Election{3, agentA}}
	b, err := w.AppendBinary(nil)
	require.NoError(t, err)
	var got Witness
	require.NoError(t, got.UnmarshalBinary(b))
	require.Equal(t, w, got)
	for cut := range b {
		require.ErrorIs(t, new(Witness).UnmarshalBinary(b[:cut]), ErrBadTxn)
	}
	w.LastElected = FirstElection
	b, err = w.AppendBinary(nil)
	require.NoError(t, err)
	require.ErrorIs(t, got.UnmarshalBinary(b), ErrBadTxn, "a promise below what was accepted")
}
