// SPDX-License-Identifier: Apache-2.0

package txn

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/protocol/zab"
)

var sampleHighWater = HighWater{At: zab.Zxid{Epoch: 7, Counter: 1 << 40}, Floor: zab.Zxid{Epoch: 6, Counter: 3}}

func highWaterAt(counter uint64) HighWater {
	p := zab.Zxid{Epoch: 1, Counter: counter}
	return HighWater{At: p, Floor: p}
}

func TestTextsOfRowsAreOrderedAsZxidsAre(t *testing.T) {
	zxids := []zab.Zxid{{}, {Counter: 9}, {Counter: 10}, {Epoch: 1}, {Epoch: 9, Counter: 1 << 61}, {Epoch: 10},
		{Epoch: 1<<32 - 1, Counter: 1<<62 - 1}}
	var texts []string
	for _, p := range zxids {
		text := RowText(p)
		texts = append(texts, text)
		require.Len(t, text, 25)
		_, err := ParseID(text)
		require.Error(t, err, "no gid looks like it")
		got, err := ParseRowText(text)
		require.NoError(t, err)
		require.Equal(t, p, got)
	}
	require.True(t, slices.IsSorted(texts))
	for _, bad := range []string{"", "w", "W" + texts[1][1:], texts[1] + "0", "w0000000A0000000000000000",
		"wffffffffffffffffffffffff",
		NewID(time.Now()).String()} {
		_, err := ParseRowText(bad)
		require.ErrorContains(t, err, "is not a high-water row that this version writes: run the newest version of "+
			"concord on all nodes, or delete the row if a person wrote it", bad)
	}
}

func TestWhatIsRememberedOfADatabaseOnlyGrowsUntilSomebodyAcceptsLess(t *testing.T) {
	l := newReplica()
	l.fold(t, HighWaterRecord{"orders", highWaterAt(20)}, HighWaterRecord{"billing", highWaterAt(21)})
	l.fold(t, HighWaterRecord{"orders", highWaterAt(10)})
	require.Equal(t, highWaterAt(20), l.Remembered("orders").HighWater)

	// One that has what is remembered is not behind.
	require.Empty(t, l.fold(t, QuarantineRecord{"orders", highWaterAt(20), time.UnixMilli(1)}).Quarantined)
	require.Empty(t, l.fold(t, AcceptRecord{Resource: "orders", Who: "ann", Why: "why"}).Accepted)
	require.Equal(t, Remembered{Resource: "orders", HighWater: highWaterAt(20)}, l.Remembered("orders"))

	c := l.fold(t, QuarantineRecord{"orders", highWaterAt(10), time.UnixMilli(1)})
	require.Equal(t, []string{"orders"}, c.Quarantined)
	require.Empty(t, l.fold(t, QuarantineRecord{"orders", highWaterAt(5), time.UnixMilli(2)}).Quarantined,
		"it is already")
	l.fold(t, HighWaterRecord{"orders", highWaterAt(30)}) // told late
	require.Equal(t, Remembered{Resource: "orders", HighWater: highWaterAt(20),
		Quarantine: &Quarantine{Has: highWaterAt(10), Since: time.UnixMilli(1)}}, l.Remembered("orders"))
	require.Nil(t, l.Remembered("billing").Quarantine)

	c = l.fold(t, AcceptRecord{"orders", "ann", "the backup of Sunday", time.UnixMilli(3)})
	require.Equal(t, []string{"orders"}, c.Accepted)
	require.Equal(t, Remembered{Resource: "orders", HighWater: highWaterAt(10),
		Accepted: &Accepted{Quarantine: Quarantine{Has: highWaterAt(10), Since: time.UnixMilli(1)},
			Lost: highWaterAt(20), Who: "ann", Why: "the backup of Sunday", Time: time.UnixMilli(3)}},
		l.Remembered("orders"))

	// A database without its row is behind, too.
	require.Equal(t, []string{"billing"}, l.fold(t, QuarantineRecord{Resource: "billing",
		Time: time.UnixMilli(4)}).Quarantined)
	l.fold(t, AcceptRecord{"billing", "ann", "made anew", time.UnixMilli(5)})
	require.True(t, l.Remembered("billing").HighWater.IsZero())
	require.Empty(t, l.fold(t, QuarantineRecord{Resource: "billing", Time: time.UnixMilli(6)}).Quarantined)
}

// A commit that is delivered when one of its databases is known to be behind is an abort: its branch
// there may be gone already. A person who resolves has looked.
func TestACommitBehindAQuarantineIsAnAbort(t *testing.T) {
	l := newReplica()
	l.fold(t, HighWaterRecord{"orders", highWaterAt(20)})
	before, after, resolved, elsewhere := NewID(time.Now()), NewID(time.Now()), NewID(time.Now()), NewID(time.Now())
	c := l.fold(t, CommitRecord{ID: before, Branches: sampleBranches}, QuarantineRecord{Resource: "orders"},
		CommitRecord{ID: after, Branches: sampleBranches},
		CommitRecord{ID: resolved, Branches: sampleBranches, By: FromOperator},
		CommitRecord{ID: elsewhere, Branches: sampleBranches[1:]})
	var decisions []Decision
	for _, v := range c.Verdicts {
		decisions = append(decisions, v.Decision)
	}
	require.Equal(t, []Decision{Commit, Abort, Commit, Commit}, decisions)
	require.Equal(t, `resource "orders" is quarantined: its database is behind what the log remembers of it; see `+
		`"concord resource report orders", then "concord resource accept orders --reason TEXT"`, c.Verdicts[1].Reason)
}

func TestWhatIsRememberedIsStoredAsItIs(t *testing.T) {
	l := newReplica()
	l.fold(t, HighWaterRecord{"a", sampleHighWater}, HighWaterRecord{"b", sampleHighWater}, HighWaterRecord{"c",
		sampleHighWater}, QuarantineRecord{"a", highWaterAt(1), time.UnixMilli(1)}, QuarantineRecord{"b", HighWater{},
		time.UnixMilli(2)},
		AcceptRecord{"a", "ann", "why", time.UnixMilli(3)}, QuarantineRecord{"a", HighWater{}, time.UnixMilli(4)})
	want := l.Meta().Remembered
	require.Len(t, want, 3)
	b := AppendRemembered(nil, want)
	got, err := DecodeRemembered(b)
	require.NoError(t, err)
	require.Equal(t, want, got)
	for cut := range b {
		_, err := DecodeRemembered(b[:cut])
		require.ErrorIs(t, err, ErrBadTxn)
	}
	_, err = DecodeRemembered(AppendRemembered(nil, []Remembered{want[1], want[0]}))
	require.ErrorIs(t, err, ErrBadTxn)
	_, err = DecodeRemembered(append(b, 0))
	require.ErrorIs(t, err, ErrBadTxn)
}
