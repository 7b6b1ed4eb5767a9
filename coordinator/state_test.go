// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/txn"
)

// What a node could not start from is refused before it takes the place of its own state.
func TestPairsThatAreNoStateAreRefused(t *testing.T) {
	x := txn.Txn{ID: txn.ID{1}, Decision: txn.Commit}
	value, err := x.AppendBinary(nil)
	require.NoError(t, err)
	for _, sound := range [][2][]byte{{[]byte(metaKey), encodeMeta(txn.Meta{})}, {stateKey(openKey, x.ID), value}, {stateKey(finishedKey, x.ID), value}} {
		require.NoError(t, checkPair(sound[0], sound[1]), "%q", sound[0])
	}
	for _, bad := range [][2]string{{"k", "v"}, {metaKey, "v"}, {levelKey, "v"}, {leasesKey, "v"}, {membersKey, "v"},
		{string(stateKey(openKey, txn.ID{2})), string(value)}} {
		require.Error(t, checkPair([]byte(bad[0]), []byte(bad[1])), "%q", bad[0])
	}
}
