// SPDX-License-Identifier: Apache-2.0

package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

// reserved begins the names of our tables.
const reserved = "concord_"

var tables = []string{
	"CREATE TABLE concord_markers (cluster INTEGER NOT NULL, gid TEXT NOT NULL, branch INTEGER NOT NULL, " +
		"decision TEXT NOT NULL, PRIMARY KEY (cluster, gid, branch)) WITHOUT ROWID, STRICT",
	"CREATE TABLE concord_water (cluster INTEGER PRIMARY KEY, at TEXT NOT NULL, floor TEXT NOT NULL) STRICT",
	"CREATE TABLE concord_file (name TEXT NOT NULL) STRICT",
}

const (
	pagesText = "SELECT page_count FROM pragma_page_count"
	thereText = "SELECT count(*) > 0 FROM sqlite_schema WHERE type = 'table' AND name = 'concord_file'"

	insertText = "INSERT INTO concord_markers (cluster, gid, branch, decision) VALUES (?, ?, ?, ?)"
	readText   = "SELECT decision FROM concord_markers WHERE cluster = ? AND gid = ? AND branch = ?"
	forgetText = "DELETE FROM concord_markers WHERE cluster = ? AND gid = ? AND branch = ?"
	listText   = "SELECT cluster, gid, branch FROM concord_markers WHERE (cluster, gid, branch) > (?, ?, ?) " +
		"ORDER BY cluster, gid, branch LIMIT ?"
	waterText = "SELECT at, floor FROM concord_water WHERE cluster = ?"
	raiseText = "INSERT INTO concord_water (cluster, at, floor) VALUES (?, ?, ?) " +
		"ON CONFLICT DO UPDATE SET at = excluded.at, floor = excluded.floor"
)

func markerKey(x txn.XID) []any { return []any{int64(x.Cluster), x.ID.String(), int64(x.Branch)} }

// makeTables makes what is missing, and returns the name of the file. A new file gets a write-ahead log.
func makeTables(ctx context.Context, db *sql.DB) (name string, err error) {
	var pages int
	if err := db.QueryRowContext(ctx, pagesText).Scan(&pages); err != nil {
		return "", err
	}
	if pages == 0 {
		if _, err := db.ExecContext(ctx, "PRAGMA journal_mode = WAL"); err != nil && !isBusy(err) { // by another opener
			return "", err
		}
	}
	there, err := hasTables(ctx, db)
	if err == nil && !there {
		err = inTx(ctx, db, func(tx *sql.Tx) error { return makeTablesIn(ctx, tx) })
	}
	if err != nil {
		return "", err
	}
	err = db.QueryRowContext(ctx, "SELECT name FROM concord_file").Scan(&name)
	return name, err
}

func hasTables(ctx context.Context, q rowQuerier) (there bool, err error) {
	err = q.QueryRowContext(ctx, thereText).Scan(&there)
	return there, err
}

// makeTablesIn makes all tables, if nobody was faster.
func makeTablesIn(ctx context.Context, tx *sql.Tx) error {
	if there, err := hasTables(ctx, tx); err != nil || there {
		return err
	}
	for _, text := range tables {
		if _, err := tx.ExecContext(ctx, text); err != nil {
			return err
		}
	}
	_, err := tx.ExecContext(ctx, "INSERT INTO concord_file VALUES (?)", txn.NewID(time.Now()).String())
	return err
}

// inTx does something in a transaction of its own, which is durable when it returns nil.
func inTx(ctx context.Context, db *sql.DB, do func(*sql.Tx) error) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := do(tx); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

// Forget removes markers. It waits for a branch that writes.
func (r *Resource) Forget(ctx context.Context, xs []txn.XID) error {
	if len(xs) == 0 {
		return ctx.Err()
	}
	return r.explain("forget branches", inTx(ctx, r.db, func(tx *sql.Tx) error { return forgetIn(ctx, tx, xs) }))
}

func forgetIn(ctx context.Context, tx *sql.Tx, xs []txn.XID) error {
	if len(xs) == 0 {
		return nil
	}
	stmt, err := tx.PrepareContext(ctx, forgetText)
	if err != nil {
		return err
	}
	defer stmt.Close()
	for _, x := range xs {
		if _, err := stmt.ExecContext(ctx, markerKey(x)...); err != nil {
			return err
		}
	}
	return nil
}

// Evidence lists the markers that are kept.
func (r *Resource) Evidence(ctx context.Context, after txn.XID) ([]txn.XID, error) {
	xs, err := r.listMarkers(ctx, after)
	return xs, r.explain("list the evidence", err)
}

func (r *Resource) listMarkers(ctx context.Context, after txn.XID) (xs []txn.XID, err error) {
	rows, err := r.db.QueryContext(ctx, listText, append(markerKey(after), adapters.EvidencePage)...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var cluster, branch int64
		var gid string
		if err := rows.Scan(&cluster, &gid, &branch); err != nil {
			return nil, err
		}
		id, err := txn.ParseID(gid)
		if err != nil {
			return nil, err
		}
		xs = append(xs, txn.XID{Cluster: txn.ClusterID(cluster), ID: id, Branch: txn.BranchNo(branch)})
	}
	return xs, rows.Err()
}

// Settle implements adapters.Settler.
func (r *Resource) Settle(ctx context.Context, c txn.ClusterID, id txn.ID) (txn.LastMarker, error) {
	m, err := r.settle(ctx, txn.LastXID(c, id))
	if isBusy(err) {
		err = adapters.ErrLastHeld
	}
	return m, r.explain("settle "+id.String(), err)
}

func (r *Resource) settle(ctx context.Context, x txn.XID) (m txn.LastMarker, err error) {
	if err := r.notBehind(ctx, r.db); err != nil {
		return m, err
	}
	return adapters.SettleMarker(func(text string) (bool, error) {
		_, err := r.db.ExecContext(ctx, insertText, append(markerKey(x), text)...)
		if isDuplicate(err) {
			return false, nil
		}
		return err == nil, err
	}, func() (text string, found bool, err error) {
		err = r.db.QueryRowContext(ctx, readText, markerKey(x)...).Scan(&text)
		if errors.Is(err, sql.ErrNoRows) {
			return "", false, nil
		}
		return text, err == nil, err
	})
}

type rowQuerier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// Expect implements adapters.Marked.
func (r *Resource) Expect(c txn.ClusterID, least zab.Zxid) { r.expected.Expect(c, least) }

func (r *Resource) notBehind(ctx context.Context, q rowQuerier) error {
	if err := r.inPlace(); err != nil {
		return err
	}
	e := r.expected.Now()
	if e.IsZero() {
		return nil
	}
	_, err := r.compareWater(ctx, q, e.Cluster)
	return err
}

// compareWater reads the row of a cluster, and compares it with what was expected before.
func (r *Resource) compareWater(ctx context.Context, q rowQuerier, c txn.ClusterID) (has txn.HighWater, err error) {
	e := r.expected.Now()
	var at, floor string
	switch err = q.QueryRowContext(ctx, waterText, int64(c)).Scan(&at, &floor); {
	case errors.Is(err, sql.ErrNoRows):
		err = nil
	case err == nil:
		if has.At, err = txn.ParseRowText(at); err == nil {
			has.Floor, err = txn.ParseRowText(floor)
		}
	}
	if err == nil && e.Behind(c, has) {
		err = adapters.ErrBehind
	}
	return has, err
}

// HighWater implements adapters.Marked.
func (r *Resource) HighWater(ctx context.Context, c txn.ClusterID) (txn.HighWater, error) {
	has, err := r.compareWater(ctx, r.db, c)
	return has, r.explain("read the high-water row", err)
}

// Raise implements adapters.Marked.
func (r *Resource) Raise(ctx context.Context, c txn.ClusterID, to txn.HighWater, spent []txn.XID) (now txn.HighWater,
	err error) {
	err = inTx(ctx, r.db, func(tx *sql.Tx) error {
		if now, err = r.compareWater(ctx, tx, c); err != nil {
			return err
		}
		if err := forgetIn(ctx, tx, spent); err != nil || !now.Less(to) {
			return err
		}
		now = to
		_, err := tx.ExecContext(ctx, raiseText, int64(c), txn.RowText(to.At), txn.RowText(to.Floor))
		return err
	})
	return now, r.explain("raise the high-water row", err)
}
