// SPDX-License-Identifier: Apache-2.0

package recovery

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

func TestFatesInADatabaseThatWasSetBack(t *testing.T) {
	at := func(n uint64) zab.Zxid { return zab.Zxid{Epoch: 1, Counter: n} }
	r := Reached{Cluster: 7, Resource: "orders", Has: txn.HighWater{At: at(20), Floor: at(15)},
		Prepared: map[txn.XID]bool{}, Evidence: map[txn.XID]bool{}}
	decided := func(n uint64, d txn.Decision) txn.Txn {
		return txn.Txn{ID: txn.NewID(time.Now()), Decision: d, Decided: at(n), Ended: true,
			Branches: []txn.Branch{{No: 0, Resource: "billing"}, {No: 1, Resource: "orders"}}}
	}
	there := func(in map[txn.XID]bool, x txn.Txn) txn.Txn {
		in[txn.XID{Cluster: 7, ID: x.ID, Branch: 1}] = true
		return x
	}
	for _, c := range []struct {
		what string
		x    txn.Txn
		want []Fate
	}{
		{"had ended when the row was written", decided(14, txn.Commit), nil},
		{"was open then, and may have ended before", decided(15, txn.Commit), []Fate{Uncertain}},
		{"was decided where the row stands", decided(20, txn.Commit), []Fate{Uncertain}},
		{"was decided later", decided(21, txn.Commit), []Fate{Missing}},
		{"came back prepared", there(r.Prepared, decided(21, txn.Commit)), []Fate{PreparedAgain}},
		{"left its evidence", there(r.Evidence, decided(21, txn.Commit)), []Fate{Present}},
		{"was open, and left its evidence", there(r.Evidence, decided(15, txn.Commit)), []Fate{Present}},
		{"is an abort", decided(21, txn.Abort), nil},
	} {
		var got []Fate
		for _, f := range r.Fates(c.x) {
			require.Equal(t, txn.BranchNo(1), f.Branch)
			got = append(got, f.Fate)
		}
		require.Equal(t, c.want, got, c.what)
	}
	// A database without a row says nothing about anything.
	r.Has = txn.HighWater{}
	require.Equal(t, Missing, r.Fates(decided(1, txn.Commit))[0].Fate)
	require.Equal(t, []string{"missing", "unknown", "prepared-again", "present"},
		[]string{Missing.String(), Uncertain.String(), PreparedAgain.String(), Present.String()})
}
