// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/txn"
)

func TestAnIDIsAnArgumentAndIsScanned(t *testing.T) {
	b := newBank(t)
	s, x := b.work()
	b.do(s, "create temporary table stored (id text, fixed char(26))")
	b.do(s, "insert into stored values ($1, $2), ($3, null)", x.ID, x.ID, txn.ID{})
	var id, fixed, none txn.ID
	require.NoError(t, handleOf(t, s).QueryRow(b.ctx, "select id, fixed from stored where id = $1", x.ID).Scan(&id, &fixed))
	require.Equal(t, []txn.ID{x.ID, x.ID}, []txn.ID{id, fixed})
	none = x.ID
	require.NoError(t, handleOf(t, s).QueryRow(b.ctx, "select id from stored where id is null").Scan(&none))
	require.True(t, none.IsZero())
	require.NoError(t, s.Rollback(b.ctx))
}
