// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/txn"
)

const (
	benchRows   = 100_000
	benchUpdate = "update bench set v = v + 1 where id = $1"
)

// BenchmarkBranch compares one random update through a branch with the plain loop that
// has the same durability, and with the statements of two-phase commit sent by hand.
func BenchmarkBranch(b *testing.B) {
	if shared == nil {
		b.Skip("PostgreSQL: NOT RUN (not installed)")
	}
	ctx := context.Background()
	// The first change of a page after a checkpoint writes the whole page to the log. The
	// update of all rows takes that from whichever way is measured first.
	require.NoError(b, shared.Exec(ctx, "", "drop table if exists bench",
		"create table bench (id int primary key, v bigint not null default 0) with (fillfactor = 50)",
		fmt.Sprintf("insert into bench select generate_series(1, %d)", benchRows), "grant all on bench to app",
		"checkpoint", "update bench set v = 1", "vacuum analyze bench"))
	pool := newPool(b, shared.UserDSN("app", "", "")+"&pool_max_conns=32")
	r, bare := New("bank", pool), New("bank", pool, WithoutMarker())
	for _, way := range []struct {
		name string
		once func(context.Context) error
	}{
		{"plain begin, update, commit", func(ctx context.Context) error { return plainOnce(ctx, pool) }},
		{"branch in one phase", func(ctx context.Context) error { return onePhaseOnce(ctx, r) }},
		{"two phases by hand", func(ctx context.Context) error { return byHandOnce(ctx, pool) }},
		{"branch in two phases without marker", func(ctx context.Context) error { return twoPhaseOnce(ctx, bare) }},
		{"branch in two phases", func(ctx context.Context) error { return twoPhaseOnce(ctx, r) }},
	} {
		for _, workers := range []int{1, 8} {
			b.Run(fmt.Sprintf("%s/workers=%d", way.name, workers),
				func(b *testing.B) { inParallel(b, workers, way.once) })
		}
	}
}

func inParallel(b *testing.B, workers int, once func(context.Context) error) {
	turns, errs := make(chan struct{}), make(chan error, workers)
	for range workers { // connections and statements are known before the clock runs
		go func() { errs <- once(context.Background()) }()
	}
	for range workers {
		require.NoError(b, <-errs)
	}
	for range workers {
		go func() {
			var first error
			for range turns {
				if err := once(context.Background()); err != nil && first == nil {
					first = err
				}
			}
			errs <- first
		}()
	}
	for b.Loop() {
		turns <- struct{}{}
	}
	close(turns)
	for range workers {
		require.NoError(b, <-errs)
	}
}

func benchRow() int { return 1 + rand.IntN(benchRows) }

func plainOnce(ctx context.Context, pool *pgxpool.Pool) error {
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, benchUpdate, benchRow())
		return err
	})
}

func byHandOnce(ctx context.Context, pool *pgxpool.Pool) error {
	x := newXID()
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	if _, err := conn.Exec(ctx, "begin"); err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, benchUpdate, benchRow()); err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, prepareText(x)); err != nil {
		return err
	}
	_, err = conn.Exec(ctx, finishText(x, txn.Commit))
	return err
}

func onePhaseOnce(ctx context.Context, r *Resource) error {
	s, err := r.Open(ctx, newXID())
	if err != nil {
		return err
	}
	if err := do(ctx, s, benchUpdate, benchRow()); err != nil {
		return err
	}
	return s.CommitOnePhase(ctx)
}

func twoPhaseOnce(ctx context.Context, r *Resource) error {
	s, err := r.Open(ctx, newXID())
	if err != nil {
		return err
	}
	if err := do(ctx, s, benchUpdate, benchRow()); err != nil {
		return err
	}
	if vote, _, err := s.Prepare(ctx); err != nil || vote != txn.VoteYes {
		return fmt.Errorf("vote %s: %w", vote, err)
	}
	if found, err := s.Commit(ctx); err != nil || found != txn.Done {
		return fmt.Errorf("commit %s: %w", found, err)
	}
	return nil
}
