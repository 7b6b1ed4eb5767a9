// SPDX-License-Identifier: Apache-2.0

package commit

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/txn"
)

func TestALeaderThatWasStoppedDoesNotTakeThatForTheSilenceOfItsClients(t *testing.T) {
	l := newLone(t)
	l.machine.Rules.Lease = 6 * time.Second
	l.restart()
	levelled(l)
	for n := range txn.Lease(2) {
		require.Equal(t, n+1, l.ask(func(request uint64) replica.Event { return LeaseAsked{Request: request} }).Lease)
	}
	for range 5 { // as many pauses as one likes, and clocks that are set
		l.tick(50 * time.Millisecond)
		l.tick(time.Hour)
		l.tick(-2 * time.Hour)
		l.tick(900 * time.Millisecond)
	}
	require.Equal(t, []txn.Lease{1, 2}, l.table.Leases().Active)
	for range 200 {
		l.tick(50 * time.Millisecond)
		l.step(LeasesHeard{Leases: []txn.Lease{2}})
	}
	require.Equal(t, []txn.Lease{2}, l.table.Leases().Active)
}
