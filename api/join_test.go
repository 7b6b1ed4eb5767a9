// SPDX-License-Identifier: Apache-2.0

package api

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/txn"
)

func propagation() Propagation {
	c := txn.NewSecret().Capability()
	return Propagation{Cluster: 7, ID: txn.NewID(time.Now()).WithCapability(c),
		Deadline: time.UnixMilli(1_800_000_000_123), Capability: c, Call: 0xab, First: 248, Branches: 8,
		Path: []string{strings.Repeat("0b", 16)}}
}

func TestHeadersGoAndComeBackAsTheyWere(t *testing.T) {
	p := propagation()
	text, err := Text(p.Message())
	require.NoError(t, err)
	back, err := ParsePropagation(text)
	require.NoError(t, err)
	require.Equal(t, p, back)

	said := Participation{Call: 1, Instance: strings.Repeat("0a", 16), Addr: "10.0.0.7:8081", Resource: "ledger",
		Passing: true, Failed: "Überraschung 🙂 \"quoted\"",
		Branches: []OpenedBranch{{No: 3, Resource: "ledger", Driver: "postgres", OnlyRead: true}}}
	text, err = Text(said.Message())
	require.NoError(t, err)
	for _, b := range []byte(text) {
		require.True(t, b >= ' ' && b < 0x7f, "a header has ASCII characters only: %q", text)
	}
	heard, err := ParseParticipation(text)
	require.NoError(t, err)
	require.Equal(t, said, heard)

	votes := []JoinedVote{{No: 3, Vote: txn.VoteYes, Branch: txn.Branch{No: 3, Resource: "ledger", Evidence: "e",
		Holder: "h"}},
		{No: 4, Vote: txn.VoteNo, Reason: "why", Resource: "ledger", Torn: true, Passing: true}}
	counted, err := ParseVotes(VoteMessages(votes))
	require.NoError(t, err)
	require.Equal(t, votes, counted)
}

func TestHeadersThatAreRefused(t *testing.T) {
	change := func(f func(*concordv1.Propagation)) string {
		m := propagation().Message()
		f(m)
		text, err := Text(m)
		require.NoError(t, err)
		return text
	}
	for text, wanted := range map[string]string{
		"":                                   "concord-transaction: is not JSON of this message",
		strings.Repeat("x", MaxPropagated+1): "concord-transaction: has 65537 bytes, at most 65536 are read",
		change(func(m *concordv1.Propagation) { m.Gid = "x" }):    "gid: ",
		change(func(m *concordv1.Propagation) { m.Cluster = "" }): "cluster: ",
		change(func(m *concordv1.Propagation) { m.Capability = []byte{1} }): "capability: has 1 bytes, " +
			"want 32",
		change(func(m *concordv1.Propagation) { m.Call = "AB" }): `call: "AB" names no call, ` +
			`want 16 hex characters`,
		change(func(m *concordv1.Propagation) { m.Branches = 9 }): "branches: 9 from 248 on: " +
			"the last number is 255",
		change(func(m *concordv1.Propagation) { m.Path = []string{"b"} }): `path: "b" names no process, ` +
			`want 32 hex characters`,
		change(func(m *concordv1.Propagation) { m.Path = make([]string, MaxPath+1) }): "path: has 17 services, at " +
			"most 16 may",
		change(func(m *concordv1.Propagation) { m.FirstBranch = 1 << 31 }): "branches: 8 from 2147483648 on",
	} {
		_, err := ParsePropagation(text)
		require.ErrorIs(t, err, txn.ErrInvalid)
		require.ErrorContains(t, err, wanted)
	}
	instance := strings.Repeat("0a", 16)
	for _, c := range []struct {
		m      *concordv1.Participation
		wanted string
	}{
		{&concordv1.Participation{Call: "1"}, `call: "1" names no call`},
		{&concordv1.Participation{Call: CallName(1).String(), Instance: "b"}, `instance: "b" names no process, want ` +
			`32 hex characters`},
		{&concordv1.Participation{Call: CallName(1).String(), Instance: instance, Addr: "nowhere"},
			`addr: "nowhere" is not host:port`},
		{&concordv1.Participation{Call: CallName(1).String(), Instance: instance,
			Branches: []*concordv1.OpenedBranch{{No: 256, Resource: "r"}}}, "branches[0].no: "},
		{&concordv1.Participation{Call: CallName(1).String(), Instance: instance,
			Branches: []*concordv1.OpenedBranch{{No: 1}}}, "branches[0].resource: is empty"},
	} {
		text, err := Text(c.m)
		require.NoError(t, err)
		_, err = ParseParticipation(text)
		require.ErrorIs(t, err, txn.ErrInvalid)
		require.ErrorContains(t, err, c.wanted)
	}
	_, err := ParseVotes([]*concordv1.JoinedVote{{No: 1, Vote: "yes", Branch: &concordv1.Branch{No: 2, Resource: "r"}}})
	require.ErrorContains(t, err, "votes[0].branch: is number 2, but the vote is for 1")
}

func TestTextsOfOthersAreMadeReadable(t *testing.T) {
	require.Equal(t, "a b ?", Readable("a\nb \xff", 10))
	require.Equal(t, "ä", Readable("äö", 3), "no half a character")
	require.Equal(t, "€", Readable("€€", 5))
	require.NoError(t, ParseText("x", Readable(strings.Repeat("ö\x00", 900), txn.MaxReason), txn.MaxReason))
}

func FuzzPropagation(f *testing.F) {
	text, err := Text(propagation().Message())
	require.NoError(f, err)
	f.Add(text)
	f.Add("{}")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePropagation(s)
		if err != nil {
			require.ErrorIs(t, err, txn.ErrInvalid)
			return
		}
		again, err := Text(p.Message())
		require.NoError(t, err)
		back, err := ParsePropagation(again)
		require.NoError(t, err)
		require.Equal(t, p, back)
	})
}
