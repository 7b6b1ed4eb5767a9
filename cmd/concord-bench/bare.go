// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/concordtx/concord/cmd/internal/bank"
	"github.com/concordtx/concord/txn"
)

// bare moves money by two-phase commit without a coordinator: what a careful
// programmer writes who has no log. One statement for each round trip, the work in a
// fixed order, prepares and commits in parallel, on the pools that concord uses too. If
// it dies between the phases nobody can tell how a transfer ended; its names are not of
// concord's grammar, so no coordinator touches what it leaves behind.
type bare struct {
	legs [2]bareLeg
	run  string // begins all names of this run
	next atomic.Uint64
}

// bareLeg is one of the databases.
type bareLeg interface {
	// work opens a transaction and changes one balance in it.
	work(ctx context.Context, name string, account int, amount int64) (bareBranch, error)
}

// bareBranch is one open transaction. Whoever has it calls commit after a prepare
// without error, or rollback; both give the connection back.
type bareBranch interface {
	prepare(ctx context.Context) error
	commit(ctx context.Context) error
	rollback(ctx context.Context) error
}

func newBare(first, second bank.Bank) (*bare, error) {
	b := &bare{run: "bare-" + strings.ToLower(txn.NewID(time.Now()).String())}
	for i, k := range []bank.Bank{first, second} {
		switch k := k.(type) {
		case *bank.Postgres:
			b.legs[i] = postgresLeg{k}
		case *bank.MySQL:
			b.legs[i] = mysqlLeg{k}
		default:
			return nil, fmt.Errorf("bank %s: there is no plain loop for %s", k.Name(), k.Driver())
		}
	}
	return b, nil
}

// transfer moves amount from an account of the first database to one of the second.
func (b *bare) transfer(ctx context.Context, from, to int, amount int64) error {
	name := fmt.Sprintf("%s-%d", b.run, b.next.Add(1))
	first, err := b.legs[0].work(ctx, name, from, -amount)
	if err != nil {
		return err
	}
	second, err := b.legs[1].work(ctx, name, to, amount)
	if err != nil {
		return errors.Join(err, first.rollback(ctx))
	}
	branches := [2]bareBranch{first, second}
	if err := inParallel(branches, func(br bareBranch) error { return br.prepare(ctx) }); err != nil {
		return errors.Join(err, inParallel(branches, func(br bareBranch) error { return br.rollback(ctx) }))
	}
	return inParallel(branches, func(br bareBranch) error { return br.commit(ctx) })
}

func inParallel(branches [2]bareBranch, do func(bareBranch) error) error {
	other := make(chan error, 1)
	go func() { other <- do(branches[1]) }()
	return errors.Join(do(branches[0]), <-other)
}

type postgresLeg struct{ bank *bank.Postgres }

type postgresBranch struct {
	conn     *pgxpool.Conn
	name     string
	prepared bool
}

func (l postgresLeg) work(ctx context.Context, name string, account int, amount int64) (bareBranch, error) {
	conn, err := l.bank.Pool.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	b := &postgresBranch{conn: conn, name: name}
	if _, err := conn.Exec(ctx, "BEGIN"); err != nil {
		return nil, errors.Join(err, b.rollback(ctx))
	}
	tag, err := conn.Exec(ctx, l.bank.Update(), amount, account)
	if err == nil && tag.RowsAffected() != 1 {
		err = fmt.Errorf("account %d of %s is not there", account, l.bank.Name())
	}
	if err != nil {
		return nil, errors.Join(err, b.rollback(ctx))
	}
	return b, nil
}

func (b *postgresBranch) prepare(ctx context.Context) error {
	tag, err := b.conn.Exec(ctx, "PREPARE TRANSACTION '"+b.name+"'")
	if err == nil && tag.String() != "PREPARE TRANSACTION" {
		err = fmt.Errorf("prepare %s: the server did %s", b.name, tag)
	}
	b.prepared = err == nil
	return err
}

func (b *postgresBranch) commit(ctx context.Context) error {
	defer b.conn.Release()
	_, err := b.conn.Exec(ctx, "COMMIT PREPARED '"+b.name+"'")
	return err
}

func (b *postgresBranch) rollback(ctx context.Context) error {
	defer b.conn.Release() // which ends the connection if it is still in a transaction
	command := "ROLLBACK"
	if b.prepared {
		command = "ROLLBACK PREPARED '" + b.name + "'"
	}
	_, err := b.conn.Exec(ctx, command)
	return err
}

type mysqlLeg struct{ bank *bank.MySQL }

type mysqlBranch struct {
	conn *sql.Conn
	xid  string // as the XA commands want it
}

func (l mysqlLeg) work(ctx context.Context, name string, account int, amount int64) (bareBranch, error) {
	conn, err := l.bank.DB.Conn(ctx)
	if err != nil {
		return nil, err
	}
	b := &mysqlBranch{conn: conn, xid: fmt.Sprintf("X'%x',X'00',1", name)}
	if err := b.exec(ctx, "XA START "); err != nil {
		return nil, errors.Join(err, b.giveBack(err))
	}
	result, err := conn.ExecContext(ctx, l.bank.Update(), amount, account)
	if err == nil {
		err = oneRow(result, account, l.bank)
	}
	if err != nil {
		return nil, errors.Join(err, b.rollback(ctx))
	}
	return b, nil
}

func oneRow(result sql.Result, account int, k bank.Bank) error {
	if rows, err := result.RowsAffected(); err != nil || rows != 1 {
		return errors.Join(err, fmt.Errorf("account %d of %s is not there", account, k.Name()))
	}
	return nil
}

func (b *mysqlBranch) exec(ctx context.Context, command string) error {
	_, err := b.conn.ExecContext(ctx, command+b.xid)
	return err
}

func (b *mysqlBranch) prepare(ctx context.Context) error {
	if err := b.exec(ctx, "XA END "); err != nil {
		return err
	}
	return b.exec(ctx, "XA PREPARE ")
}

func (b *mysqlBranch) commit(ctx context.Context) error {
	err := b.exec(ctx, "XA COMMIT ")
	return errors.Join(err, b.giveBack(err))
}

// rollback first ends the work, which fails if that was done before.
func (b *mysqlBranch) rollback(ctx context.Context) error {
	_ = b.exec(ctx, "XA END ")
	err := b.exec(ctx, "XA ROLLBACK ")
	return errors.Join(err, b.giveBack(err))
}

// giveBack keeps a connection that failed from the next one who wants it: the pool
// does not notice that it is inside a transaction.
func (b *mysqlBranch) giveBack(failure error) error {
	if failure != nil {
		_ = b.conn.Raw(func(any) error { return driver.ErrBadConn }) // returns what it is given
	}
	if err := b.conn.Close(); !errors.Is(err, sql.ErrConnDone) {
		return err
	}
	return nil
}

// leftBehind counts what this run has left prepared, under concord's names and its own.
func (b *bare) leftBehind(ctx context.Context, k bank.Bank, cluster txn.ClusterID) (int, error) {
	ours := "concord-" + cluster.String() + "-"
	if p, ok := k.(*bank.Postgres); ok {
		var n int
		err := p.Pool.QueryRow(ctx, `SELECT count(*) FROM pg_prepared_xacts WHERE starts_with(gid, $1) OR `+
			`starts_with(gid, $2)`, ours, b.run).Scan(&n)
		return n, err
	}
	rows, err := k.(*bank.MySQL).DB.QueryContext(ctx, "XA RECOVER")
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	n := 0
	for rows.Next() {
		var format, gtrid, bqual int64
		var data string
		if err := rows.Scan(&format, &gtrid, &bqual, &data); err != nil {
			return 0, err
		}
		if strings.HasPrefix(data, ours) || strings.HasPrefix(data, b.run) {
			n++
		}
	}
	return n, rows.Err()
}
