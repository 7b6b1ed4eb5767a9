// SPDX-License-Identifier: Apache-2.0

package txn

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/internal/said"
	"github.com/concordtx/concord/protocol/zab"
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
		CommitRecord{ID: id.WithClass(LastResource), Branches: sampleBranches, Label: "order 4711", Last: "billing"},
		AbortRecord{ID: id, By: FromCluster, Reason: "asked for"},
		AbortRecord{ID: id, By: FromCluster, Reason: "orphan", Seen: true},
		End{IDs: []ID{id, NewID(time.Now())}},
		HeuristicRecord{ID: id, Branch: 255, Outcome: HeuristicRollback, By: FromCluster, Who: "billing",
			Why: "rolled back by hand"},
		ForgetRecord{ID: id, Who: "ann", Why: "refunded"},
		Watermark{Time: time.UnixMilli(1_700_000_000_000)},
		MemberRecord{Node: 3, Store: StoreID{1, 15: 9}, Who: "ann", Why: "disk"},
		HoldsRecord{Node: 3, Store: StoreID{1, 15: 9}, Upto: zab.Zxid{Epoch: 7, Counter: 1 << 40}},
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
		AcceptRecord{Resource: "orders", Who: "ann", Why: "the backup of Sunday",
			Time: time.UnixMilli(1_700_000_000_001)},
		ActRecord{Key: 1 << 63, Time: time.UnixMilli(1_700_000_000_000), Kind: ActAbandon, Subject: "ann",
			Who: "root@db1", Why: "the database was dropped", ID: id, Branch: 2},
		ActRecord{Key: 2, Time: time.UnixMilli(1_700_000_000_000), Kind: ActAccept, Why: "backup", Resource: "orders"},
		ActRecord{Time: time.UnixMilli(1_700_000_000_000), Kind: ActLead, Who: "ann", Why: "upgrade", Node: 1 << 40},
		ActRecord{Key: 3, Time: time.UnixMilli(1_700_000_000_000), Kind: ActRecover, Subject: "ann", Why: "now",
			From: Caller{Roles: "operator", Addr: "192.0.2.7:4711", Node: 3}},
		ActEndRecord{Key: 1 << 63, Outcome: ActRefused, Says: "it is finished"},
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
	x := Txn{ID: NewID(time.Now()), Decision: Abort, Decided: zab.Zxid{Epoch: 1<<32 - 1, Counter: 1}}
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
	x.Decided = zab.Zxid{Epoch: 1<<32 - 1, Counter: 1 << 62}
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

// kinds has a row for each kind of record: the level from which on it is written, LevelBase if every
// program that reads this log knows it, and why nothing folds it, if nothing does.
var kinds = map[recordKind]struct {
	level   FeatureLevel
	ignored string
}{
	kindForm:        {level: LevelBase},
	kindCommit:      {level: LevelBase},
	kindAbort:       {level: LevelBase},
	kindEnd:         {level: LevelBase},
	kindHeuristic:   {level: LevelBase},
	kindForget:      {level: LevelBase},
	kindWatermark:   {level: LevelBase},
	kindMember:      {level: LevelBase},
	kindHolds:       {level: LevelBase},
	kindFeature:     {level: LevelBase},
	kindLease:       {level: LevelLeases},
	kindLeaseEnd:    {level: LevelLeases},
	kindMembers:     {level: LevelMembers},
	kindPreCommit:   {level: LevelThreePhase},
	kindPreAbort:    {level: LevelThreePhase},
	kindPromise:     {level: LevelThreePhase},
	kindProven:      {level: LevelThreePhase},
	kindKeyedCommit: {level: LevelKeys},
	kindAgent:       {level: LevelAgents},
	kindHighWater:   {level: LevelHighWater},
	kindQuarantine:  {level: LevelHighWater},
	kindAccept:      {level: LevelHighWater},
	kindAct:         {level: LevelAudit},
	kindActEnd:      {level: LevelAudit},
	kindLastCommit:  {level: LevelLastResource},
	kindActFrom:     {level: LevelCaller},
}

// A kind of which a step was forgotten is read by nobody, is ignored by the fold, or meets programs
// that do not know it.
func TestEveryKindOfRecordHasAllItsSteps(t *testing.T) {
	folded := map[string]bool{}
	for _, where := range []struct{ file, function string }{{"table.go", "Apply"}, {"cluster.go", "Fold"}} {
		for _, name := range cases(t, where.file, where.function) {
			folded[name] = true
		}
	}
	samples := map[recordKind]Record{}
	for _, r := range sampleRecords() {
		samples[r.kind()] = r
	}
	page, err := os.ReadFile("../docs/ARCHITECTURE.md")
	require.NoError(t, err)
	_, list, _ := strings.Cut(string(page), "\nLog records: ")
	list, _, _ = strings.Cut(list, "What always holds")
	for i, name := range constants(t, "record.go", "recordKind") {
		kind := recordKind(i + 1)
		row, known := kinds[kind]
		if !known || row.level < LevelBase || row.level > Newest {
			t.Errorf("%s: from which level on is it written? Say so in kinds, beside this test", name)
		}
		if short := strings.TrimPrefix(name, "kind"); !strings.Contains(list, "`"+short+"`") {
			t.Errorf("%s: docs/ARCHITECTURE.md does not name `%s` in its list of log records", name, short)
		}
		sample, known := samples[kind]
		if !known {
			t.Errorf("%s: sampleRecords has none, so neither the decoder nor the fuzz tests meet it", name)
			continue
		}
		if got, err := DecodeRecords(EncodeRecords(nil, sample)); err != nil || got[0].kind() != kind {
			t.Errorf("%s: decoder.record in record.go does not know it", name)
		}
		typ := reflect.TypeOf(sample).Name()
		if folded[typ] == (row.ignored != "") {
			t.Errorf("%s: %s is folded by Table.Apply or ClusterState.Fold, or kinds says why not: neither, or both",
				name, typ)
		}
	}
}

// constants returns the names of a list of constants that counts from one.
func constants(t *testing.T, file, typ string) (names []string) {
	t.Helper()
	for _, d := range parse(t, file).Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.CONST {
			continue
		}
		first, ok := g.Specs[0].(*ast.ValueSpec)
		if name, is := first.Type.(*ast.Ident); !ok || !is || name.Name != typ {
			continue
		}
		require.Empty(t, names, "all of %s belong in one list", typ)
		for i, spec := range g.Specs {
			v := spec.(*ast.ValueSpec)
			require.Equal(t, i == 0, len(v.Values) > 0, "%s: the list counts from one, without gaps", v.Names[0].Name)
			names = append(names, v.Names[0].Name)
		}
	}
	require.NotEmpty(t, names, "%s has no constants of type %s", file, typ)
	return names
}

// cases returns the types that the type switches of a function name.
func cases(t *testing.T, file, function string) (names []string) {
	t.Helper()
	for _, d := range parse(t, file).Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok || f.Name.Name != function {
			continue
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if s, ok := n.(*ast.TypeSwitchStmt); ok {
				for _, clause := range s.Body.List {
					for _, e := range clause.(*ast.CaseClause).List {
						if name, ok := e.(*ast.Ident); ok {
							names = append(names, name.Name)
						}
					}
				}
			}
			return true
		})
	}
	require.NotEmpty(t, names, "%s has no switch over types in %s", file, function)
	return names
}

func parse(t *testing.T, file string) *ast.File {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	require.NoError(t, err)
	return f
}

// errorRows are the errors about what was stored, or typed, by somebody else: how to get them and what they say.
var errorRows = []struct {
	meet func() error
	says string
}{
	{func() error { _, err := ParseID("x"); return err }, `"x": not a transaction id: want 26 characters of ` +
		`Crockford base 32, of which the last is 0, R, T or M, as printed by "concord tx ls"`},
	{func() error { _, err := ParseRowText("x"); return err }, `"x" is not a high-water row that this version ` +
		`writes: run the newest version of concord on all nodes, or delete the row if a person wrote it`},
	{func() error { _, err := DecodeRecords([]byte{recordsVersion, 0xff}); return err }, "record 0: " + noRecords},
	{func() error { _, err := DecodeMembers([]byte{0xff}); return err }, "list of members: " + noRecords},
	{func() error {
		_, err := NewTable(Meta{}, nil, nil).Apply(zab.Zxid{Epoch: 1, Counter: 2}, nil)
		return err
	},
		"apply 1.2: " + noRecords},
	{func() error { return new(Txn).UnmarshalBinary(nil) }, notOurs},
	{func() error { _, err := ParseLastMarker("x"); return err }, `"x": the marker in the last resource is not one ` +
		`that this version of concord writes: run the newest version on all nodes; if that does not help, look into ` +
		`the databases`},
	{func() error { return new(Agents).UnmarshalBinary([]byte{0xff}) }, "lives of the agents: " + notOurs},
	{func() error { return new(Members).UnmarshalBinary([]byte{0xff}) }, "members of the cluster: " + notOurs},
}

const (
	noRecords = "log entry holds no records that this version of concord understands: run the version that wrote " +
		"it, or replace this node's store"
	notOurs = "the store holds what this version of concord does not write: run the version that wrote it, or " +
		"replace this node's store"
)

// Who writes another error finds out here that its text has to be looked at by everybody.
func TestEveryErrorHasARow(t *testing.T) {
	var rows []string
	for _, m := range errorRows {
		require.EqualError(t, m.meet(), m.says)
		rows = append(rows, m.says)
	}
	said.Check(t, rows, withoutRow)
}

// withoutRow are what errors.Is is asked for: each stands behind a text that says what it is about.
var withoutRow = map[string]string{
	ErrUnavailable.Error(): "a kind", ErrNotFound.Error(): "a kind", ErrDecided.Error(): "a kind",
	ErrRefused.Error(): "a kind", ErrBusy.Error(): "a kind", ErrInvalid.Error(): "a kind",
	ErrUnauthenticated.Error(): "a kind", ErrDenied.Error(): "a kind", ErrTooOld.Error(): "a kind",
}
