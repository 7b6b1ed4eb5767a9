// SPDX-License-Identifier: Apache-2.0

package txn

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/protocol/zab"
)

func TestAMarkerIsReadAsItWasWritten(t *testing.T) {
	for _, m := range []LastMarker{
		{Decision: Abort},
		{Decision: Commit, Label: "order 4711 \x00 'quoted'", Branches: sampleBranches},
		{Decision: Commit, Branches: []Branch{}},
	} {
		got, err := ParseLastMarker(m.Text())
		require.NoError(t, err)
		require.Equal(t, m, got)
		require.Empty(t, strings.Trim(m.Text(), "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."))
	}
	whole := LastMarker{Decision: Commit, Branches: sampleBranches}.Text()
	for _, text := range []string{"", "commit", "commit.", "commit.2.AAA", "abort.1", "Abort", whole + "A",
		whole[:len(whole)-1], whole + "="} {
		_, err := ParseLastMarker(text)
		require.ErrorIs(t, err, ErrBadMarker, text)
	}
}

func TestATagIsThatOfAName(t *testing.T) {
	require.Equal(t, "0c95c7ec", TagOf("billing").String())
	got, ok := ParseLastTag(TagOf("billing").String())
	require.True(t, ok)
	require.Equal(t, TagOf("billing"), got)
	for _, text := range []string{"", "00000000", "0C95C7EC", "0c95c7e", "0c95c7ec0", "0c95c7eg"} {
		_, ok := ParseLastTag(text)
		require.False(t, ok, text)
	}
}

// What a last resource has committed is committed, whatever the cluster would have said if it had been asked.
func TestTheWordOfALastResourceIsTakenAsItIs(t *testing.T) {
	at := zab.Zxid{Epoch: 1, Counter: 1}
	next := func() zab.Zxid { at.Counter++; return at }
	shelf := newShelf()
	table := NewTable(Meta{}, nil, shelf)
	fold := func(records ...Record) {
		_, err := table.Apply(next(), EncodeRecords(nil, records...))
		require.NoError(t, err)
	}
	fold(LeaseRecord{Count: 1}, LeaseEndRecord{Leases: []Lease{1}},
		QuarantineRecord{Resource: "orders", Time: time.UnixMilli(1)})
	id := NewID(time.Now()).WithLease(1).WithClass(LastResource)
	fold(CommitRecord{ID: id, Branches: []Branch{{No: 1, Resource: "orders"}}, Last: "billing"})
	x, known := table.Get(id)
	require.True(t, known)
	require.Equal(t, Commit, x.Decision)
	require.Equal(t, "billing", x.Last)
	b, err := x.AppendBinary(nil)
	require.NoError(t, err)
	var stored Txn
	require.NoError(t, stored.UnmarshalBinary(b))
	require.Equal(t, x, stored)

	alone := id.WithLease(0)
	fold(AbortRecord{ID: alone, By: FromCluster})
	x, _ = table.Get(alone)
	require.Equal(t, Unrecorded, x.Outcome(), "one database alone may have committed it")
	fold(AbortRecord{ID: alone, By: FromCluster, Seen: true})
	x, _ = table.Get(alone)
	require.Equal(t, Aborted, x.Outcome())
}
