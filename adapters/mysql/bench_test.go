// SPDX-License-Identifier: Apache-2.0

package mysql

import (
	"context"
	"database/sql"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters/adaptertest"
	"github.com/concordtx/concord/internal/testdb"
	"github.com/concordtx/concord/txn"
)

// BenchmarkBranch: begin, update one row, prepare, commit, one after another. The loop
// beside it sends the same XA statements on one connection, with nothing around them.
func BenchmarkBranch(b *testing.B) {
	for _, f := range flavors[:2] {
		b.Run(f.name, func(b *testing.B) {
			server := f.start(b)
			ctx := context.Background()
			require.NoError(b, server.Exec(ctx, "", "CREATE DATABASE "+database))
			require.NoError(b, server.Exec(ctx, database,
				"CREATE TABLE kv (k VARCHAR(40) PRIMARY KEY, v BIGINT NOT NULL)", "INSERT INTO kv VALUES ('A', 1)"))
			b.Run("plain XA", func(b *testing.B) { benchPlain(ctx, b, server) })
			b.Run("without marker", func(b *testing.B) { benchBranch(ctx, b, server, Options{NoMarker: true}) })
			b.Run("with marker", func(b *testing.B) { benchBranch(ctx, b, server, Options{}) })
			b.Run("one phase", func(b *testing.B) { benchOnePhase(ctx, b, server) })
			b.Run("read-only", func(b *testing.B) { benchReadOnly(ctx, b, server, "") })
			b.Run("read-only, as sqlc writes it",
				func(b *testing.B) { benchReadOnly(ctx, b, server, "-- name: GetV :one\n") })
		})
	}
}

func benchPlain(ctx context.Context, b *testing.B, server *testdb.Server) {
	db, err := sql.Open("mysql", server.DSN(database))
	require.NoError(b, err)
	defer db.Close()
	c, err := db.Conn(ctx)
	require.NoError(b, err)
	defer c.Close()
	for i := 0; b.Loop(); i++ {
		name := xa(newXID())
		for _, statement := range []string{"XA START " + name, fmt.Sprintf("UPDATE kv SET v = %d WHERE k = 'A'", i),
			"XA END " + name, "XA PREPARE " + name, "XA COMMIT " + name} {
			if _, err := c.ExecContext(ctx, statement); err != nil {
				b.Fatal(err)
			}
		}
	}
}

func benchBranch(ctx context.Context, b *testing.B, server *testdb.Server, o Options) {
	benchSessions(ctx, b, server, o, func(i int, s *session, tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, fmt.Sprintf("UPDATE kv SET v = %d WHERE k = 'A'", -i)); err != nil {
			return err
		}
		if vote, _, err := s.Prepare(ctx); vote != txn.VoteYes {
			return fmt.Errorf("voted %v: %w", vote, err)
		}
		_, err := s.Commit(ctx)
		return err
	})
}

func benchOnePhase(ctx context.Context, b *testing.B, server *testdb.Server) {
	benchSessions(ctx, b, server, Options{}, func(i int, s *session, tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, fmt.Sprintf("UPDATE kv SET v = %d WHERE k = 'A'", i)); err != nil {
			return err
		}
		return s.CommitOnePhase(ctx)
	})
}

func benchReadOnly(ctx context.Context, b *testing.B, server *testdb.Server, comment string) {
	benchSessions(ctx, b, server, Options{}, func(_ int, s *session, tx *sql.Tx) error {
		var v int64
		if err := tx.QueryRowContext(ctx, comment+"SELECT v FROM kv WHERE k = 'A'").Scan(&v); err != nil {
			return err
		}
		if vote, _, err := s.Prepare(ctx); vote != txn.VoteReadOnly {
			return fmt.Errorf("voted %v: %w", vote, err)
		}
		return nil
	})
}

func benchSessions(ctx context.Context, b *testing.B, server *testdb.Server, o Options,
	do func(i int, s *session, tx *sql.Tx) error) {
	r, err := OpenWithOptions("db", server.DSN(database), o)
	require.NoError(b, err)
	defer r.Close()
	for i := 0; b.Loop(); i++ {
		s, err := r.Open(ctx, newXID())
		if err != nil {
			b.Fatal(err)
		}
		tx, err := r.Tx(ctx, adaptertest.Enlisted(s))
		if err == nil {
			err = do(i, s.(*session), tx)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}
