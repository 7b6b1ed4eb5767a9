// SPDX-License-Identifier: Apache-2.0

package concord_test

import (
	"context"
	"errors"
	"log"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/adapters/memory"
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
	case errors.As(err, &unknown):
		log.Print("keep the id and ask Client.Outcome later: ", unknown.GID)
	case errors.Is(err, concord.ErrAborted):
		log.Print("nothing happened anywhere: ", err)
	}
}
