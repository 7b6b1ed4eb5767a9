// SPDX-License-Identifier: Apache-2.0

package txn

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/protocol/zab"
)

// shelf is an archive in memory, kept up to date by the changes of a table.
type shelf struct {
	finished map[ID]Txn
	open     map[ID]Txn
	witness  map[ID]Witness
	keys     map[string]KeyUse
	meta     Meta
}

func newShelf() *shelf {
	return &shelf{finished: map[ID]Txn{}, open: map[ID]Txn{}, witness: map[ID]Witness{}, keys: map[string]KeyUse{}}
}

func (s *shelf) Finished(id ID) (Txn, bool) { x, ok := s.finished[id]; return x, ok }

func (s *shelf) KeyUse(key string) (KeyUse, bool) { u, ok := s.keys[key]; return u, ok }

func (s *shelf) Keep(c Changes) {
	for _, u := range c.Keys {
		s.keys[u.Key] = u
	}
	for id := range s.finished {
		if string(id[:]) < string(c.PurgeBefore[:]) {
			delete(s.finished, id)
		}
	}
	for _, x := range c.Open {
		delete(s.finished, x.ID)
		s.open[x.ID] = x
	}
	for _, x := range c.Finished {
		delete(s.open, x.ID)
		s.finished[x.ID] = x
	}
	for _, w := range c.Witnesses {
		s.witness[w.ID] = w
	}
	for _, id := range c.Closed {
		delete(s.witness, id)
	}
	s.meta = c.Meta
}

type replica struct {
	*Table
	*shelf
	next uint64
}

func newReplica() *replica {
	s := newShelf()
	return &replica{Table: NewTable(Meta{}, nil, s), shelf: s}
}

func (r *replica) fold(t *testing.T, records ...Record) Changes {
	t.Helper()
	r.next++
	c, err := r.Apply(zab.Zxid{Epoch: 1, Counter: r.next}, EncodeRecords(nil, records...))
	require.NoError(t, err)
	return c
}

func (r *replica) restarted() *replica {
	var open []Txn
	for _, x := range r.shelf.open {
		open = append(open, x)
	}
	var witnesses []Witness
	for _, w := range r.shelf.witness {
		witnesses = append(witnesses, w)
	}
	return &replica{Table: NewTable(r.meta, open, r.shelf, witnesses...), shelf: r.shelf, next: r.next}
}

var two = []Branch{{No: 0, Resource: "orders"}, {No: 1, Resource: "billing"}}

func TestFirstDecisionWinsAlsoAfterItIsArchived(t *testing.T) {
	r := newReplica()
	id := NewID(time.Now())
	c := r.fold(t, AbortRecord{ID: id, Reason: "asked for"})
	require.Equal(t, []Verdict{{ID: id, Decision: Abort, Reason: "asked for", First: true}}, c.Verdicts)
	require.Zero(t, r.OpenCount())
	for _, replica := range []*replica{r, r.restarted()} {
		c = replica.fold(t, CommitRecord{ID: id, Branches: two})
		require.Equal(t, []Verdict{{ID: id, Decision: Abort, Reason: "asked for"}}, c.Verdicts)
		require.Empty(t, c.Open)
	}
}

// Of a plain transaction the log may know nothing, although its only database committed it.
func TestAnAbortThatKnowsOfNoBranchIsUnrecordedUntilOneIsSeen(t *testing.T) {
	for name, x := range map[string]struct {
		class  Class
		before Outcome
		later  Record
		after  Outcome
	}{
		"asked for again":                       {Plain, Unrecorded, AbortRecord{}, Unrecorded},
		"a branch was seen":                     {Plain, Unrecorded, AbortRecord{Seen: true}, Aborted},
		"a late commit request with branches":   {Plain, Unrecorded, CommitRecord{Branches: two}, Aborted},
		"a late commit request for a bare word": {Plain, Unrecorded, CommitRecord{}, Unrecorded},
		"recorded":                              {Recorded, Aborted, AbortRecord{}, Aborted},
	} {
		t.Run(name, func(t *testing.T) {
			r := newReplica()
			id := NewID(time.Now()).WithClass(x.class)
			outcome := func() Outcome {
				r = r.restarted()
				got, known := r.Get(id)
				require.True(t, known)
				b, err := got.AppendBinary(nil)
				require.NoError(t, err)
				var stored Txn
				require.NoError(t, stored.UnmarshalBinary(b))
				require.Equal(t, got.Outcome(), stored.Outcome())
				require.Equal(t, "asked for", got.Reason)
				return got.Outcome()
			}
			r.fold(t, AbortRecord{ID: id, Reason: "asked for"})
			require.Equal(t, x.before, outcome())
			switch later := x.later.(type) {
			case AbortRecord:
				later.ID, later.Reason = id, "later"
				r.fold(t, later)
			case CommitRecord:
				later.ID = id
				r.fold(t, later)
			}
			require.Equal(t, x.after, outcome())
			require.Zero(t, r.OpenCount())
		})
	}
}

func TestSecondDecisionInOneEntryFindsTheFirst(t *testing.T) {
	r := newReplica()
	id := NewID(time.Now())
	c := r.fold(t, AbortRecord{ID: id}, CommitRecord{ID: id, Branches: two})
	require.Equal(t, Abort, c.Verdicts[1].Decision)
	require.False(t, c.Verdicts[1].First)
	require.Len(t, c.Finished, 1)
	require.Zero(t, r.OpenCount())
}

func TestCommitIsOpenUntilEnd(t *testing.T) {
	r := newReplica()
	id := NewID(time.Now())
	r.fold(t, CommitRecord{ID: id, Branches: two})
	require.Equal(t, 1, r.OpenCount())
	r = r.restarted()
	require.Equal(t, two, r.Open()[0].Branches)
	r.fold(t, End{IDs: []ID{id, NewID(time.Now())}})
	require.Zero(t, r.OpenCount())
	x, ok := r.Get(id)
	require.True(t, ok)
	require.Equal(t, Committed, x.Outcome())
	c := r.fold(t, End{IDs: []ID{id}})
	require.Empty(t, c.Finished, "a second End changes nothing")
}

func TestHeuristicStaysOpenUntilForgotten(t *testing.T) {
	r := newReplica()
	id := NewID(time.Now())
	r.fold(t, CommitRecord{ID: id, Branches: two})
	r.fold(t, HeuristicRecord{ID: id, Branch: 1, Outcome: HeuristicRollback, Who: "billing"}, End{IDs: []ID{id}})
	r = r.restarted()
	x, _ := r.Get(id)
	require.True(t, x.Alarming())
	require.Equal(t, HeuristicMixed, x.Outcome())
	c := r.fold(t, HeuristicRecord{ID: id, Branch: 1, Outcome: HeuristicRollback, Who: "billing"})
	require.Empty(t, c.Open, "the same report twice is one")
	r.fold(t, ForgetRecord{ID: id, Who: "ann", Why: "refunded"})
	require.Zero(t, r.OpenCount())
	x, _ = r.Get(id)
	require.Equal(t, HeuristicMixed, x.Outcome(), "forgetting ends the alarm, not the evidence")
	require.Equal(t, []Forget{{Who: "ann", Why: "refunded"}}, x.Forgets)
}

func TestHeuristicOnAnArchivedAbortReopensIt(t *testing.T) {
	r := newReplica()
	id := NewID(time.Now())
	r.fold(t, AbortRecord{ID: id})
	r.fold(t, HeuristicRecord{ID: id, Branch: 0, Outcome: HeuristicCommit, Who: "orders"})
	require.Equal(t, 1, r.OpenCount())
	require.Empty(t, r.finished)
}

func TestWatermarkPurgesFinishedAndRefusesOlder(t *testing.T) {
	r := newReplica()
	now := time.UnixMilli(1_700_000_000_000)
	ended, unfinished, late := NewID(now), NewID(now), NewID(now)
	r.fold(t, CommitRecord{ID: ended, Branches: two}, CommitRecord{ID: unfinished, Branches: two},
		End{IDs: []ID{ended}})
	r.fold(t, Watermark{Time: now.Add(time.Hour)})
	require.Empty(t, r.finished)
	_, ok := r.Get(ended)
	require.False(t, ok)
	_, ok = r.Get(unfinished)
	require.True(t, ok, "an unfinished commit is never forgotten")
	c := r.fold(t, CommitRecord{ID: late, Branches: two})
	require.Equal(t, Abort, c.Verdicts[0].Decision)
	require.True(t, c.Verdicts[0].TooOld)
	c = r.fold(t, Watermark{Time: now})
	require.True(t, c.PurgeBefore.IsZero(), "the watermark never goes back")
}

func TestReplicasThatRestartAnywhereAgree(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	steady, shaky := newReplica(), newReplica()
	base := time.UnixMilli(1_700_000_000_000)
	var ids []ID
	for i := range 3000 {
		if len(ids) < 20 || rng.IntN(4) == 0 {
			ids = append(ids, NewID(base.Add(time.Duration(i)*time.Second)))
		}
		id := ids[max(0, len(ids)-1-rng.IntN(20))]
		var r Record
		switch rng.IntN(8) {
		case 0, 1, 2:
			r = CommitRecord{ID: id, Branches: two}
		case 3:
			r = AbortRecord{ID: id}
		case 4, 5:
			r = End{IDs: []ID{id}}
		case 6:
			r = HeuristicRecord{ID: id, Outcome: HeuristicHazard}
		case 7:
			if rng.IntN(20) == 0 {
				r = Watermark{Time: id.Time().Add(-5 * time.Second)}
			} else {
				r = ForgetRecord{ID: id}
			}
		}
		want := steady.fold(t, r)
		require.Equal(t, want, shaky.fold(t, r))
		if rng.IntN(10) == 0 {
			shaky = shaky.restarted()
		}
	}
	require.Equal(t, steady.Meta(), shaky.Meta())
	require.Equal(t, steady.Open(), shaky.Open())
	require.Equal(t, steady.finished, shaky.finished)
}

func TestFirstStoreOfANodeCountsUntilAnOperatorReplacesIt(t *testing.T) {
	r := newReplica()
	first, second := StoreID{1}, StoreID{2}
	r.fold(t, MemberRecord{Node: 2, Store: first}, MemberRecord{Node: 1, Store: second})
	r.fold(t, MemberRecord{Node: 2, Store: second})
	r = r.restarted()
	got, known := r.Store(2)
	require.True(t, known)
	require.Equal(t, first, got)
	require.Equal(t, []MemberStore{{Node: 1, Store: second}, {Node: 2, Store: first}}, r.Meta().Stores)
	r.fold(t, HoldsRecord{Node: 2, Store: first, Upto: zab.Zxid{Epoch: 2, Counter: 1}})
	r.fold(t, HoldsRecord{Node: 2, Store: first, Upto: zab.Zxid{Epoch: 1, Counter: 9}},
		HoldsRecord{Node: 2, Store: second, Upto: zab.Zxid{Epoch: 3}})
	r = r.restarted()
	require.Equal(t, []MemberStore{{Node: 1, Store: second},
		{Node: 2, Store: first, Holds: zab.Zxid{Epoch: 2, Counter: 1}}}, r.Meta().Stores,
		"what a store holds grows, and is that of the store that counts")
	r.fold(t, MemberRecord{Node: 2, Who: "ann", Why: "new disk"})
	_, known = r.Store(2)
	require.False(t, known)
	r.fold(t, MemberRecord{Node: 2, Store: second})
	got, _ = r.Store(2)
	require.Equal(t, second, got)
}

func TestLeaseNumbersAreNeverGivenAgain(t *testing.T) {
	r := newReplica()
	c := r.fold(t, LeaseRecord{Count: 3})
	require.Equal(t, []Lease{1, 2, 3}, c.Granted)
	before := r.Leases()
	c = r.fold(t, LeaseEndRecord{Leases: []Lease{2, 9}})
	require.Equal(t, []Lease{2}, c.Ended)
	require.Equal(t, []Lease{1, 2, 3}, before.Active, "readers may hold it")
	require.Empty(t, r.fold(t, LeaseEndRecord{Leases: []Lease{2}}).Ended)
	c = r.fold(t, LeaseEndRecord{Leases: []Lease{1, 3}}, LeaseRecord{Count: 1})
	require.Equal(t, []Lease{4}, c.Granted)
	r = r.restarted()
	for lease, ended := range map[Lease]bool{0: false, 1: true, 2: true, 3: true, 4: false, 5: false} {
		require.Equal(t, ended, r.LeaseEnded(lease), "lease %d", lease)
		require.Equal(t, lease == 4, r.Leases().Holds(lease))
	}
	require.Len(t, r.fold(t, LeaseRecord{Count: MaxLeases}).Granted, MaxLeases-1)
	require.Empty(t, r.fold(t, LeaseRecord{Count: 1}).Granted, "there is a limit")
}

func TestACommitUnderALeaseThatHasEndedIsAnAbort(t *testing.T) {
	r := newReplica()
	r.fold(t, LeaseRecord{Count: 2})
	under := func(n Lease) ID { return NewID(time.Now()).WithLease(n) }
	before, ended, alive, unknown, none, resolved := under(1), under(1), under(2), under(3), under(0), under(1)
	r.fold(t, CommitRecord{ID: before, Branches: two})
	r.fold(t, LeaseEndRecord{Leases: []Lease{1}}, CommitRecord{ID: ended, Branches: two})
	r.fold(t, CommitRecord{ID: resolved, Branches: two, By: FromOperator})
	for _, id := range []ID{alive, unknown, none} {
		r.fold(t, CommitRecord{ID: id, Branches: two})
	}
	for id, want := range map[ID]Outcome{before: Committed, ended: Aborted, alive: Committed, unknown: Committed,
		none: Committed, resolved: Committed} {
		x, known := r.Get(id)
		require.True(t, known)
		require.Equal(t, want, x.Outcome(), "%d: %v", id.Lease(), x)
	}
	x, _ := r.Get(ended)
	require.Contains(t, x.Reason, "lease 1")
	require.True(t, x.Finished())
}

// The log keeps the last MaxActs acts of people, and each for as long as outcomes.
func TestActsAreKeptForAWhile(t *testing.T) {
	r := newReplica()
	begun := time.UnixMilli(1_700_000_000_000)
	act := func(key uint64) ActRecord { return ActRecord{Key: key, Kind: ActForget, Who: "ann", Time: begun} }
	c := r.fold(t, act(1), act(2), ActEndRecord{Key: 1, Outcome: ActRefused, Says: "it is finished"})
	require.Len(t, c.Acts, 3)
	before := r.Acts()
	require.Equal(t, ActRefused, before[0].Outcome)
	require.Equal(t, "it is finished", before[0].Says)
	require.Equal(t, ActBegun, before[1].Outcome)
	r.fold(t, ActEndRecord{Key: 1, Outcome: ActDone}, ActEndRecord{Key: 2, Outcome: ActDone}, ActEndRecord{Key: 3,
		Outcome: ActDone})
	require.Equal(t, ActRefused, r.Acts()[0].Outcome, "an act ends once")
	require.Equal(t, ActDone, r.Acts()[1].Outcome)
	require.Equal(t, ActBegun, before[1].Outcome, "who has the list of before has it still")

	for range MaxActs / 1000 {
		var many []Record
		for range 1000 {
			many = append(many, act(9))
		}
		c = r.fold(t, many...)
	}
	require.Len(t, r.Acts(), MaxActs)
	require.EqualValues(t, 3, r.Acts()[0].No)
	require.EqualValues(t, 3, c.ActsFrom)

	c = r.fold(t, Watermark{Time: begun})
	require.Len(t, r.Acts(), MaxActs)
	require.Zero(t, c.ActsFrom)
	c = r.fold(t, Watermark{Time: begun.Add(time.Millisecond)})
	require.Len(t, r.Acts(), 1, "the last one stays, so that numbers go on")
	require.EqualValues(t, MaxActs+2, c.ActsFrom)
	r.fold(t, act(10))
	require.EqualValues(t, MaxActs+3, r.Acts()[1].No)
}

// Nothing in what is stored of an act of before tells that there is more to say by now.
func TestAnActWithoutCallerIsStoredAsItAlwaysWas(t *testing.T) {
	a := Act{No: 7, ActRecord: ActRecord{Key: 1, Time: time.UnixMilli(1), Kind: ActLead, Who: "ann", Node: 2}}
	bare, err := a.AppendBinary(nil)
	require.NoError(t, err)
	require.Equal(t, "0107000000000000000101"+"0c"+"0003616e6e00"+strings.Repeat("00", 17)+"00"+"0000000000000002"+
		"0000", hex.EncodeToString(bare))
	require.Equal(t, kindAct, a.kind())
	a.From = Caller{Roles: "operator", Addr: "192.0.2.7:4711", Node: 3}
	require.Equal(t, kindActFrom, a.kind())
	more, err := a.AppendBinary(nil)
	require.NoError(t, err)
	require.True(t, bytes.HasPrefix(more, bare))
	var again Act
	require.NoError(t, again.UnmarshalBinary(more))
	require.Equal(t, a, again)
	require.ErrorIs(t, again.UnmarshalBinary(append(bare, make([]byte, 10)...)), ErrBadTxn, "an empty caller is none")
}

func FuzzActUnmarshal(f *testing.F) {
	b, err := Act{No: 7, ActRecord: ActRecord{Key: 1, Time: time.UnixMilli(1_700_000_000_000), Kind: ActAbandon,
		Subject: "ann", Why: "lost", ID: ID{1}, Branch: 2}, Outcome: ActUnknown,
		Says: "the leader changed"}.AppendBinary(nil)
	require.NoError(f, err)
	f.Add(b)
	b, err = Act{No: 8, ActRecord: ActRecord{Key: 2, Kind: ActRecover, From: Caller{Roles: "operator",
		Addr: "192.0.2.7:4711", Node: 3}}}.AppendBinary(nil)
	require.NoError(f, err)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		var a Act
		if a.UnmarshalBinary(b) == nil {
			again, err := a.AppendBinary(nil)
			require.NoError(t, err)
			require.Equal(t, b, again)
		}
	})
}

func BenchmarkEncodeCommit(b *testing.B) {
	r := CommitRecord{ID: NewID(time.Now()), Branches: sampleBranches}
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = EncodeRecords(buf[:0], r)
	}
	b.SetBytes(int64(len(buf)))
}

func BenchmarkDecodeCommit(b *testing.B) {
	data := EncodeRecords(nil, CommitRecord{ID: NewID(time.Now()), Branches: sampleBranches})
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := DecodeRecords(data); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkEncodeTxn is what a node keeps of each finished transaction.
func BenchmarkEncodeTxn(b *testing.B) {
	x := Txn{ID: NewID(time.Now()), Decision: Commit, Branches: sampleBranches, Ended: true}
	var buf []byte
	var err error
	b.ReportAllocs()
	for b.Loop() {
		if buf, err = x.AppendBinary(buf[:0]); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(int64(len(buf)))
}

// oblivion is an archive that costs nothing: what remains is the table.
type oblivion struct{}

func (oblivion) Keep(Changes)                 {}
func (oblivion) Finished(ID) (Txn, bool)      { return Txn{}, false }
func (oblivion) KeyUse(string) (KeyUse, bool) { return KeyUse{}, false }

// BenchmarkApply folds log entries that commit some transactions and end those of the
// entry before. The time is per entry.
func BenchmarkApply(b *testing.B) {
	for _, n := range []int{1, 64, 256} {
		b.Run(fmt.Sprintf("%d-transactions-per-entry", n), func(b *testing.B) {
			t := NewTable(Meta{}, nil, oblivion{})
			ids, last := make([]ID, n), make([]ID, n)
			for i := range ids {
				ids[i] = NewID(time.Now())
			}
			var counter uint64
			var data []byte
			b.ReportAllocs()
			for b.Loop() {
				data = EncodeRecords(data[:0], End{IDs: last})
				for i := range ids {
					counter++
					binary.BigEndian.PutUint64(ids[i][8:], counter)
					data = AppendRecord(data, CommitRecord{ID: ids[i], Branches: sampleBranches})
				}
				if _, err := t.Apply(zab.Zxid{Counter: counter}, data); err != nil {
					b.Fatal(err)
				}
				copy(last, ids)
			}
			b.ReportMetric(float64(b.N*n)/b.Elapsed().Seconds(), "transactions/s")
			if t.OpenCount() != n {
				b.Fatalf("%d transactions are open, want those of the last entry, %d", t.OpenCount(), n)
			}
		})
	}
}

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
