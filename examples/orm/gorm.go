// SPDX-License-Identifier: Apache-2.0

package orm

import (
	"context"
	"database/sql"
	"errors"

	gormmysql "gorm.io/driver/mysql"
	gormpostgres "gorm.io/driver/postgres"
	"gorm.io/gorm"
	"gorm.io/gorm/logger"
)

// withGorm opens a *gorm.DB over each branch, which sends nothing.
func withGorm(ctx context.Context, orders, billing *sql.Tx, o Order) error {
	// Each needs a configuration of its own: gorm writes into it.
	pg, err := gorm.Open(gormpostgres.New(gormpostgres.Config{Conn: orders}), &gorm.Config{Logger: logger.Discard})
	if err != nil {
		return err
	}
	my, err := gorm.Open(gormmysql.New(gormmysql.Config{Conn: billing, SkipInitializeWithVersion: true}),
		&gorm.Config{Logger: logger.Discard})
	if err != nil {
		return err
	}
	pg, my = pg.WithContext(ctx), my.WithContext(ctx)
	if err := errors.Join(pg.Create(&o).Error,
		my.Create(&Invoice{ID: o.ID, Cents: o.Cents, State: "new"}).Error); err != nil {
		return err
	}
	// A transaction within one is a savepoint.
	if err := pg.Transaction(func(inner *gorm.DB) error {
		if err := inner.Create(&o).Error; err == nil {
			return nil
		}
		return errTwice
	}); !errors.Is(err, errTwice) {
		return err
	}
	return errors.Join(pg.Model(&Order{}).Where("id = ?", o.ID).Update("state", "billed").Error,
		my.Model(&Invoice{}).Where("id = ?", o.ID).Update("state", "billed").Error)
}
