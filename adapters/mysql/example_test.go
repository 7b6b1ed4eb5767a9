// SPDX-License-Identifier: Apache-2.0

package mysql_test

import (
	"context"
	"log"

	sqldriver "github.com/go-sql-driver/mysql"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/adapters/mysql"
)

func ExampleNewConnector() {
	config, err := sqldriver.ParseDSN("app:secret@tcp(127.0.0.1:3306)/billing")
	if err != nil {
		log.Fatal(err)
	}
	connector, err := mysql.NewConnector(config)
	if err != nil {
		log.Fatal(err)
	}
	billing := mysql.New("billing", connector)
	defer func() { _ = billing.Close() }()
}

func ExampleResource_Tx() {
	var c *concord.Client       // of concord.Dial
	var billing *mysql.Resource // of mysql.New
	err := c.Run(context.Background(), func(ctx context.Context, tx *concord.Tx) error {
		my, err := billing.Tx(ctx, tx)
		if err != nil {
			return err
		}
		_, err = my.ExecContext(ctx, "update account set cents = cents + ?, gid = ? where id = ?", 500, tx.ID(), "bob")
		return err
	})
	if err != nil {
		log.Print(err)
	}
}
