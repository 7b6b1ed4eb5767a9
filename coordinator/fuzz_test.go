// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/txn"
)

// FuzzTableMeta reads what the applied state says of the table besides transactions; with a
// snapshot it comes from a peer.
func FuzzTableMeta(f *testing.F) {
	f.Add(encodeMeta(txn.Meta{Cluster: 0xc0ffee, Watermark: time.UnixMilli(1_700_000_000_000),
		Stores: []txn.MemberStore{{Node: 1, Store: txn.StoreID{1}}, {Node: math.MaxUint64, Store: txn.StoreID{2}}}}))
	f.Add(make([]byte, 12))
	f.Add(make([]byte, 13))
	f.Fuzz(func(t *testing.T, b []byte) {
		var m txn.Meta
		if err := decodeMeta(b, &m); err != nil {
			require.ErrorIs(t, err, txn.ErrBadTxn)
			return
		}
		require.Equal(t, b, encodeMeta(m))
	})
}
