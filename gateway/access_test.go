// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"testing"

	"github.com/stretchr/testify/require"

	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/security/access"
	"github.com/concordtx/concord/txn"
)

func TestEveryProcedureHasARule(t *testing.T) {
	services := concordv1.File_concord_v1_transaction_proto.Services()
	for i := range services.Len() {
		require.Empty(t, rules.Missing(services.Get(i)), "say who may call it, in access.go")
	}
}

// One application leaves room for others, and gets its own back.
func TestASubjectHasSoManyTransactions(t *testing.T) {
	g := New(Config{})
	for range access.DefaultLimits.Transactions {
		require.NoError(t, g.room("evil"))
	}
	err := g.room("evil")
	require.ErrorIs(t, err, txn.ErrBusy)
	require.ErrorContains(t, err, `256 transactions of "evil" are open at this node, which is the limit: end some, or `+
		"begin it at another node")
	require.NoError(t, g.room("app"))
	g.leave("evil")
	require.NoError(t, g.room("evil"))
	g.gone(&session{subject: "evil"})
	g.leave("app")
	require.NotContains(t, g.openOf, "app")
	require.Equal(t, map[string]int{"evil": access.DefaultLimits.Transactions - 1}, g.openOf)
	require.Equal(t, access.DefaultLimits.Transactions-1, g.open)
	for range maxOpen - g.open { // where nobody asks who calls, the limit is that of the node
		require.NoError(t, g.room(""))
	}
	require.ErrorContains(t, g.room(""), "1024 transactions are open at this node")
}
