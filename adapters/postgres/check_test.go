// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
)

func findingOf(t *testing.T, r adapters.Report, what string) adapters.Finding {
	t.Helper()
	for _, f := range r.Findings {
		if f.What == what {
			return f
		}
	}
	t.Fatalf("nothing is said about %s: %+v", what, r.Findings)
	return adapters.Finding{}
}

// Anybody can prepare something that has our form. It is shown, and no reason to take the
// database out of service; nor is a reason to make anybody a superuser.
func TestBranchThatOnlyASuperuserCouldFinishIsNotJudged(t *testing.T) {
	b := newBank(t)
	for name, as := range map[string]string{"a superuser": "postgres", "who may become one": "deputy", "a role that is there no more": "ghost"} {
		t.Run(name, func(t *testing.T) {
			b.run("drop role if exists deputy, ghost", "create role deputy", "grant postgres to deputy", "create role ghost")
			x := newXID()
			x.Cluster++
			b.run("begin; set local role " + as + "; select pg_current_xact_id(); prepare transaction '" + x.String() + "'")
			if as == "ghost" {
				b.run("drop role ghost")
			}
			recovery := b.as("recovery", "")
			report, err := recovery.Check(b.ctx)
			require.NoError(t, err)
			require.True(t, report.OK(), "%+v", report)
			f := findingOf(t, report, "finishing branches of other roles")
			require.NotEmpty(t, f.Fix)
			require.Contains(t, f.Fix, "by hand")
			require.NotContains(t, f.Fix, "GRANT")
			b.run("rollback prepared '" + x.String() + "'")
		})
	}
}

// run runs statements as the superuser.
func (b *bank) run(statements ...string) {
	b.Helper()
	for _, sql := range statements {
		_, err := b.admin.Exec(b.ctx, sql, pgx.QueryExecModeSimpleProtocol)
		require.NoError(b, err, sql)
	}
}
