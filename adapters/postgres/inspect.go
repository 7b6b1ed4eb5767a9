// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/txn"
)

// blockedText lists sessions that wait for a lock which a prepared transaction holds. Its locks
// have no process; they go by its transaction number.
const blockedText = `
select a.pid, coalesce((extract(epoch from clock_timestamp() - w.waitstart) * 1000)::bigint, 0),
       coalesce(a.datname::text, ''), coalesce(a.usename::text, ''), left(regexp_replace(a.query, '\s+', ' ', 'g'), 120)
  from pg_locks h
  join pg_locks w on not w.granted and w.locktype = h.locktype
       and (w.database, w.relation, w.page, w.tuple, w.transactionid, w.classid, w.objid, w.objsubid)
           is not distinct from (h.database, h.relation, h.page, h.tuple, h.transactionid, h.classid, h.objid, h.objsubid)
  join pg_stat_activity a on a.pid = w.pid
 where h.granted and h.pid is null
   and h.virtualtransaction = (select t.virtualtransaction from pg_locks t
                                where t.pid is null and t.locktype = 'transactionid'
                                  and t.transactionid = (select transaction from pg_prepared_xacts where gid = $1))
 order by w.waitstart nulls last, a.pid limit $2`

// Inspect implements adapters.Inspector.
func (r *Resource) Inspect(ctx context.Context, x txn.XID) (found adapters.Inspection, err error) {
	err = r.with(ctx, func(conn *pgx.Conn) error {
		is, err := look(ctx, conn, x)
		if err != nil {
			return err
		}
		found.Prepared, found.Siblings = is.me != "", is.siblings
		if found.Prepared {
			found.Blocked, err = blocked(ctx, conn, nameOf(x, is.siblings))
			return err
		}
		found.Committed, err = marked(ctx, conn, x)
		return err
	})
	return found, r.explain(asking, "inspect "+x.String(), err)
}

func blocked(ctx context.Context, conn *pgx.Conn, name string) ([]adapters.Blocked, error) {
	rows, err := conn.Query(ctx, blockedText, pgx.QueryExecModeExec, name, adapters.MaxBlocked)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (adapters.Blocked, error) {
		var pid int32
		var waited int64
		var database, user, statement string
		err := row.Scan(&pid, &waited, &database, &user, &statement)
		return adapters.Blocked{Session: sessionName(pid, user, database), For: time.Duration(waited) * time.Millisecond, Statement: statement}, err
	})
}

func sessionName(pid int32, user, database string) string {
	return fmt.Sprintf("process %d of %s in %s", pid, user, database)
}
