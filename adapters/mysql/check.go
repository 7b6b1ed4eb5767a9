// SPDX-License-Identifier: Apache-2.0

package mysql

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/mysql/sqltext"
	"github.com/concordtx/concord/txn"
)

// Check tells whether the server and the grants are fit.
func (r *Resource) Check(ctx context.Context) (report adapters.Report, err error) {
	err = r.onServer(ctx, func(c *sql.Conn, s server) (err error) {
		report.Version = s.version
		if s.flavor == flavorMySQL {
			report.Version = "MySQL " + s.version
		}
		report.Findings = append(serverFindings(s), listFinding(ctx, c))
		grants, err := sqlRows(c)(ctx, "SHOW GRANTS")
		if err != nil {
			return fmt.Errorf("read the grants: %w", err)
		}
		report.Findings = append(report.Findings, killFinding(s, grants), waitsFinding(ctx, c, s), tablesFinding(ctx,
			c))
		if r.options.NoMarker {
			report.NotLast = errLastMarker.Error()
			return nil
		}
		report.Findings = append(report.Findings, markerFinding(ctx, c, s))
		report.NotLast = notLast(ctx, c, s)
		return nil
	})
	if err != nil {
		return adapters.Report{}, fmt.Errorf("check %s: %w", r.name, advise(err))
	}
	return report, nil
}

func serverFindings(s server) []adapters.Finding {
	v := s.variables
	findings := []adapters.Finding{versionFinding(s), holdFinding(s), {What: "database", Detail: s.database}}
	if s.database == "" {
		findings[2] = adapters.Finding{What: "database", Detail: "none", Problem: true,
			Fix: "name one in the data source name"}
	}
	if engine := v["default_storage_engine"]; !strings.EqualFold(engine, "InnoDB") {
		findings = append(findings, adapters.Finding{What: "default_storage_engine",
			Detail:  engine + ": tables of other engines are not rolled back",
			Problem: true, Fix: "set default_storage_engine = InnoDB"})
	}
	for _, name := range []string{"read_only", "super_read_only"} {
		if value := v[name]; value != "" && value != "OFF" && value != "0" {
			findings = append(findings, adapters.Finding{What: name,
				Detail:  value + ": branches can neither write nor, on MariaDB, be finished",
				Problem: true, Fix: "point the resource at the primary"})
		}
	}
	if v["wsrep_on"] == "ON" {
		findings = append(findings, adapters.Finding{What: "wsrep_on",
			Detail:  "ON: Galera does not replicate XA transactions",
			Problem: true, Fix: "use a server without Galera"})
	}
	if v["group_replication_group_name"] != "" {
		findings = append(findings, adapters.Finding{What: "group_replication_group_name",
			Detail:  "set: prepared branches and changes of the primary do not go together",
			Problem: true, Fix: "use a server without group replication"})
	}
	if value := v["innodb_flush_log_at_trx_commit"]; value != "1" {
		findings = append(findings, adapters.Finding{What: "innodb_flush_log_at_trx_commit",
			Detail:  value + ": a prepared branch may not survive a crash",
			Problem: true, Fix: "set innodb_flush_log_at_trx_commit = 1"})
	}
	if v["log_bin"] == "ON" && v["sync_binlog"] != "1" {
		findings = append(findings, adapters.Finding{What: "sync_binlog",
			Detail:  v["sync_binlog"] + ": binary log and data may differ after a crash",
			Problem: true, Fix: "set sync_binlog = 1"})
	}
	return findings
}

func versionFinding(s server) adapters.Finding {
	f := adapters.Finding{What: "version", Detail: s.version}
	fit, oldest := s.atLeast(8, 0, 29), "MySQL 8.0.29"
	if s.flavor == flavorMariaDB {
		fit, oldest = s.atLeast(10, 5, 0), "MariaDB 10.5"
	}
	if !fit {
		f.Problem, f.Detail = true, s.version+": too old, a prepared branch does not survive the end of its session"
		f.Fix = "use " + oldest + " or newer"
	}
	return f
}

func holdFinding(s server) adapters.Finding {
	if s.detaches {
		return adapters.Finding{What: "xa_detach_on_prepare", Detail: "ON: any session can finish a prepared branch"}
	}
	return adapters.Finding{What: "xa_detach_on_prepare",
		Detail: "off: a prepared branch is tied to its session; recovery ends that session first"}
}

// listFinding asks the question that recovery asks.
func listFinding(ctx context.Context, c *sql.Conn) adapters.Finding {
	list, foreign, err := recoverList(ctx, sqlRows(c))
	if err != nil {
		return adapters.Finding{What: "XA RECOVER", Detail: err.Error(), Problem: true,
			Fix: "MySQL: GRANT XA_RECOVER_ADMIN ON *.* to the user of this resource"}
	}
	return adapters.Finding{What: "XA RECOVER",
		Detail: fmt.Sprintf("allowed; %d prepared branches of concord, %d of others", len(list), foreign)}
}

// killFinding: whoever lacks the grant can still end sessions of his own user, and
// that may be all that is needed.
func killFinding(s server, grants [][]string) adapters.Finding {
	privilege := "CONNECTION_ADMIN"
	if s.flavor == flavorMariaDB {
		privilege = "CONNECTION ADMIN"
	}
	for _, row := range grants {
		for _, grant := range row {
			if head, _, global := strings.Cut(grant, " ON *.* TO "); global &&
				(strings.Contains(head, privilege) || strings.Contains(head, "SUPER") || strings.Contains(head,
					"ALL PRIVILEGES")) {
				return adapters.Finding{What: privilege, Detail: "granted"}
			}
		}
	}
	return adapters.Finding{What: privilege,
		Detail: "not granted: sessions of applications can be ended only if they log in as the same user",
		Fix:    "GRANT " + privilege + " ON *.* to the user of this resource"}
}

// waitsFinding asks what a search for deadlocks asks, and for as good as nothing.
func waitsFinding(ctx context.Context, c *sql.Conn, s server) adapters.Finding {
	f := adapters.Finding{What: "deadlocks with other databases", Detail: "found"}
	_, err := listWaits(ctx, c, s, time.Hour, 1)
	if err == nil {
		return f
	}
	f.Detail = "not found, they last until a lock timeout: " + err.Error()
	f.Fix = "GRANT PROCESS ON *.* to the user of this resource"
	if s.flavor == flavorMySQL {
		f.Fix += ", and GRANT SELECT ON performance_schema.data_lock_waits"
	}
	return f
}

// tablesFinding warns of tables that take no part in transactions: what a branch did to them
// stays when it is rolled back.
func tablesFinding(ctx context.Context, c *sql.Conn) adapters.Finding {
	const most = 5
	f := adapters.Finding{What: "engines"}
	rows, err := sqlRows(c)(ctx, "SELECT t.TABLE_NAME, t.ENGINE"+withoutXA+"t.TABLE_SCHEMA = DATABASE() ORDER BY "+
		"t.TABLE_NAME")
	if err != nil {
		f.Detail = "not known: " + err.Error()
		return f
	}
	if len(rows) == 0 {
		f.Detail = "all tables take part in XA transactions"
		return f
	}
	names := make([]string, 0, most)
	for _, row := range rows[:min(len(rows), most)] {
		names = append(names, row[0]+" ("+row[1]+")")
	}
	f.Detail = fmt.Sprintf("%d tables do not support XA transactions, so what a branch does to them stays when it "+
		"is rolled back: %s", len(rows), strings.Join(names, ", "))
	if len(rows) > most {
		f.Detail += ", ..."
	}
	f.Fix = "ALTER TABLE ... ENGINE=InnoDB, or keep them out of global transactions"
	return f
}

const (
	withoutXA = " FROM information_schema.TABLES t JOIN information_schema.ENGINES e ON e.ENGINE = t.ENGINE " +
		"WHERE t.TABLE_TYPE = 'BASE TABLE' AND IFNULL(e.XA, 'NO') <> 'YES' AND "
	applications = " NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema')"
	anyHidden    = "SELECT EXISTS (SELECT 1 FROM information_schema.ROUTINES WHERE ROUTINE_SCHEMA" + applications +
		") OR EXISTS (SELECT 1 FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA" + applications + ") OR " +
		"EXISTS (SELECT 1 FROM information_schema.VIEWS WHERE TABLE_SCHEMA" + applications + ")"
	maxOutsiders = 1000
)

// outsiders are the tables of a server that take no part in transactions, as far as the user of the resource may
// see them. Only the session that changed one can tell, when it rolls back; if it dies, this is what is known.
// A server that has none, as most, leaves no doubt.
type outsiders struct {
	tables map[string]bool // their names, in lower case
	hidden bool            // statements may get there that do not name them: by a routine, a trigger or a view
}

// reached reports whether one of the texts may have changed such a table; more: there were others.
func (o outsiders) reached(texts []string, more bool) bool {
	return o.hidden || more && len(o.tables) > 0 || slices.ContainsFunc(texts, func(text string) bool {
		return len(o.tables) > 0 && sqltext.Names(text,
			func(name string) bool { return o.tables[strings.ToLower(name)] })
	})
}

// askOutsiders returns what the server says now, or has said last.
func (r *Resource) askOutsiders(ctx context.Context) outsiders {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	err := r.onServer(ctx, func(c *sql.Conn, _ server) error {
		rows, err := sqlRows(c)(ctx, "SELECT t.TABLE_NAME"+withoutXA+"t.TABLE_SCHEMA"+applications+
			fmt.Sprint(" LIMIT ", maxOutsiders))
		if err != nil {
			return err
		}
		o := outsiders{tables: make(map[string]bool, len(rows)), hidden: len(rows) == maxOutsiders}
		for _, row := range rows {
			o.tables[strings.ToLower(row[0])] = true
		}
		if len(rows) > 0 && !o.hidden {
			if rows, err = sqlRows(c)(ctx, anyHidden); err != nil {
				return err
			}
			o.hidden = len(rows) != 1 || rows[0][0] != "0"
		}
		r.outsiders.Store(&o)
		return nil
	})
	_ = err // then it counts what was said last
	return r.knownOutsiders()
}

// knownOutsiders is what the server has said last. A server that was never asked may have any.
func (r *Resource) knownOutsiders() outsiders {
	if o := r.outsiders.Load(); o != nil {
		return *o
	}
	return outsiders{hidden: true}
}

func markerFinding(ctx context.Context, c *sql.Conn, s server) adapters.Finding {
	f := adapters.Finding{What: markerTable}
	// Nothing is deleted, but the server checks table and grants.
	_, err := c.ExecContext(ctx, "DELETE FROM "+tableIn(s)+" WHERE FALSE") // #nosec G202 -- tableIn quotes
	switch {
	case err == nil:
		_, err = c.ExecContext(ctx, "SELECT holder FROM "+tableIn(s)+" WHERE FALSE") // #nosec G202 -- as above
	case isCode(err, codeNoSuchTable):
		f.Detail = "missing: the first branch creates it, if its user is allowed to"
		f.Fix = CreateMarkerTable
		return f
	}
	if err != nil {
		f.Detail, f.Problem = err.Error(), true
		f.Fix = "GRANT SELECT, INSERT, DELETE ON " + tableIn(s) +
			" to the user of this resource; if the table is missing: " + CreateMarkerTable
		return f
	}
	rows, err := sqlRows(c)(ctx, "SELECT ENGINE FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() AND "+
		"TABLE_NAME = '"+markerTable+"'")
	if err != nil || len(rows) != 1 || !strings.EqualFold(rows[0][0], "InnoDB") {
		f.Detail, f.Problem, f.Fix = "not an InnoDB table: its rows would prove nothing", true,
			"ALTER TABLE "+tableIn(s)+" ENGINE=InnoDB"
		return f
	}
	f.Detail = "there"
	return f
}

// notLast tells why the user of the resource cannot settle what it decides as the last resource; empty: he can. Nothing
// is inserted, but the server checks the grants.
func notLast(ctx context.Context, c *sql.Conn, s server) string {
	_, err := c.ExecContext(ctx, "INSERT INTO "+tableIn(s)+" (cluster, gid, branch, holder, decision) "+
		"SELECT 0, '', 0, '', '' FROM DUAL WHERE FALSE") // #nosec G202 -- tableIn quotes
	switch {
	case err == nil, isCode(err, codeNoSuchTable), isCode(err, codeNoSuchColumn):
		return "" // the first branch makes what is missing
	}
	return err.Error()
}

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
	// innodbNow is the present as InnoDB writes times: whatever zone the session is set to.
	innodbNow = "CONVERT_TZ(UTC_TIMESTAMP(), '+00:00', 'SYSTEM')"

	blockedOnMariaDB = `
SELECT w.trx_mysql_thread_id, TIMESTAMPDIFF(SECOND, w.trx_wait_started, ` + innodbNow + `), IFNULL(LEFT(w.trx_query, 120), '')
  FROM information_schema.INNODB_LOCK_WAITS l
  JOIN information_schema.INNODB_TRX b ON b.trx_id = l.blocking_trx_id
  JOIN information_schema.INNODB_TRX w ON w.trx_id = l.requesting_trx_id
 WHERE b.trx_mysql_thread_id = %d ORDER BY w.trx_wait_started LIMIT %d`
	blockedOnMySQL = `
SELECT w.trx_mysql_thread_id, TIMESTAMPDIFF(SECOND, w.trx_wait_started, ` + innodbNow + `), IFNULL(LEFT(w.trx_query, 120), '')
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
		list = append(list, adapters.Blocked{Session: "connection " + row[0], For: time.Duration(waited) * time.Second,
			Statement: row[2]})
	}
	return list, nil
}

// Who waits for whom, and since when: by transactions, which have the connection of their session. A prepared
// branch that no session has cannot be told.
const (
	waitsColumns = `
SELECT w.trx_mysql_thread_id, b.trx_mysql_thread_id,
       TIMESTAMPDIFF(SECOND, '1970-01-01 00:00:00', w.trx_wait_started)
  FROM information_schema.INNODB_TRX w`
	waitsOnMariaDB = waitsColumns + `
  JOIN information_schema.INNODB_LOCK_WAITS l ON l.requesting_trx_id = w.trx_id
  JOIN information_schema.INNODB_TRX b ON b.trx_id = l.blocking_trx_id`
	waitsOnMySQL = waitsColumns + `
  JOIN performance_schema.data_lock_waits l ON l.REQUESTING_ENGINE_TRANSACTION_ID = w.trx_id
  JOIN information_schema.INNODB_TRX b ON b.trx_id = l.BLOCKING_ENGINE_TRANSACTION_ID`
	longWaits = `
 WHERE w.trx_state = 'LOCK WAIT' AND b.trx_mysql_thread_id <> 0 AND
       w.trx_wait_started <= ` + innodbNow + ` - INTERVAL %d SECOND
 GROUP BY 1, 2, 3 ORDER BY 3, 1, 2 LIMIT %d`
)

// Waits implements adapters.WaitLister. The server counts in whole seconds.
func (r *Resource) Waits(ctx context.Context, longer time.Duration) (list []adapters.Wait, err error) {
	err = r.onServer(ctx, func(c *sql.Conn, s server) error {
		list, err = listWaits(ctx, c, s, longer, adapters.MaxWaits)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list lock waits at %s: %w", r.name, advise(err))
	}
	return list, nil
}

func listWaits(ctx context.Context, c *sql.Conn, s server, longer time.Duration, most int) ([]adapters.Wait, error) {
	query := waitsOnMariaDB
	if s.flavor == flavorMySQL {
		query = waitsOnMySQL
	}
	rows, err := sqlRows(c)(ctx, query+fmt.Sprintf(longWaits, int(longer.Seconds()), most))
	if err != nil {
		return nil, err
	}
	list := make([]adapters.Wait, 0, len(rows))
	for _, row := range rows {
		waits, err := strconv.ParseUint(row[0], 10, 64)
		blocks, err2 := strconv.ParseUint(row[1], 10, 64)
		since, err3 := strconv.ParseInt(row[2], 10, 64)
		if err := errors.Join(err, err2, err3); err != nil {
			return nil, fmt.Errorf("the server does not report connections as numbers: %w", err)
		}
		list = append(list, adapters.Wait{Session: s.sessionName(waits), For: s.sessionName(blocks),
			Since: time.Unix(since, 0)})
	}
	return list, nil
}
