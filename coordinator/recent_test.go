// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/txn"
)

func TestRecentIDsNeverCallAFinishedTransactionAbsent(t *testing.T) {
	var r recentIDs
	var finished []txn.ID
	base := time.UnixMilli(1_700_000_000_000)
	for i := range 3 * recentMax / 2 {
		id := txn.NewID(base.Add(time.Duration(i%1000) * time.Millisecond)) // not in order
		r.add(id)
		finished = append(finished, id)
	}
	for _, id := range finished {
		require.False(t, r.absent(id))
	}
	require.Less(t, len(r.ids), recentMax)
	require.True(t, r.absent(txn.NewID(base.Add(time.Hour))))
	require.False(t, r.absent(txn.NewID(base.Add(-time.Hour))), "below the floor nothing is known")
}
