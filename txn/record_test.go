// SPDX-License-Identifier: Apache-2.0

package txn

import (
	"bytes"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/internal/said"
)

var sampleBranches = []Branch{
	{No: 0, Resource: "orders", Evidence: "xid8=812", Holder: "pid=17"},
	{No: 255, Resource: "billing"},
}

var sampleMembers = []Member{
	{ID: 1, Role: Voter, Peer: "a:7421", API: "a:7420"},
	{ID: 2, Role: Observer},
	{ID: 1 << 40, Role: Learner, Peer: "c:7421", API: "c:7420"},
}

var sampleParties = []Party{
	{PartyID: PartyID{Agent: "orders", Journal: JournalID{1, 15: 2}}, Addr: "a:7430"},
	{PartyID: PartyID{Agent: "billing", Journal: JournalID{3}}, Addr: "b:7430"},
	{},
}

func sampleRecords() []Record {
	id := NewID(time.Now())
	return []Record{
		MembersRecord{Members: sampleMembers, Who: "ann", Why: "more of them", Key: "k"},
		Form{Cluster: 0xc0ffee},
		CommitRecord{ID: id, By: FromOperator, Branches: sampleBranches, Reason: "operator", Label: "order 4711"},
		CommitRecord{ID: id, Branches: sampleBranches, Label: "order 4711", Key: "4711", Result: []byte{0, 255}},
		CommitRecord{ID: id, Branches: []Branch{}, Key: "k"},
		AbortRecord{ID: id, By: FromCluster, Reason: "asked for"},
		AbortRecord{ID: id, By: FromCluster, Reason: "orphan", Seen: true},
		End{IDs: []ID{id, NewID(time.Now())}},
		HeuristicRecord{ID: id, Branch: 255, Outcome: HeuristicRollback, By: FromCluster, Who: "billing",
			Why: "rolled back by hand"},
		ForgetRecord{ID: id, Who: "ann", Why: "refunded"},
		Watermark{Time: time.UnixMilli(1_700_000_000_000)},
		MemberRecord{Node: 3, Store: StoreID{1, 15: 9}, Who: "ann", Why: "disk"},
		HoldsRecord{Node: 3, Store: StoreID{1, 15: 9}, Upto: Position{Epoch: 7, Counter: 1 << 40}},
		FeatureRecord{Level: Newest},
		PreCommitRecord{ID: id, Election: FirstElection, Members: sampleParties, Branches: sampleBranches,
			Label: "order 4711"},
		PreCommitRecord{ID: id, Election: Election{N: 1<<32 - 1, By: sampleParties[0].PartyID}, Branches: []Branch{}},
		PreAbortRecord{ID: id, Election: Election{N: 2, By: sampleParties[1].PartyID}},
		PromiseRecord{ID: id, Election: Election{N: 3}},
		ProvenRecord{ID: id, Decision: Commit, Reason: "told by orders"},
		AgentRecord{PartyID: sampleParties[0].PartyID, Epoch: 1 << 40},
		LeaseRecord{Count: 300},
		LeaseEndRecord{Leases: []Lease{1, 1<<32 - 1}},
		HighWaterRecord{Resource: "orders", HighWater: sampleHighWater},
		QuarantineRecord{Resource: "orders", Has: sampleHighWater, Time: time.UnixMilli(1_700_000_000_000)},
		QuarantineRecord{Resource: "orders", Time: time.UnixMilli(1_700_000_000_000)},
		AcceptRecord{Resource: "orders", Who: "ann", Why: "the backup of Sunday", Time: time.UnixMilli(1_700_000_000_001)},
	}
}

func TestRecordsRoundTrip(t *testing.T) {
	want := sampleRecords()
	got, err := DecodeRecords(EncodeRecords(nil, want...))
	require.NoError(t, err)
	require.Equal(t, want, got)
}

func TestDamagedRecordsAreRefused(t *testing.T) {
	whole := EncodeRecords(nil, sampleRecords()...)
	_, err := DecodeRecords(nil)
	require.ErrorIs(t, err, ErrBadRecord)
	_, err = DecodeRecords(append([]byte{recordsVersion + 1}, whole[1:]...))
	require.ErrorIs(t, err, ErrBadRecord)
	for cut := 2; cut < len(whole); cut++ {
		got, err := DecodeRecords(whole[:cut])
		if err == nil { // cut between two records
			require.Less(t, len(got), len(sampleRecords()))
			require.Equal(t, whole[:cut], EncodeRecords(nil, got...))
		}
	}
	_, err = DecodeRecords([]byte{recordsVersion, byte(kindEnd), 0xff, 0xff, 0xff, 0xff, 0x0f})
	require.ErrorIs(t, err, ErrBadRecord, "a huge length must not be believed")
}

// A level that this program does not know allows records that it could not read.
func TestALevelOfALaterReleaseIsRefused(t *testing.T) {
	for _, l := range []FeatureLevel{0, Newest + 1, 1<<16 - 1} {
		_, err := DecodeRecords(EncodeRecords(nil, FeatureRecord{Level: l}))
		require.ErrorIs(t, err, ErrBadRecord)
	}
}

// An epoch that does not fit was cut to one that does.
func TestAnEpochThatDoesNotFitIsRefused(t *testing.T) {
	x := Txn{ID: NewID(time.Now()), Decision: Abort, Decided: Position{Epoch: 1<<32 - 1, Counter: 1}}
	b, err := x.AppendBinary(nil)
	require.NoError(t, err)
	require.NoError(t, new(Txn).UnmarshalBinary(b))
	at := bytes.Index(b, []byte{0xff, 0xff, 0xff, 0xff, 0x0f})
	b[at+4] = 0x1f
	require.ErrorIs(t, new(Txn).UnmarshalBinary(b), ErrBadTxn)
}

func FuzzDecodeRecords(f *testing.F) {
	f.Add(EncodeRecords(nil, sampleRecords()...))
	f.Add([]byte{recordsVersion + 1, byte(kindForm), 0, 0, 0, 1})
	f.Add([]byte{recordsVersion, byte(kindEnd), 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Add(append([]byte{recordsVersion, byte(kindCommit)}, make([]byte, 40)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := DecodeRecords(b); err == nil {
			require.Equal(t, b, EncodeRecords(nil, got...))
		}
	})
}

func FuzzTxnUnmarshal(f *testing.F) {
	x := Txn{ID: NewID(time.Now()), Decision: Commit, By: FromOperator, Branches: sampleBranches, Label: "order 4711",
		Ended: true,
		Heuristics: []Heuristic{{Branch: 1, Outcome: HeuristicHazard, By: FromOperator, Who: "r", Why: "w",
			Forgotten: true}}, Forgets: []Forget{{Who: "a", Why: "b"}}}
	b, err := x.AppendBinary(nil)
	require.NoError(f, err)
	f.Add(b)
	x.Decided = Position{Epoch: 1<<32 - 1, Counter: 1 << 62}
	b, err = x.AppendBinary(nil)
	require.NoError(f, err)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		var x Txn
		if x.UnmarshalBinary(b) == nil {
			again, err := x.AppendBinary(nil)
			require.NoError(t, err)
			require.Equal(t, b, again)
		}
	})
}

// errorRows are the errors about what was stored, or typed, by somebody else: how to get them and what they say.
var errorRows = []struct {
	meet func() error
	says string
}{
	{func() error { _, err := ParseID("x"); return err }, `"x": not a transaction id: want 26 characters of Crockford base ` +
		`32, of which the last is 0, R, T or M, as printed by "concord tx ls"`},
	{func() error { _, err := ParseRowText("x"); return err }, `"x" is not a high-water row that this version writes: run ` +
		`the newest version of concord on all nodes, or delete the row if a person wrote it`},
	{func() error { _, err := DecodeRecords([]byte{recordsVersion, 0xff}); return err }, "record 0: " + noRecords},
	{func() error { _, err := DecodeMembers([]byte{0xff}); return err }, "list of members: " + noRecords},
	{func() error {
		_, err := NewTable(Meta{}, nil, nil).Apply(Position{Epoch: 1, Counter: 2}, nil)
		return err
	},
		"apply 1.2: " + noRecords},
	{func() error { return new(Txn).UnmarshalBinary(nil) }, notOurs},
	{func() error { return new(Agents).UnmarshalBinary([]byte{0xff}) }, "lives of the agents: " + notOurs},
	{func() error { return new(Members).UnmarshalBinary([]byte{0xff}) }, "members of the cluster: " + notOurs},
}

const (
	noRecords = "log entry holds no records that this version of concord understands: run the version that wrote it, or " +
		"replace this node's store"
	notOurs = "the store holds what this version of concord does not write: run the version that wrote it, or replace " +
		"this node's store"
)

// Who writes another error finds out here that its text has to be looked at by everybody.
func TestEveryErrorHasARow(t *testing.T) {
	var rows []string
	for _, m := range errorRows {
		require.EqualError(t, m.meet(), m.says)
		rows = append(rows, m.says)
	}
	said.Check(t, rows, nil)
}
