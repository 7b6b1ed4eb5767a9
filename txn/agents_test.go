// SPDX-License-Identifier: Apache-2.0

package txn

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/protocol/zab"
)

func TestTheFirstJournalOfAnAgentCountsAndItsEpochsOnlyGrow(t *testing.T) {
	east, other := PartyID{Agent: "east", Journal: JournalID{1}}, PartyID{Agent: "east", Journal: JournalID{2}}
	west := PartyID{Agent: "west", Journal: JournalID{3}}
	table := NewTable(Meta{Cluster: 1, Level: Newest}, nil, &shelf{})
	at := zab.Zxid{Epoch: 1}
	apply := func(r AgentRecord, voted bool) {
		t.Helper()
		at.Counter++
		c, err := table.Apply(at, EncodeRecords(nil, r))
		require.NoError(t, err)
		require.Equal(t, voted, c.Voted)
	}
	apply(AgentRecord{west, 9}, true)
	apply(AgentRecord{east, 4}, true)
	apply(AgentRecord{east, 4}, false)
	apply(AgentRecord{east, 3}, false)
	apply(AgentRecord{other, 5}, false)
	apply(AgentRecord{east, 6}, true)
	want := Agents{{east, 6}, {west, 9}}
	require.Equal(t, want, table.Meta().Agents)
	b, err := want.AppendBinary(nil)
	require.NoError(t, err)
	var got Agents
	require.NoError(t, got.UnmarshalBinary(b))
	require.Equal(t, want, got)
	again := NewTable(table.Meta(), nil, &shelf{})
	last, known := again.Agents().Last("east")
	require.True(t, known)
	require.Equal(t, AgentRecord{east, 6}, last)
	for n := range b {
		if n > 0 && n != len(b)/2 { // half of it is one of the two
			require.ErrorIs(t, got.UnmarshalBinary(b[:n]), ErrBadTxn)
		}
	}
	twice, _ := Agents{{east, 6}, {east, 7}}.AppendBinary(nil)
	require.ErrorIs(t, got.UnmarshalBinary(twice), ErrBadTxn)
}

func TestNoMoreAgentsAreNotedThanMayBe(t *testing.T) {
	var a Agents
	for n := range MaxAgents {
		a = append(a, AgentRecord{PartyID: PartyID{Agent: string([]byte{byte(n >> 16), byte(n >> 8), byte(n)})}})
	}
	require.False(t, a.News(AgentRecord{PartyID: PartyID{Agent: "one more"}}))
	later := a[77]
	later.Epoch++
	require.True(t, a.News(later))
}
