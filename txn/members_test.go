// SPDX-License-Identifier: Apache-2.0

package txn

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/protocol/zab"
)

func TestListsThatNoClusterCanHaveAreRefused(t *testing.T) {
	two := func(a, b Member) []Member { return []Member{a, b} }
	v := func(id uint64) Member { return Member{ID: id, Role: Voter} }
	many := make([]Member, MaxMembers+1)
	for i := range many {
		many[i] = v(uint64(i + 1))
	}
	for name, list := range map[string][]Member{
		"empty": {}, "nobody": two(v(0), v(1)), "twice": two(v(1), v(1)), "out of order": two(v(2), v(1)),
		"no voter": two(Member{ID: 1, Role: Observer}, Member{ID: 2, Role: Learner}), "no role": {{ID: 1}},
		"an unknown role": two(v(1), Member{ID: 2, Role: Learner + 1}), "too many": many,
		"a huge address": {{ID: 1, Role: Voter, Peer: strings.Repeat("a", maxAddress+1)}},
	} {
		_, err := DecodeMembers(AppendMembers(nil, list))
		require.ErrorIs(t, err, ErrBadRecord, name)
		entry := EncodeRecords(nil, MembersRecord{Members: list})
		require.ErrorIs(t, CheckRecords(entry), ErrBadRecord, name)
		_, ok := MembersOf(entry)
		require.False(t, ok, name)
	}
	got, err := DecodeMembers(AppendMembers(nil, sampleMembers))
	require.NoError(t, err)
	require.Equal(t, sampleMembers, got)
}

// The log itself looks at the first record of an entry only.
func TestAMembersRecordIsTheFirstOfItsEntry(t *testing.T) {
	r := MembersRecord{Members: sampleMembers}
	require.ErrorIs(t, CheckRecords(EncodeRecords(nil, Form{Cluster: 1}, r)), ErrBadRecord)
	require.ErrorIs(t, CheckRecords(EncodeRecords(nil, r, r)), ErrBadRecord)
	got, ok := MembersOf(EncodeRecords(nil, r, Form{Cluster: 1}))
	require.True(t, ok)
	require.Equal(t, sampleMembers, got)
	for _, entry := range [][]byte{nil, {recordsVersion}, EncodeRecords(nil, Form{Cluster: 1}),
		{recordsVersion + 1, byte(kindMembers)}} {
		_, ok := MembersOf(entry)
		require.False(t, ok)
	}
}

type noArchive struct{}

func (noArchive) Keep(Changes)                 {}
func (noArchive) Finished(ID) (Txn, bool)      { return Txn{}, false }
func (noArchive) KeyUse(string) (KeyUse, bool) { return KeyUse{}, false }

func TestTableKnowsTheMembersAndWhoTheyWere(t *testing.T) {
	table := NewTable(Meta{}, nil, noArchive{})
	at := zab.Zxid{Epoch: 1}
	fold := func(records ...Record) *Members {
		at.Counter++
		_, err := table.Apply(at, EncodeRecords(nil, records...))
		require.NoError(t, err)
		return table.Members()
	}
	one, two := Member{ID: 1, Role: Voter, Peer: "a"}, Member{ID: 2, Role: Voter, Peer: "b"}
	learns := Member{ID: 2, Role: Learner, Peer: "b"}
	require.Nil(t, fold(Form{Cluster: 1}, MemberRecord{Node: 1, Store: StoreID{1}},
		MemberRecord{Node: 2, Store: StoreID{2}}))
	m := fold(MembersRecord{Members: []Member{one, two}})
	require.False(t, m.Settled)
	require.True(t, fold(MembersRecord{Members: []Member{one, two}}).Settled)
	require.Len(t, table.Meta().Stores, 2)
	require.False(t, fold(MembersRecord{Members: []Member{one}}).Settled)
	require.Len(t, table.Meta().Stores, 1, "the store of one who went is forgotten")
	m = fold(MembersRecord{Members: []Member{one, learns}})
	require.Equal(t, at, m.At)
	require.Len(t, m.Known, 2, "who learns is to be a voter")
	require.True(t, m.Knows([]Member{two, one}), "in whatever order")
	require.True(t, m.Knows([]Member{{ID: 1, Role: Voter, Peer: "elsewhere"}}))
	require.False(t, m.Knows([]Member{{ID: 1, Role: Voter}, {ID: 2, Role: Observer}}))
	require.False(t, m.Knows([]Member{two}))

	b, err := m.AppendBinary(nil)
	require.NoError(t, err)
	var again Members
	require.NoError(t, again.UnmarshalBinary(b))
	require.Equal(t, *m, again)
	for cut := range b {
		require.ErrorIs(t, new(Members).UnmarshalBinary(b[:cut]), ErrBadTxn)
	}
}
