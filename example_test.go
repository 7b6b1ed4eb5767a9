// SPDX-License-Identifier: Apache-2.0

package concord_test

import (
	"context"
	"errors"
	"log"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/adapters/memory"
	"github.com/concordtx/concord/adapters/postgres"
)

// A transfer between two databases. The resources here keep their data in memory; with
// adapters/postgres and adapters/mysql the two Tx methods return a pgx.Tx and a *sql.Tx.
func Example() {
	ctx := context.Background()
	c, err := concord.Dial(ctx, []string{"127.0.0.1:7420"})
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = c.Close() }() // always nil
	orders := memory.New("orders", memory.NewDisk())
	billing := memory.New("billing", memory.NewDisk())

	err = c.Run(ctx, func(ctx context.Context, tx *concord.Tx) error {
		from, err := orders.Tx(ctx, tx)
		if err != nil {
			return err
		}
		if _, err := from.Add(ctx, "alice", -500); err != nil {
			return err
		}
		to, err := billing.Tx(ctx, tx)
		if err != nil {
			return err
		}
		_, err = to.Add(ctx, "bob", 500)
		return err
	})
	var unknown *concord.UnknownError
	switch {
	case errors.Is(err, concord.ErrAborted):
		log.Print("nothing happened anywhere: ", err)
	case errors.As(err, &unknown):
		log.Print("keep the id and ask Client.Outcome later: ", unknown.GID)
	}
}

// What passes is done again by Run itself; an unknown outcome is settled, and never done again before.
func ExampleWithRetry() {
	ctx := context.Background()
	var c *concord.Client // of Dial
	transfer := func(context.Context, *concord.Tx) error { return nil }
	err := c.Run(ctx, transfer, concord.WithRetry(concord.RetryPolicy{Attempts: 10}))
	var unknown *concord.UnknownError
	if errors.As(err, &unknown) && !unknown.GID.IsZero() {
		outcome, err := c.Outcome(ctx, unknown.GID)
		log.Print(outcome, err)
	}
}

// An id that is stored with the data answers later what became of it.
func ExampleClient_Outcome() {
	ctx := context.Background()
	var c *concord.Client // of Dial
	var stored concord.ID // of a transaction that was begun with Recorded; it can be scanned from a column
	switch outcome, err := c.Outcome(ctx, stored); {
	case err != nil:
		log.Print("nobody knows now: ", err)
	case outcome == concord.Committed:
		log.Print("it happened")
	case outcome == concord.Aborted:
		log.Print("it did not, and never will")
	}
}

// PostgreSQL with pgx, and with what wants a *sql.Tx: both work in one branch, and each sees what the other did.
func Example_postgres() {
	ctx := context.Background()
	var c *concord.Client // of Dial
	pool, err := pgxpool.New(ctx, "postgres://app@127.0.0.1/orders")
	if err != nil {
		log.Fatal(err)
	}
	orders := postgres.New("orders", pool)
	err = c.Run(ctx, func(ctx context.Context, tx *concord.Tx) error {
		pg, err := orders.Tx(ctx, tx)
		if err != nil {
			return err
		}
		const take = "update account set cents = cents - $1, gid = $2 where id = $3"
		if _, err := pg.Exec(ctx, take, 500, tx.ID(), "alice"); err != nil {
			return err
		}
		db, err := orders.SQLTx(ctx, tx)
		if err != nil {
			return err
		}
		_, err = db.ExecContext(ctx, "insert into booking (account, cents) values ($1, $2)", "alice", -500)
		return err
	})
	if err != nil {
		log.Print(err)
	}
}

// A request that comes twice, because its answer was lost, is done once.
func ExampleClient_RunOnce() {
	ctx := context.Background()
	var c *concord.Client // of Dial
	once, err := c.RunOnce(ctx, "order 4711", func(ctx context.Context, tx *concord.Tx) error {
		// the work, and what whoever comes with the same key is answered:
		return tx.SetResult([]byte("receipt 17"))
	})
	if err != nil {
		log.Print("nothing was done under this key, so the same call may be made again: ", err)
		return
	}
	log.Printf("%s; done before: %v", once.Result, once.Replayed)
}

// What aborted a transaction, for those who want to know: which database said no, and whether it may say yes next time.
func ExampleAbortedError() {
	var c *concord.Client // of Dial
	err := c.Run(context.Background(), func(context.Context, *concord.Tx) error { return nil })
	var aborted *concord.AbortedError
	if errors.As(err, &aborted) {
		log.Printf("%v: %s said no, may pass: %v: %v", aborted.GID, aborted.Resource, aborted.Retryable, aborted.Err)
	}
}
