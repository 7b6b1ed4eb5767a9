// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"log"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/adaptertest"
	"github.com/concordtx/concord/txn"
)

func sqlOf(t testing.TB, s adapters.Session) *sql.Tx {
	t.Helper()
	tx, err := s.(*session).r.SQLTx(context.Background(), adaptertest.Enlisted(s))
	require.NoError(t, err)
	return tx
}

func TestASQLTxIsTheSameBranch(t *testing.T) {
	b := newBank(t)
	s, x := b.work() // through pgx
	tx := sqlOf(t, s)
	var v int64
	require.NoError(t, tx.QueryRowContext(b.ctx, "select v from account where k = $1", x.ID).Scan(&v))
	require.EqualValues(t, 1, v)
	result, err := tx.ExecContext(b.ctx, "update account set v = v + 1 where k = $1", x.ID.String())
	require.NoError(t, err)
	n, err := result.RowsAffected()
	require.NoError(t, err)
	require.EqualValues(t, 1, n)
	_, err = result.LastInsertId()
	require.Error(t, err, "PostgreSQL knows none: RETURNING does")
	require.NoError(t, handleOf(t, s).QueryRow(b.ctx, "select v from account where k = $1", x.ID.String()).Scan(&v))
	require.EqualValues(t, 2, v)

	require.NoError(t, tx.Commit(), "which says that this part is done")
	_, err = tx.ExecContext(b.ctx, "select 1")
	require.ErrorIs(t, err, sql.ErrTxDone)
	next, other := sqlOf(t, s), sqlOf(t, s)
	require.NoError(t, next.QueryRow("update account set v = v * 10 where k = $1 returning v", x.ID.String()).Scan(&v))
	require.NoError(t, other.QueryRow("select v from account where k = $1", x.ID.String()).Scan(&v))
	require.EqualValues(t, 20, v)

	b.prepare(s) // with two of them open
	_, err = s.Commit(b.ctx)
	require.NoError(t, err)
	got, found := b.value(x.ID.String())
	require.True(t, found)
	require.EqualValues(t, 20, got)
	_, err = next.Exec("insert into account values ('late', 1)")
	require.Error(t, err)
	b.clean()
}

func TestABranchThatOnlyASQLTxWorkedInCommits(t *testing.T) {
	b := newBank(t)
	for name, end := range map[string]func(*session) error{
		"two phases": func(s *session) error { b.prepare(s); _, err := s.Commit(b.ctx); return err },
		"one phase":  func(s *session) error { return s.CommitOnePhase(b.ctx) },
	} {
		t.Run(name, func(t *testing.T) {
			x := newXID()
			s := b.begin(x)
			tx := sqlOf(t, s)
			_, err := tx.Exec("insert into account values ($1, $2)", x.ID, 7)
			require.NoError(t, err)
			require.False(t, s.OnlyRead())
			require.NoError(t, end(s))
			got, _ := b.value(x.ID.String())
			require.EqualValues(t, 7, got)
			b.clean()
		})
	}
}

func TestASQLTxThatRollsBackOrFailsMakesTheBranchAbort(t *testing.T) {
	b := newBank(t)
	for name, c := range map[string]struct {
		do   func(*sql.Tx) error
		code string
	}{
		"rolled back": {do: func(tx *sql.Tx) error { return tx.Rollback() }},
		"a statement": {do: func(tx *sql.Tx) error {
			_, err := tx.Exec("insert into account values ('x', 1), ('x', " +
				"1)")
			return err
		}, code: "23505"},
		"a query": {do: func(tx *sql.Tx) error { _, err := tx.Query("select 1 / 0"); return err }, code: "22012"},
		"a prepared one": {do: func(tx *sql.Tx) error {
			st, err := tx.Prepare("select 1 / $1::int")
			require.NoError(t, err)
			return st.QueryRow(0).Scan(new(int))
		}, code: "22012"},
		"a row in the middle": {do: func(tx *sql.Tx) error {
			return drain(tx.Query("select 1 / (3 - n) from " +
				"generate_series(1, 5) n"))
		}, code: "22012"},
		"committed all the same": {do: func(tx *sql.Tx) error { _, _ = tx.Exec("selec"); return tx.Commit() },
			code: "42601"},
	} {
		t.Run(name, func(t *testing.T) {
			s, _ := b.work()
			err := c.do(sqlOf(t, s))
			if c.code != "" {
				require.Error(t, err)
				requireTold(t, s, err)
				var answer *pgconn.PgError
				require.ErrorAs(t, err, &answer)
				require.Equal(t, c.code, answer.Code)
			}
			vote, _, err := s.Prepare(b.ctx)
			require.Error(t, err)
			require.Equal(t, txn.VoteNo, vote)
			b.clean()
		})
	}
}

// stacks is what all goroutines do.
func stacks() string {
	buf := make([]byte, 1<<20)
	return string(buf[:runtime.Stack(buf, true)])
}

// drain reads all rows.
func drain(rows *sql.Rows, err error) error {
	if err != nil {
		return err
	}
	for rows.Next() {
		if err := rows.Scan(new(any)); err != nil {
			return err
		}
	}
	return errors.Join(rows.Err(), rows.Close())
}

func TestASavepointOfASQLTxHealsTheBranch(t *testing.T) {
	b := newBank(t)
	s, x := b.work()
	tx := sqlOf(t, s)
	for _, statement := range []string{"savepoint sp1", "insert into account values ('half', 1)"} {
		_, err := tx.Exec(statement)
		require.NoError(t, err)
	}
	_, err := tx.Exec("insert into account values ('half', 1)")
	require.Equal(t, "23505", sqlState(err))
	_, err = tx.Exec("rollback to savepoint sp1")
	require.NoError(t, err)
	require.NoError(t, tx.Commit())
	b.prepare(s)
	_, err = s.Commit(b.ctx)
	require.NoError(t, err)
	_, found := b.value("half")
	require.False(t, found)
	_, found = b.value(x.ID.String())
	require.True(t, found)
}

func TestASQLTxReadsAndWritesTheTypesOfGo(t *testing.T) {
	b := newBank(t)
	s, _ := b.work()
	tx := sqlOf(t, s)
	at := time.Date(2026, 2, 3, 4, 5, 6, 789000, time.UTC)
	rows, err := tx.Query(`select $1::bool, $2::bytea, $3::int2, $4::int8, $5::float8, $6::numeric, $7::text, $8::timestamptz, $9::date, $10::uuid, $11::jsonb, $12::int[],
		null::int, $13::varchar(7)`, true, []byte{0, 1, 255}, int16(-3), int64(1)<<60, 1.5, "12345678901234567890.05", "naïve", at, at, "7e9a3c1e-54a7-4f0e-8d6e-111111111111",
		json.RawMessage(`{"a": 1}`), []int{1, 2}, "seven")
	require.NoError(t, err)
	names, err := rows.ColumnTypes()
	require.NoError(t, err)
	require.Equal(t, []string{"BOOL", "BYTEA", "INT2", "INT8", "FLOAT8", "NUMERIC", "TEXT", "TIMESTAMPTZ", "DATE",
		"UUID", "JSONB", "_INT4", "INT4", "VARCHAR"}, typeNames(names))
	require.True(t, rows.Next())
	var (
		yes            bool
		data           []byte
		small          int16
		large          int64
		half           float64
		number, text   string
		when, day      time.Time
		id, list, name string
		document       json.RawMessage
		none           sql.NullInt64
	)
	require.NoError(t, rows.Scan(&yes, &data, &small, &large, &half, &number, &text, &when, &day, &id, &document,
		&list, &none, &name))
	require.False(t, rows.Next())
	require.NoError(t, rows.Close())
	require.True(t, yes)
	require.Equal(t, []byte{0, 1, 255}, data)
	require.EqualValues(t, -3, small)
	require.Equal(t, int64(1)<<60, large)
	require.InDelta(t, 1.5, half, 0)
	require.Equal(t, "12345678901234567890.05", number)
	require.Equal(t, "naïve", text)
	require.True(t, at.Equal(when), "%v", when)
	require.Equal(t, "2026-02-03", day.Format(time.DateOnly))
	require.Equal(t, "7e9a3c1e-54a7-4f0e-8d6e-111111111111", id)
	require.JSONEq(t, `{"a":1}`, string(document))
	require.Equal(t, "{1,2}", list)
	require.False(t, none.Valid)
	require.Equal(t, "seven", name)
	_, err = tx.Exec("select $1", sql.Named("k", 1))
	require.ErrorContains(t, err, `argument "k" is named, but PostgreSQL numbers its arguments: write $1`)
	require.NoError(t, s.Rollback(b.ctx))
}

func typeNames(types []*sql.ColumnType) (names []string) {
	for _, t := range types {
		names = append(names, t.DatabaseTypeName())
	}
	return names
}

func TestSQLTxTakesOptionsBeforeItsFirstStatement(t *testing.T) {
	b := newBank(t)
	s := b.begin(newXID())
	tx, err := b.SQLTxWith(b.ctx, adaptertest.Enlisted(s), TxOptions{Isolation: pgx.Serializable, ReadOnly: true})
	require.NoError(t, err)
	var isolation, readOnly string
	require.NoError(t, tx.QueryRow("select current_setting('transaction_isolation'), "+
		"current_setting('transaction_read_only')").Scan(&isolation, &readOnly))
	require.Equal(t, []string{"serializable", "on"}, []string{isolation, readOnly})
	_, err = b.SQLTxWith(b.ctx, adaptertest.Enlisted(s), TxOptions{Isolation: pgx.RepeatableRead})
	require.Error(t, err)
	require.NoError(t, s.Rollback(b.ctx))
}

// Whatever the application has left open, the branch ends, its connection goes back, and nothing of the
// *sql.Tx is left.
func TestNothingOfASQLTxOutlivesItsBranch(t *testing.T) {
	b := newBank(t)
	for name, leave := range map[string]func(*testing.T, *session, *sql.Tx){
		"untouched": func(*testing.T, *session, *sql.Tx) {},
		"worked in": func(t *testing.T, _ *session, tx *sql.Tx) {
			_, err := tx.Exec("select 1")
			require.NoError(t,
				err)
		},
		"open rows": func(t *testing.T, _ *session, tx *sql.Tx) {
			_, err := tx.Query("select * from generate_series(1, 100000)")
			require.NoError(t, err)
		},
		"a row unread": func(_ *testing.T, _ *session, tx *sql.Tx) { _ = tx.QueryRow("select 1") },
		"in the middle of a statement": func(_ *testing.T, s *session, tx *sql.Tx) {
			go func() { _, _ = tx.Exec("select pg_sleep(30)") }()
			b.busy(s)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := b.begin(newXID())
			leave(t, s, sqlOf(t, s))
			require.NoError(t, s.Rollback(b.ctx))
			_, err := b.SQLTx(b.ctx, adaptertest.Enlisted(s))
			require.ErrorIs(t, err, adapters.ErrBranchEnded)
			b.clean()
			b.eventually(func() bool { return !strings.Contains(stacks(), "database/sql.") })
		})
	}
}

// Other drivers copy through a prepared statement. Here the server would wait for ever.
func TestCopyThroughAStatementIsRefused(t *testing.T) {
	b := newBank(t)
	const copyIn = "/* as another driver does it */ copy account (k, v) from stdin"
	for name, call := range map[string]func(*session) error{
		"exec":  func(s *session) error { _, err := sqlOf(t, s).Exec(copyIn); return err },
		"query": func(s *session) error { _, err := sqlOf(t, s).Query(copyIn); return err },
		"prepared": func(s *session) error {
			st, err := sqlOf(t, s).Prepare(copyIn)
			require.NoError(t, err)
			_, err = st.Exec("k", 1)
			return err
		},
		"pgx": func(s *session) error { _, err := handleOf(t, s).Exec(b.ctx, copyIn); return err },
	} {
		t.Run(name, func(t *testing.T) {
			s, _ := b.work()
			require.ErrorContains(t, call(s), "COPY FROM STDIN waits for data that nobody sends: use CopyFrom of "+
				"the pgx.Tx that Resource.Tx returns")
			b.votesNo(s, "")
		})
	}
}

// A pgx.Tx is what code that sqlc has generated wants: New(pg).
func ExampleResource_Tx() {
	ctx := context.Background()
	var c *concord.Client // of concord.Dial
	pool, err := pgxpool.New(ctx, "postgres://app@127.0.0.1/orders")
	if err != nil {
		log.Fatal(err)
	}
	orders := New("orders", pool)
	err = c.Run(ctx, func(ctx context.Context, tx *concord.Tx) error {
		pg, err := orders.Tx(ctx, tx)
		if err != nil {
			return err
		}
		_, err = pg.Exec(ctx, "update account set cents = cents - $1, gid = $2 where id = $3", 500, tx.ID(), "alice")
		return err
	})
	if err != nil {
		log.Print(err)
	}
}

// An ORM works in the branch when it is handed the *sql.Tx. Handed its own pool it would work beside the transaction,
// and what it does there is not undone.
func ExampleResource_SQLTx() {
	var c *concord.Client // of concord.Dial
	var orders *Resource  // of New
	err := c.Run(context.Background(), func(ctx context.Context, tx *concord.Tx) error {
		db, err := orders.SQLTx(ctx, tx)
		if err != nil {
			return err
		}
		// With gorm: gorm.Open(gormpostgres.New(gormpostgres.Config{Conn: db})). examples/orm has the others.
		var cents int64
		return db.QueryRowContext(ctx, "update account set cents = cents - $1 where id = $2 returning cents", 500,
			"alice").Scan(&cents)
	})
	if err != nil {
		log.Print(err)
	}
}
