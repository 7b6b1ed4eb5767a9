// SPDX-License-Identifier: Apache-2.0

package bank

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	sqldriver "github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/mysql"
	"github.com/concordtx/concord/adapters/pebble"
	"github.com/concordtx/concord/adapters/postgres"
	"github.com/concordtx/concord/cmd/internal/config"
	"github.com/concordtx/concord/txn"
)

// FirstBalance is what each account has at first.
const FirstBalance = 1000

// Bank is a database with accounts.
type Bank interface {
	adapters.Resource
	// Fill makes the accounts anew, each with FirstBalance.
	Fill(ctx context.Context) error
	// Add changes the balance of an account as part of tx.
	Add(ctx context.Context, tx adapters.Global, account int, amount int64) error
	// Sum adds up what is committed.
	Sum(ctx context.Context) (int64, error)
}

// Ledger is the table of accounts of a bank.
type Ledger struct {
	Table    string // of an SQL database
	Accounts int
	// Conns is how many connections an SQL database keeps for transfers; 0: the driver's default.
	Conns int
}

// OpenSQL opens a configured database. Nothing is connected yet.
func OpenSQL(ctx context.Context, c config.Resource, l Ledger) (Bank, error) {
	dsn, err := c.Secret()
	if err != nil {
		return nil, err
	}
	return OpenDSN(ctx, c.Name, c.Driver, dsn.Reveal(), l)
}

// OpenDSN is OpenSQL of a database whose data source name is known.
func OpenDSN(ctx context.Context, name, driver, dsn string, l Ledger) (Bank, error) {
	switch driver {
	case "postgres":
		return openPostgres(ctx, name, dsn, l)
	case "mysql":
		return openMySQL(name, dsn, l)
	}
	return nil, fmt.Errorf("driver %s has no accounts: give a database of driver postgres or mysql", driver)
}

func openPostgres(ctx context.Context, name, dsn string, l Ledger) (*Postgres, error) {
	conf, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		// the driver's text may hold the password
		return nil, errors.New("its dsn is not a PostgreSQL URL or keyword string")
	}
	if l.Conns > 0 {
		conf.MaxConns = int32(l.Conns)
	}
	// The limits of a branch, from the start, so that no branch has to set them.
	conf.ConnConfig.RuntimeParams["lock_timeout"] = fmt.Sprint(postgres.DefaultLockTimeout.Milliseconds())
	conf.ConnConfig.RuntimeParams["idle_in_transaction_session_timeout"] = fmt.Sprint(
		postgres.DefaultIdleTimeout.Milliseconds())
	pool, err := pgxpool.NewWithConfig(ctx, conf)
	if err != nil {
		return nil, err
	}
	return &Postgres{postgres.New(name, pool), pool, l}, nil
}

func openMySQL(name, dsn string, l Ledger) (*MySQL, error) {
	conf, err := sqldriver.ParseDSN(dsn)
	if err != nil {
		return nil, errors.New("its dsn is not of the form user:password@tcp(host:port)/database")
	}
	conf.InterpolateParams = true // one round trip for each statement
	connector, err := mysql.NewConnector(conf)
	if err != nil {
		return nil, err
	}
	db := sql.OpenDB(connector)
	if l.Conns > 0 {
		db.SetMaxOpenConns(l.Conns)
		db.SetMaxIdleConns(l.Conns)
	}
	return &MySQL{mysql.NewWithOptions(name, connector, mysql.Options{MaxOpen: l.Conns}), db, l}, nil
}

// Pebble is an embedded store with accounts.
type Pebble struct {
	*pebble.Resource
	Ledger
}

// OpenPebble opens the store in a directory, which is made if there is none.
func OpenPebble(name, dir string, l Ledger) (*Pebble, error) {
	r, err := pebble.Open(name, dir)
	if err != nil {
		return nil, err
	}
	return &Pebble{r, l}, nil
}

func accountKey(n int) []byte { return fmt.Appendf(nil, "account/%03d", n) }

func (b *Pebble) Fill(ctx context.Context) error {
	tx := &Local{}
	t, err := b.Tx(ctx, tx)
	for n := 0; n < b.Accounts && err == nil; n++ {
		err = t.Set(ctx, accountKey(n), binary.BigEndian.AppendUint64(nil, FirstBalance))
	}
	if err != nil {
		return err
	}
	return tx.Commit(ctx)
}

func (b *Pebble) Add(ctx context.Context, tx adapters.Global, account int, amount int64) error {
	t, err := b.Tx(ctx, tx)
	if err != nil {
		return err
	}
	value, found, err := t.Get(ctx, accountKey(account))
	if err != nil {
		return err
	}
	if !found || len(value) != 8 {
		return fmt.Errorf("account %d of %s is not there", account, b.Name())
	}
	balance := int64(binary.BigEndian.Uint64(value)) + amount
	return t.Set(ctx, accountKey(account), binary.BigEndian.AppendUint64(nil, uint64(balance)))
}

func (b *Pebble) Sum(context.Context) (total int64, err error) {
	for n := range b.Accounts {
		value, found, err := b.Get(accountKey(n))
		if err != nil || !found || len(value) != 8 {
			return 0, fmt.Errorf("account %d: found %v: %w", n, found, err)
		}
		total += int64(binary.BigEndian.Uint64(value))
	}
	return total, nil
}

// Local is a transaction of one resource that no coordinator knows of.
type Local struct{ session adapters.Session }

// Commit ends it.
func (t *Local) Commit(ctx context.Context) error { return t.session.CommitOnePhase(ctx) }

// Enlist implements adapters.Global.
func (t *Local) Enlist(ctx context.Context, r adapters.Opener) (s adapters.Session, err error) {
	if t.session == nil {
		t.session, err = r.Open(ctx, txn.XID{ID: txn.NewID(time.Now())})
	}
	return t.session, err
}

// Postgres is a PostgreSQL database with accounts.
type Postgres struct {
	*postgres.Resource
	Pool *pgxpool.Pool
	Ledger
}

func (b *Postgres) Fill(ctx context.Context) error {
	for _, q := range []string{
		// Half of each page is left for new versions of its rows, so that the index stays as it is.
		`CREATE TABLE IF NOT EXISTS ` + b.Table +
			` (id int PRIMARY KEY, balance bigint NOT NULL) WITH (fillfactor = 50)`,
		`TRUNCATE ` + b.Table,
	} {
		if _, err := b.Pool.Exec(ctx, q); err != nil {
			return err
		}
	}
	_, err := b.Pool.Exec(ctx, `INSERT INTO `+b.Table+` SELECT n, $1 FROM generate_series(0, $2 - 1) n`, FirstBalance,
		b.Accounts)
	return err
}

func (b *Postgres) Add(ctx context.Context, tx adapters.Global, account int, amount int64) error {
	t, err := b.Tx(ctx, tx)
	if err != nil {
		return err
	}
	_, err = t.Exec(ctx, b.Update(), amount, account)
	return err
}

// Update is the statement that changes one balance.
func (b *Postgres) Update() string {
	return `UPDATE ` + b.Table + ` SET balance = balance + $1 WHERE id = $2`
}

func (b *Postgres) Sum(ctx context.Context) (total int64, err error) {
	err = b.Pool.QueryRow(ctx, `SELECT sum(balance)::bigint FROM `+b.Table).Scan(&total)
	return total, err
}

func (b *Postgres) Close() error {
	b.Pool.Close()
	return b.Resource.Close()
}

// MySQL is a MySQL or MariaDB database with accounts.
type MySQL struct {
	*mysql.Resource
	DB *sql.DB
	Ledger
}

func (b *MySQL) Fill(ctx context.Context) error {
	for _, q := range []string{
		`CREATE TABLE IF NOT EXISTS ` + b.Table + ` (id INT PRIMARY KEY, balance BIGINT NOT NULL) ENGINE=InnoDB`,
		`TRUNCATE ` + b.Table,
	} {
		if _, err := b.DB.ExecContext(ctx, q); err != nil {
			return err
		}
	}
	const most = 10_000 // rows in one statement
	for first := 0; first < b.Accounts; first += most {
		var rows []string
		for n := first; n < min(first+most, b.Accounts); n++ {
			rows = append(rows, fmt.Sprintf("(%d,%d)", n, FirstBalance))
		}
		// #nosec G202 -- numbers, and a table that the caller names in its source
		if _, err := b.DB.ExecContext(ctx, `INSERT INTO `+b.Table+` VALUES `+strings.Join(rows, ",")); err != nil {
			return err
		}
	}
	return nil
}

func (b *MySQL) Add(ctx context.Context, tx adapters.Global, account int, amount int64) error {
	t, err := b.Tx(ctx, tx)
	if err != nil {
		return err
	}
	_, err = t.ExecContext(ctx, b.Update(), amount, account)
	return err
}

// Update is the statement that changes one balance.
func (b *MySQL) Update() string {
	return `UPDATE ` + b.Table + ` SET balance = balance + ? WHERE id = ?`
}

func (b *MySQL) Sum(ctx context.Context) (total int64, err error) {
	err = b.DB.QueryRowContext(ctx, `SELECT CAST(SUM(balance) AS SIGNED) FROM `+b.Table).Scan(&total)
	return total, err
}

func (b *MySQL) Close() error { return errors.Join(b.Resource.Close(), b.DB.Close()) }
