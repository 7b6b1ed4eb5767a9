// SPDX-License-Identifier: Apache-2.0

package mysql

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/txn"
)

// Inspect implements adapters.Inspector. Who waits for a branch the servers tell only of one that hangs on
// its session.
func (r *Resource) Inspect(ctx context.Context, x txn.XID) (found adapters.Inspection, err error) {
	err = r.onServer(ctx, func(c *sql.Conn, s server) error {
		list, _, err := recoverList(ctx, sqlRows(c))
		if err != nil {
			return err
		}
		found.Prepared = slices.ContainsFunc(list, func(p adapters.Prepared) bool { return p.XID == x })
		trace, row, err := r.readMarker(ctx, c, s, x)
		if err != nil {
			return err
		}
		found.Committed = trace == committed && !found.Prepared
		if row == nil || !found.Prepared {
			return nil
		}
		found.Siblings = parseSiblings(row[1], x.Branch)
		if h, _ := parseHolder(row[0]); h.of(s) {
			found.Blocked, err = blocked(ctx, c, s, h)
		}
		return err
	})
	if err != nil {
		return adapters.Inspection{}, fmt.Errorf("inspect %s at %s: %w", x, r.name, advise(err))
	}
	return found, nil
}

const (
	blockedOnMariaDB = `
SELECT w.trx_mysql_thread_id, TIMESTAMPDIFF(SECOND, w.trx_wait_started, NOW()), IFNULL(LEFT(w.trx_query, 120), '')
  FROM information_schema.INNODB_LOCK_WAITS l
  JOIN information_schema.INNODB_TRX b ON b.trx_id = l.blocking_trx_id
  JOIN information_schema.INNODB_TRX w ON w.trx_id = l.requesting_trx_id
 WHERE b.trx_mysql_thread_id = %d ORDER BY w.trx_wait_started LIMIT %d`
	blockedOnMySQL = `
SELECT w.trx_mysql_thread_id, TIMESTAMPDIFF(SECOND, w.trx_wait_started, NOW()), IFNULL(LEFT(w.trx_query, 120), '')
  FROM performance_schema.data_lock_waits l
  JOIN information_schema.INNODB_TRX b ON b.trx_id = l.BLOCKING_ENGINE_TRANSACTION_ID
  JOIN information_schema.INNODB_TRX w ON w.trx_id = l.REQUESTING_ENGINE_TRANSACTION_ID
 WHERE b.trx_mysql_thread_id = %d ORDER BY w.trx_wait_started LIMIT %d`
)

// blocked asks whom the session of a branch keeps waiting. A login that may not ask goes without.
func blocked(ctx context.Context, c *sql.Conn, s server, h holder) ([]adapters.Blocked, error) {
	query := blockedOnMariaDB
	if s.flavor == flavorMySQL {
		query = blockedOnMySQL
	}
	rows, err := sqlRows(c)(ctx, fmt.Sprintf(query, h.connection, adapters.MaxBlocked))
	if _, answered := codeOf(err); answered {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	list := make([]adapters.Blocked, 0, len(rows))
	for _, row := range rows {
		waited, _ := strconv.Atoi(row[1])
		list = append(list, adapters.Blocked{Session: "connection " + row[0], For: time.Duration(waited) * time.Second, Statement: row[2]})
	}
	return list, nil
}
