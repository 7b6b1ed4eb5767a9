// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/adaptertest"
)

func TestConformance(t *testing.T) {
	b := newBank(t)
	b.ctx = context.Background() // each case has its own deadline
	dsn := b.db.UserDSN("app", "", "")
	adaptertest.Run(t, adaptertest.Target{
		Rows: true,
		Open: func(t testing.TB) adapters.Adapter {
			r, err := Open(context.Background(), "bank", dsn)
			require.NoError(t, err)
			return r
		},
		Write: write,
		Read:  func(_ testing.TB, key string) (int64, bool) { return b.value(key) },
		Fail:  func(ctx context.Context, s adapters.Session) error { return do(ctx, s, "select 1/0") },
		ReadOnly: func(ctx context.Context, s adapters.Session) error {
			return do(ctx, s, "select count(*) from account")
		},
		Hang:    func(ctx context.Context, s adapters.Session) error { return do(ctx, s, "select pg_sleep(600)") },
		Busy:    func(_ testing.TB, s adapters.Session) { b.busy(s.(*session)) },
		Hostile: hostile(b),

		EndSession: func(_ testing.TB, s adapters.Session) { b.kill(s.(*session)) },
		Restart: func(t testing.TB) {
			require.NoError(t, b.db.Kill())
			require.NoError(t, b.db.Start())
			b.admin.Reset()
		},
		Child:   dsn,
		Foreign: func(t testing.TB) func(testing.TB) { return b.plantForeign(t) },
	})
}

// plantForeign prepares branches of others, in this database and in another one, whose
// names hurt whoever pastes them into a statement.
func (b *bank) plantForeign(t testing.TB) func(testing.TB) {
	ours := newXID().String()
	names := []string{
		"x'; drop table canary; --", "concord-", strings.Repeat("n", 199), "бранч-ñ-枝", "", "a\nb\tc\\",
		`"; drop table canary; --`,
		ours[:45] + "'", "concord-" + strings.Repeat("'", 38), strings.ToUpper(ours), ours + "0",
	}
	quoted := func(name string) string { return "'" + strings.ReplaceAll(name, "'", "''") + "'" }
	other := newPool(t, b.db.DSN("elsewhere"))
	plant := func(text string) {
		_, err := b.admin.Exec(b.ctx, "begin; update canary set alive = alive where false; "+text)
		require.NoError(t, err)
	}
	for _, name := range names {
		plant("prepare transaction " + quoted(name))
	}
	// Our own grammar in another database of the same server: not of this resource.
	elsewhere := newXID().String()
	_, err := other.Exec(b.ctx, "begin; prepare transaction "+quoted(elsewhere))
	require.NoError(t, err)
	all := append(names, elsewhere)
	t.Cleanup(func() {
		_, err := other.Exec(context.Background(), "rollback prepared "+quoted(elsewhere))
		require.NoError(t, err)
		for _, name := range names {
			_, err := b.admin.Exec(context.Background(), "rollback prepared "+quoted(name))
			require.NoError(t, err)
		}
	})
	return func(t testing.TB) {
		require.Equal(t, len(all), b.count("select count(*) from pg_prepared_xacts where gid = any($1)", all))
		require.Equal(t, 1, b.count("select count(*) from canary where alive"))
	}
}
