// SPDX-License-Identifier: Apache-2.0

//go:build mutant

package commit

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/internal/mutant"
	"github.com/concordtx/concord/txn"
)

// checks are the properties that mutants of the machine break.
var checks = map[string]struct {
	id    string
	holds func(*lone) error
}{
	"X63": {"AUDIT", actsEnd},
	"X70": {"ONCE", claimsAreWaitedFor},
	"X71": {"ONCE", claimsEnd},
}

func TestMutants(t *testing.T) {
	for _, m := range mutant.Of("coordinator/commit") {
		t.Run(m.ID, func(t *testing.T) {
			check, ok := checks[m.ID]
			require.True(t, ok, "%s (%s) is not hunted", m.ID, m.Name)
			require.NoError(t, check.holds(newLone(t, "orders")), "without the mutant")
			var broken error
			began := time.Now()
			mutant.With(m.ID, func() { broken = check.holds(newLone(t, "orders")) })
			require.Error(t, broken, "MUTANT %s survived: %s", m.ID, m.What)
			t.Logf("MUTANT %s killed by %s: after %s: %v", m.ID, check.id, time.Since(began).Round(time.Millisecond),
				broken)
		})
	}
}

// claimsAreWaitedFor: of two clients that are about to run a transaction under a key, one hears that the other does.
func claimsAreWaitedFor(l *lone) error {
	levelled(l)
	one, two := l.claimant(), l.claimant()
	if l.claims("k", one, time.Minute) || !l.claims("k", two, time.Minute) {
		return errors.New("two clients run their transactions under one key at the same time")
	}
	if l.claims("k", one, 0) || l.claims("k", two, time.Minute) {
		return errors.New("a key that was given back is not free")
	}
	return nil
}

// claimsEnd: what a client has claimed that is not heard of any more is free soon after the end of its lease.
func claimsEnd(l *lone) error {
	levelled(l)
	dead, other := l.claimant(), l.claimant()
	l.claims("k", dead, time.Hour)
	for range 200 {
		l.step(LeasesHeard{Leases: []txn.Lease{other.Lease()}})
		l.tick(50 * time.Millisecond)
		if !l.claims("k", other, 0) {
			return nil
		}
	}
	return errors.New("twice as long as its lease a key is kept for a client that died")
}
