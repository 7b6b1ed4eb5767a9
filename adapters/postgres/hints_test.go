// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/txn"
)

// steps are all next steps that concord knows for its own commands.
var steps = []string{
	"make the recovery login", "grant the login", "this server is a standby", "set max_prepared_transactions", "somebody else is finishing",
	"raise max_prepared_transactions", "a branch of this name", "keep temporary tables", "belongs to another database", "run the global transaction again",
	"please report", "check user, password", "has no free connection", "check that the server runs",
}

func TestAnIgnoredErrorOfAStatementIsShownWithoutAHintForConcordsOwnCommands(t *testing.T) {
	b := newBank(t)
	_, err := b.admin.Exec(b.ctx, `create or replace function raises(code text) returns int language plpgsql as
		$$ begin raise exception 'raised' using errcode = code; end $$; create sequence if not exists counter; grant usage on counter to app`)
	require.NoError(t, err)
	for code, sql := range map[string]string{
		"42501": "select * from canary",
		"55000": "select currval('counter')",
		"42710": "select raises('42710')",
		"0A000": "select * from account for update of account nowait limit 1 offset (select 1 from account group by grouping sets ((), ()) for update)",
		"25001": "vacuum",
		"53200": "select raises('53200')",
		"40P01": "select raises('40P01')",
		"40001": "select raises('40001')",
		"28000": "select raises('28000')",
		"3D000": "select raises('3D000')",
		"53300": "select raises('53300')",
		"57014": "select raises('57014')",
		"57P01": "select raises('57P01')",
		"08006": "select raises('08006')",
		"42704": "set role nobody_at_all",
		"22P02": "select 'x'::int",
		"26000": "execute nothing",
	} {
		t.Run(code, func(t *testing.T) {
			if code == "42704" {
				code = "22023"
			}
			for _, end := range []func(*session) error{
				func(s *session) error {
					vote, _, err := s.Prepare(b.ctx)
					require.Equal(t, txn.VoteNo, vote)
					return err
				},
				func(s *session) error {
					err := s.CommitOnePhase(b.ctx)
					require.ErrorIs(t, err, adapters.ErrNotCommitted)
					return err
				},
			} {
				s, _ := b.work()
				ignored := do(b.ctx, s, sql)
				require.Equal(t, code, sqlState(ignored), "%v", ignored)
				err := end(s)
				require.NotErrorIs(t, err, adapters.ErrTorn)
				require.ErrorContains(t, err, "your closure ignored this error: "+ignored.Error())
				require.True(t, strings.HasSuffix(err.Error(), ignored.Error()), "%v", err)
				for _, step := range steps {
					require.NotContains(t, err.Error(), step)
				}
			}
		})
	}
}

// Deferred triggers are the application's, though PREPARE TRANSACTION and COMMIT run them.
func TestAnErrorOfADeferredTriggerHasNoHintForConcordsOwnCommands(t *testing.T) {
	b := newBank(t)
	_, err := b.admin.Exec(b.ctx, `drop table if exists guarded; create table guarded (code text); grant all on guarded to app;
		create or replace function refuses() returns trigger language plpgsql as
			$$ begin raise exception 'refused' using errcode = new.code; end $$;
		create constraint trigger refuses after insert on guarded deferrable initially deferred for each row execute function refuses()`)
	require.NoError(t, err)
	for _, code := range []string{"42501", "55000", "42710", "0A000", "53200", "25001", "28000", "53300", "57P01", "42704", "22P02", "26000"} {
		for operation, end := range map[string]func(*session) error{
			"prepare": func(s *session) error { _, _, err := s.Prepare(b.ctx); return err },
			"commit":  func(s *session) error { return s.CommitOnePhase(b.ctx) },
		} {
			t.Run(code+" at "+operation, func(t *testing.T) {
				s, _ := b.work()
				b.do(s, "insert into guarded values ($1)", code)
				err := end(s)
				require.Equal(t, code, sqlState(err), "%v", err)
				for _, step := range steps {
					require.NotContains(t, err.Error(), step)
				}
				require.NotErrorIs(t, err, adapters.ErrTorn)
			})
		}
	}
}

func TestTheNextStepBelongsToTheOperation(t *testing.T) {
	all := []operation{asking, preparing, committing, finishing}
	for code, want := range map[string]map[operation]string{
		"42501": {finishing: "recovery login", asking: "grant the login"},
		"55000": {preparing: "max_prepared_transactions above 0", finishing: "somebody else"},
		"53200": {preparing: "raise max_prepared_transactions"},
		"42710": {preparing: "of this name"},
		"0A000": {preparing: "keep temporary tables", finishing: "another database"},
		"25006": {finishing: "standby"},
		"25001": {finishing: "please report"},
		"40001": {preparing: "again", committing: "again"},
		"40P01": {preparing: "again", committing: "again"},
		"55P03": {preparing: "again", committing: "again"},
		"28P01": {asking: "password", preparing: "password", committing: "password", finishing: "password"},
		"3D000": {asking: "database of the", preparing: "database of the", committing: "database of the", finishing: "database of the"},
		"53300": {asking: "max_connections", preparing: "max_connections", committing: "max_connections", finishing: "max_connections"},
		"57P03": {asking: "server runs", preparing: "server runs", committing: "server runs", finishing: "server runs"},
		"23505": {},
	} {
		for _, op := range all {
			step := nextStep(op, fmt.Errorf("wrapped: %w", &pgconn.PgError{Code: code}))
			if want[op] == "" {
				require.Empty(t, step, "%s in %d", code, op)
				continue
			}
			require.Contains(t, step, want[op], "%s in %d", code, op)
		}
	}
}
