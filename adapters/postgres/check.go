// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/txn"
)

// Recover implements adapters.Resource. A standby lists nothing, whatever is prepared,
// so it is an error here.
func (r *Resource) Recover(ctx context.Context) ([]adapters.Prepared, error) {
	var list []adapters.Prepared
	err := r.with(ctx, func(conn *pgx.Conn) (err error) {
		list, err = recoverOn(ctx, conn)
		return err
	})
	if err != nil {
		return nil, r.explain(asking, "list prepared branches", err)
	}
	return list, nil
}

func recoverOn(ctx context.Context, conn *pgx.Conn) ([]adapters.Prepared, error) {
	var standby bool
	if err := conn.QueryRow(ctx, "select pg_is_in_recovery()",
		pgx.QueryExecModeSimpleProtocol).Scan(&standby); err != nil {
		return nil, err
	}
	if standby {
		return nil, errors.New("this server is a standby and lists nothing: point the resource at the primary")
	}
	found, err := conn.Query(ctx, listText, pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		return nil, err
	}
	defer found.Close()
	var list []adapters.Prepared
	for found.Next() {
		var gid, owner string
		var since time.Time
		if err := found.Scan(&gid, &since, &owner); err != nil {
			return nil, err
		}
		if p, ours := parseListed(gid, owner, since); ours {
			list = append(list, p)
		}
	}
	return list, found.Err()
}

// parseListed reads a row of pg_prepared_xacts, whose gid may be anybody's.
func parseListed(gid, owner string, since time.Time) (adapters.Prepared, bool) {
	n, ours := parseName(gid)
	if !ours {
		return adapters.Prepared{}, false
	}
	return adapters.Prepared{XID: n.XID, Since: since, Owner: owner, Last: n.last}, true
}

// Limits of the preflight.
const (
	oldestVersion  = 140000 // pg_terminate_backend waits since 14
	forgottenAfter = 5 * time.Minute
	horizonLimit   = 100_000_000 // transactions that a forgotten branch may hold back vacuum
)

// state is what Check asks for, in one statement.
type state struct {
	number          int // server_version_num
	version         string
	standby, fsync  bool
	allowed, used   int   // prepared transactions of the whole server
	horizon         int64 // age of the oldest prepared transaction in transactions
	login           string
	maySignal       bool
	mayWatch        bool
	noticesLostPeer bool
	now             time.Time
	ours            []adapters.Prepared
	foreign         []string // owners of ours whose role the login cannot take, and may be granted
	mighty          []string // likewise, and must not be granted: superusers, and who may become one
	gone            int      // of ours, how many have an owner that is there no more
	marker          *bool    // the login may read and remove markers; nil if there is no table
	mayMark         bool     // we may write a row in their table
	mayDecide       bool     // that has room for the markers of last resources, or we may make it
}

const stateText = `
select current_setting('server_version_num')::int, current_setting('server_version'),
       pg_is_in_recovery(), current_setting('fsync')::bool,
       current_setting('max_prepared_transactions')::int, (select count(*) from pg_prepared_xacts)::int,
       (select coalesce(max(age(transaction)), 0)::bigint from pg_prepared_xacts),
       current_user::text, pg_has_role('pg_signal_backend', 'usage'), pg_has_role('pg_read_all_stats', 'usage'),
       coalesce(current_setting('client_connection_check_interval', true), '0') <> '0', now()`

const foreignText = `
select coalesce(array_agg(distinct owner) filter (where id is not null and not mighty), '{}'),
       coalesce(array_agg(distinct owner) filter (where mighty), '{}'),
       count(*) filter (where id is null)::int
  from (select owner, r.oid as id,
      exists (select from pg_roles s where s.rolsuper and pg_has_role(r.oid, s.oid, 'member'))
    as mighty
          from unnest($1::text[]) as owner left join pg_roles r on r.rolname = owner
         where case when r.oid is null then not (select rolsuper from pg_roles where rolname = current_user)
               else not pg_has_role(r.oid, 'member') end) as stranger`

// Check implements adapters.Resource.
func (r *Resource) Check(ctx context.Context) (adapters.Report, error) {
	var s state
	if err := r.with(ctx, func(conn *pgx.Conn) error { return s.ask(ctx, conn) }); err != nil {
		return adapters.Report{}, r.explain(asking, "check", err)
	}
	report := adapters.Report{Version: "PostgreSQL " + s.version, Findings: s.findings()}
	if s.allowed == 0 {
		report.NotBranch = "max_prepared_transactions is 0"
	}
	switch {
	case r.noMarker:
		report.NotLast = errLastMarker.Error()
	case s.marker != nil && !s.mayMark:
		report.NotLast = s.login + " may not write " + markerTable
	case s.marker != nil && !s.mayDecide:
		report.NotLast = "the marker table comes from an earlier release: have its owner run " + AddDecisions
	}
	return report, nil
}

func (s *state) ask(ctx context.Context, conn *pgx.Conn) error {
	err := conn.QueryRow(ctx, stateText, pgx.QueryExecModeExec).Scan(&s.number, &s.version, &s.standby, &s.fsync,
		&s.allowed, &s.used, &s.horizon, &s.login, &s.maySignal, &s.mayWatch, &s.noticesLostPeer, &s.now)
	if err != nil || s.standby {
		return err
	}
	if s.ours, err = recoverOn(ctx, conn); err != nil {
		return err
	}
	var owners []string
	for _, p := range s.ours {
		owners = append(owners, p.Owner)
	}
	if err := conn.QueryRow(ctx, foreignText, pgx.QueryExecModeExec, owners).Scan(&s.foreign, &s.mighty,
		&s.gone); err != nil {
		return err
	}
	return conn.QueryRow(ctx, mayForgetText, pgx.QueryExecModeExec).Scan(&s.marker, &s.mayMark, &s.mayDecide)
}

// oldest is the age of our oldest branch; the list is in order of time.
func (s state) oldest() time.Duration {
	if len(s.ours) == 0 {
		return 0
	}
	return s.now.Sub(s.ours[0].Since).Round(time.Second)
}

func (s state) findings() []adapters.Finding {
	return []adapters.Finding{
		finding("version", s.version, s.number < oldestVersion, "upgrade to PostgreSQL 14 or newer"),
		finding("role of the server", choose(s.standby, "standby", "primary"), s.standby,
			"point the resource at the primary"),
		finding("fsync", choose(s.fsync, "on", "off: a prepared branch does not survive a crash"), !s.fsync,
			"set fsync = on and restart"),
		s.room(),
		s.privileges(),
		s.evidence(),
		finding("ending sessions of others",
			choose(s.maySignal, "allowed", fmt.Sprintf("%s may end only sessions of its own roles", s.login)), false,
			choose(s.maySignal, "", "GRANT pg_signal_backend TO "+identifier(s.login))),
		finding("deadlocks with other databases", choose(s.mayWatch, "found", fmt.Sprintf("found only among "+
			"sessions of %s's own roles: others last until a lock timeout", s.login)), false,
			choose(s.mayWatch, "", "GRANT pg_read_all_stats TO "+identifier(s.login))),
		hint("oldest prepared branch", s.oldest().String(), s.oldest() > forgottenAfter,
			"see what it waits for with \"concord recover\""),
		hint("oldest prepared transaction of the server", fmt.Sprintf("%d transactions ago", s.horizon),
			s.horizon > horizonLimit,
			"end it: it holds back vacuum for the whole server (select * from pg_prepared_xacts order by prepared)"),
		finding("lost clients", choose(s.noticesLostPeer, "noticed while a statement runs",
			"noticed only when a statement has ended"), false,
			choose(s.noticesLostPeer, "", "set client_connection_check_interval = '1s'")),
	}
}

func (s state) evidence() adapters.Finding {
	switch {
	case s.marker == nil:
		return adapters.Finding{What: markerTable, Detail: "missing: the first branch creates it, if its role is " +
			"allowed to",
			Fix: CreateMarkerTable}
	case !*s.marker:
		return adapters.Finding{What: markerTable, Detail: s.login + " may not read and remove the markers of branches",
			Problem: true,
			Fix: fmt.Sprintf("GRANT USAGE ON SCHEMA concord TO %[1]s; GRANT SELECT, DELETE ON %[2]s TO %[1]s",
				identifier(s.login), markerTable)}
	}
	return hint(markerTable, choose(s.mayMark, "there", "there; "+s.login+" may not write its own row in it, so a "+
		"database that was set back would not be recognised"), !s.mayMark,
		fmt.Sprintf("GRANT INSERT ON %s TO %s", markerTable, identifier(s.login)))
}

func (s state) room() adapters.Finding {
	const what, fix = "max_prepared_transactions",
		"set max_prepared_transactions = 200 (at least the sum of all pools) and restart"
	if s.allowed == 0 {
		return adapters.Finding{What: what, Detail: "0: prepared transactions are disabled, so it takes part as the " +
			"last resource or alone", Fix: fix}
	}
	// A full table is no reason not to finish what is in it.
	return hint(what, fmt.Sprintf("%d of %d in use", s.used, s.allowed), s.used >= s.allowed,
		fix+", and look for forgotten branches with \"concord recover\"")
}

// privileges says whose branches the login may not finish. That is no judgement: they may be
// those of another cluster, and anybody can make one that looks like ours. It never advises to
// become a superuser.
func (s state) privileges() adapters.Finding {
	const what = "finishing branches of other roles"
	var details, fixes []string
	if len(s.foreign) > 0 {
		details = append(details, fmt.Sprintf("%s is not a member of %s", s.login, strings.Join(s.foreign, ", ")))
		for _, owner := range s.foreign {
			fixes = append(fixes, fmt.Sprintf("GRANT %s TO %s", identifier(owner), identifier(s.login)))
		}
		fixes = append(fixes, "if these are roles of your applications")
	}
	if len(s.mighty) > 0 {
		details = append(details, fmt.Sprintf("branches are prepared by %s, who may do anything",
			strings.Join(s.mighty, ", ")))
		fixes = append(fixes, "give applications roles of their own that are not superusers, and end by hand what "+
			"is prepared")
	}
	if s.gone > 0 {
		details = append(details, fmt.Sprintf("%d branches belong to roles that no longer exist", s.gone))
		fixes = append(fixes, "end those by hand")
	}
	if len(details) == 0 {
		return adapters.Finding{What: what, Detail: s.login + " may finish everything that is prepared now"}
	}
	return adapters.Finding{What: what, Detail: strings.Join(details, "; "), Fix: strings.Join(fixes, "; ")}
}

// hint is a finding about what the server holds at the moment: worth a look, and no reason to take
// the resource out of service.
func hint(what, detail string, look bool, fix string) adapters.Finding {
	if !look {
		fix = ""
	}
	return adapters.Finding{What: what, Detail: detail, Fix: fix}
}

// finding leaves out the fix of what is fine and needs none.
func finding(what, detail string, problem bool, fix string) adapters.Finding {
	f := adapters.Finding{What: what, Detail: detail, Problem: problem, Fix: fix}
	if !problem && !strings.HasPrefix(fix, "GRANT") && !strings.HasPrefix(fix, "set client") {
		f.Fix = ""
	}
	return f
}

func choose(condition bool, yes, no string) string {
	if condition {
		return yes
	}
	return no
}

func identifier(name string) string { return pgx.Identifier{name}.Sanitize() }

// Validate implements adapters.Resource. A number that no server gives out would make each
// question about the branch fail, for ever.
func (r *Resource) Validate(b txn.Branch) error {
	if b.Evidence != "" {
		if err := validEvidence(b.Evidence); err != nil {
			return fmt.Errorf("evidence: %w", err)
		}
	}
	if b.Holder != "" {
		if h, err := parseHolder(b.Holder); err != nil || h.pid > math.MaxInt32 {
			return fmt.Errorf("holder: %w", errEvidence)
		}
	}
	return nil
}

func validEvidence(s string) error {
	e, err := parseEvidence(s)
	if err != nil {
		return err
	}
	for _, n := range []struct {
		text string
		bits int
	}{{e.number, 64}, {e.system, 64}, {e.database, 32}} {
		v, err := strconv.ParseUint(n.text, 10, n.bits)
		if err != nil || strconv.FormatUint(v, 10) != n.text {
			return errEvidence
		}
	}
	return nil
}

// blockedText lists sessions that wait for a lock which a prepared transaction holds. Its locks
// have no process; they go by its transaction number.
const blockedText = `
select a.pid, coalesce((extract(epoch from clock_timestamp() - w.waitstart) * 1000)::bigint, 0),
       coalesce(a.datname::text, ''), coalesce(a.usename::text, ''), left(regexp_replace(a.query, '\s+', ' ', 'g'), 120)
  from pg_locks h
  join pg_locks w on not w.granted and w.locktype = h.locktype
       and (w.database, w.relation, w.page, w.tuple, w.transactionid, w.classid, w.objid, w.objsubid)
           is not distinct from (h.database, h.relation, h.page, h.tuple, h.transactionid,
             h.classid, h.objid, h.objsubid)
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
			found.Blocked, err = blocked(ctx, conn, is.nameFor(x))
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
		return adapters.Blocked{Session: sessionName(pid, user, database),
			For: time.Duration(waited) * time.Millisecond, Statement: statement}, err
	})
}

// waitsText lists who waits, and for whom. A wait is that of the database that the waiting session is in. A
// prepared transaction has no process: a session waits for its number.
const waitsText = `
with waiting as materialized (
  select l.pid, l.waitstart, l.transactionid, a.backend_start
    from pg_locks l join pg_stat_activity a on a.pid = l.pid
   where not l.granted and a.datname = current_database() and a.backend_start is not null
     and l.waitstart < clock_timestamp() - make_interval(secs => $1::float8)
   order by l.waitstart limit $2::int)
select w.pid, (extract(epoch from w.backend_start) * 1000000)::bigint, w.waitstart,
       b.pid, coalesce((extract(epoch from s.backend_start) * 1000000)::bigint, 0), coalesce(p.gid, '')
  from waiting w
 cross join lateral (select distinct unnest(pg_blocking_pids(w.pid)) as pid) b
  left join pg_stat_activity s on s.pid = b.pid
  left join pg_prepared_xacts p on b.pid = 0 and p.transaction = w.transactionid
       and p.database = current_database() and starts_with(p.gid, 'concord-')
 order by w.waitstart, w.pid, b.pid limit $2::int`

// Waits implements adapters.WaitLister. Sessions that the login may not see are left out.
func (r *Resource) Waits(ctx context.Context, longer time.Duration) (list []adapters.Wait, err error) {
	err = r.with(ctx, func(conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, waitsText, pgx.QueryExecModeExec, longer.Seconds(), adapters.MaxWaits)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var w adapters.Wait
			var waiting, blocking holder
			var pid, blocker int32
			var gid string
			if err := rows.Scan(&pid, &waiting.start, &w.Since, &blocker, &blocking.start, &gid); err != nil {
				return err
			}
			waiting.pid, blocking.pid = uint32(pid), uint32(blocker)
			n, ours := parseName(gid)
			switch {
			case blocking.start != 0:
				w.For = blocking.String()
			case ours:
				w.Branch = n.XID
			default:
				continue
			}
			w.Session = waiting.String()
			list = append(list, w)
		}
		return rows.Err()
	})
	return list, r.explain(asking, "list lock waits", err)
}

func sessionName(pid int32, user, database string) string {
	return fmt.Sprintf("process %d of %s in %s", pid, user, database)
}
