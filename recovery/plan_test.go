// SPDX-License-Identifier: Apache-2.0

package recovery

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/txn"
)

type log struct {
	txns map[txn.ID]txn.Txn
	old  time.Time

	leases    txn.Leases
	witnesses map[txn.ID]txn.Witness
}

func (l log) Get(id txn.ID) (txn.Txn, bool) { t, ok := l.txns[id]; return t, ok }
func (l log) Witness(id txn.ID) (txn.Witness, bool) {
	w, open := l.witnesses[id]
	return w, open
}

func (l log) TooOld(id txn.ID) bool       { return id.Time().Before(l.old) }
func (l log) LeaseEnded(n txn.Lease) bool { return l.leases.Ended(n) }

var (
	rules = Rules{Cluster: 7, MaxAge: time.Minute}
	now   = time.UnixMilli(1_700_000_000_000)
)

func prepared(born time.Time) adapters.Prepared {
	return adapters.Prepared{XID: txn.XID{Cluster: 7, ID: txn.NewID(born), Branch: 1}}
}

// after plans twice, with the second listing made a while after the first.
func after(wait time.Duration, p adapters.Prepared, l log) Action {
	var s Sightings
	s.Plan("orders", []adapters.Prepared{p}, l, rules, now)
	s.Date(now)
	return s.Plan("orders", []adapters.Prepared{p}, l, rules, now.Add(wait))[0]
}

func TestBranchOfAnotherClusterIsNotPlanned(t *testing.T) {
	var s Sightings
	p := prepared(now.Add(-time.Hour))
	p.XID.Cluster = 8
	require.Empty(t, s.Plan("orders", []adapters.Prepared{p}, log{}, rules, now))
}

func TestWhatAnotherProtocolDecidesIsReportedAndNotPresumed(t *testing.T) {
	for _, class := range []txn.Class{txn.ThreePhase, txn.LastResource} {
		p := prepared(now.Add(-time.Hour))
		p.XID.ID = p.XID.ID.WithClass(class)
		a := after(time.Hour, p, log{})
		require.Equal(t, Report, a.Kind, "%v", a)
		require.Contains(t, a.Why, class.String())
	}
}

// Whose lease has ended is gone, however young its branch is; whose lease is unknown may live.
func TestABranchWhoseLeaseHasEndedIsAnOrphanAtOnce(t *testing.T) {
	l := log{leases: txn.Leases{Last: 3, Active: []txn.Lease{2}}}
	for lease, want := range map[txn.Lease]Kind{0: Leave, 1: Abort, 2: Leave, 3: Abort, 4: Leave} {
		p := prepared(now)
		p.XID.ID = p.XID.ID.WithLease(lease)
		var s Sightings
		require.Equal(t, want, s.Plan("orders", []adapters.Prepared{p}, l, rules, now)[0].Kind, "lease %d", lease)
		l := l
		l.txns = map[txn.ID]txn.Txn{p.XID.ID: {ID: p.XID.ID, Decision: txn.Commit,
			Branches: []txn.Branch{{No: 1, Resource: "orders"}}}}
		require.Equal(t, Commit, s.Plan("orders", []adapters.Prepared{p}, l, rules, now)[0].Kind,
			"what is decided stays so")
	}
}

func TestOrphanIsAbortedOnlyAtTheSecondSight(t *testing.T) {
	var s Sightings
	listing := []adapters.Prepared{prepared(now.Add(-2 * time.Minute))}
	require.Equal(t, Leave, s.Plan("orders", listing, log{}, rules, now)[0].Kind)
	require.Equal(t, Abort, s.Plan("orders", listing, log{}, rules, now.Add(time.Second))[0].Kind)
}

func TestSightingsOfABranchThatWentAwayStartAnew(t *testing.T) {
	var s Sightings
	listing := []adapters.Prepared{prepared(now.Add(-2 * time.Minute))}
	s.Plan("orders", listing, log{}, rules, now)
	s.Plan("orders", nil, log{}, rules, now)
	require.Equal(t, Leave, s.Plan("orders", listing, log{}, rules, now)[0].Kind)
}

func TestYoungBranchIsLeftAlone(t *testing.T) {
	require.Equal(t, Leave, after(time.Second, prepared(now), log{}).Kind)
}

func TestBranchFromAClockInTheFutureIsAnOrphanAfterBeingSeenForLong(t *testing.T) {
	p := prepared(now.AddDate(1, 0, 0))
	require.Equal(t, Leave, after(time.Second, p, log{}).Kind)
	require.Equal(t, Abort, after(time.Minute, p, log{}).Kind)
}

// What is dated further ahead than anything that is decided gets no record, and so is not ended.
func TestBranchFromBeyondTheHorizonIsReported(t *testing.T) {
	limited := rules
	limited.Horizon = now.Add(24 * time.Hour)
	for born, want := range map[time.Time]Kind{now.Add(23 * time.Hour): Abort, now.AddDate(1, 0, 0): Report,
		now.AddDate(8000, 0, 0): Report} {
		var s Sightings
		listing := []adapters.Prepared{prepared(born)}
		s.Plan("orders", listing, log{}, limited, now)
		s.Date(now)
		a := s.Plan("orders", listing, log{}, limited, now.Add(time.Minute))[0]
		require.Equal(t, want, a.Kind, "%v", born)
	}
}

// The time of a plan is that of the last tick, so a new sighting may be younger than it says.
func TestNewSightingIsDatedByTheNextTick(t *testing.T) {
	var s Sightings
	listing := []adapters.Prepared{prepared(now.AddDate(1, 0, 0))}
	plan := func(at time.Time) Kind { return s.Plan("orders", listing, log{}, rules, at)[0].Kind }
	require.Equal(t, Leave, plan(now))
	require.Equal(t, Leave, plan(now.Add(time.Hour)), "there was no tick yet")
	s.Date(now.Add(50 * time.Millisecond))
	require.Equal(t, Leave, plan(now.Add(time.Minute)))
	require.Equal(t, Abort, plan(now.Add(time.Minute+50*time.Millisecond)))
}

func TestKnownDecisionIsAppliedAtFirstSight(t *testing.T) {
	p := prepared(now)
	id := p.XID.ID
	branch := txn.Branch{No: 1, Resource: "orders", Evidence: "xid8=9"}
	committed := txn.Txn{ID: id, Decision: txn.Commit, Branches: []txn.Branch{branch}}
	var s Sightings
	a := s.Plan("orders", []adapters.Prepared{p}, log{txns: map[txn.ID]txn.Txn{id: committed}}, rules, now)[0]
	require.Equal(t, Commit, a.Kind)
	require.Equal(t, branch, a.Branch)

	aborted := txn.Txn{ID: id, Decision: txn.Abort, Reason: "asked for"}
	a = s.Plan("orders", []adapters.Prepared{p}, log{txns: map[txn.ID]txn.Txn{id: aborted}}, rules, now)[0]
	require.Equal(t, Rollback, a.Kind)
	require.Contains(t, a.Why, "asked for")
}

func TestBranchThatCameBackAfterTheEndIsCommittedAgain(t *testing.T) {
	p := prepared(now.Add(-time.Hour))
	ended := txn.Txn{ID: p.XID.ID, Decision: txn.Commit, Ended: true,
		Branches: []txn.Branch{{No: 1, Resource: "orders"}}}
	a := after(time.Second, p, log{txns: map[txn.ID]txn.Txn{p.XID.ID: ended}})
	require.Equal(t, Commit, a.Kind)
	require.Contains(t, a.Why, "back")
}

func TestBranchThatTheCommitDoesNotNameIsReported(t *testing.T) {
	p := prepared(now)
	for _, branch := range []txn.Branch{{No: 2, Resource: "orders"}, {No: 1, Resource: "billing"}} {
		l := log{txns: map[txn.ID]txn.Txn{p.XID.ID: {ID: p.XID.ID, Decision: txn.Commit,
			Branches: []txn.Branch{branch}}}}
		require.Equal(t, Report, after(time.Hour, p, l).Kind)
	}
}

func TestBranchOlderThanTheLogIsReported(t *testing.T) {
	p := prepared(now.Add(-time.Hour))
	require.Equal(t, Report, after(time.Minute, p, log{old: now}).Kind)
}
