// SPDX-License-Identifier: Apache-2.0

package threepc

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/txn"
)

func TestPausesGrowAndDifferBetweenMembers(t *testing.T) {
	first, most := 5*time.Second, 30*time.Second
	id, a, b := txn.ID{1}, txn.PartyID{Agent: "a", Journal: txn.JournalID{1}}, txn.PartyID{Agent: "b"}
	differ := false
	for n := range 300 {
		least := min(first<<min(n, 8), most)
		p := Pause(first, most, n, id, a)
		require.GreaterOrEqual(t, p, least)
		require.Less(t, p, least+least/2)
		differ = differ || p != Pause(first, most, n, id, b)
	}
	require.True(t, differ)
}
