// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

// A marker is a row that a branch writes in the round trip of its vote, so it is there exactly
// if the branch has committed, and it goes wherever the data go: into a replica, a backup, a copy
// of the files. A transaction number is no such proof: where files were put back the server gives
// it out again, to a transaction that has nothing to do with the branch.

const markerTable = "concord.branch"

// CreateMarkerTable is the table of the evidence, to be created in every database that takes part.
// It is in a schema of its own, which no search_path needs to name. Roles that prepare need
// USAGE on the schema and INSERT on the table, and those of coordinator nodes SELECT, INSERT and DELETE.
const CreateMarkerTable = `CREATE SCHEMA IF NOT EXISTS concord;
CREATE TABLE IF NOT EXISTS ` + markerTable + ` (
  cluster bigint NOT NULL,
  gid text COLLATE "C" NOT NULL,
  branch smallint NOT NULL,
  decision text,
  PRIMARY KEY (cluster, gid, branch)
)`

const markerGrants = `GRANT USAGE ON SCHEMA concord TO ...; GRANT SELECT, INSERT, DELETE ON ` + markerTable + ` TO ...`

const (
	// markerStateText tells of the table: whether it is there and we may write it, null if it is
	// not; whether its schema is there; and whether this server takes writes at all.
	markerStateText = `
select (select has_schema_privilege(n.oid, 'usage') and has_table_privilege(c.oid, 'insert')
          from pg_class c where c.relnamespace = n.oid and c.relname = 'branch'),
       n.oid is not null,
       current_setting('transaction_read_only') = 'off'
  from (select 1) as one left join pg_namespace n on n.nspname = 'concord'`

	// mayForgetText tells whether we may read and remove markers, null if there is no table, and whether we
	// may write a row there.
	mayForgetText = `
select m.forget, coalesce(m.write, false)
  from (select 1) as one left join (
        select has_schema_privilege(n.oid, 'usage') and has_table_privilege(c.oid, 'select')
               and has_table_privilege(c.oid, 'delete') as forget, has_table_privilege(c.oid, 'insert') as write
          from pg_namespace n join pg_class c on c.relnamespace = n.oid
         where n.nspname = 'concord' and c.relname = 'branch') as m on true`

	// lockMakers makes those who create the table wait for each other: IF NOT EXISTS does not.
	lockMakers = "select pg_advisory_xact_lock(x'434f4e43'::bit(32)::int, 1)"

	markerThereText = "select exists (select from " + markerTable + " where cluster = $1 and gid = $2 and branch = $3)"

	// forgetText deletes markers that are visible, in the order in which they lie in the table, so
	// that two nodes that delete the same do not lock each other out.
	forgetText = "delete from " + markerTable + ` where ctid = any (array(
select b.ctid from ` + markerTable + ` b join unnest($1::bigint[], $2::text[], $3::smallint[])
  as n (cluster, gid, branch) using (cluster, gid, branch)))`

	// highWaterText reads the high-water row of a cluster, and whether the server takes no writes. It is a row
	// of this table whose gid is none: the position, and the floor behind it.
	highWaterText = "select coalesce((select max(gid) from " + markerTable + ` where cluster = $1
   and gid > 'w' and gid < 'x' and branch = 0), ''), pg_is_in_recovery()`
	lowerWaterText = "delete from " + markerTable + " where cluster = $1 and gid > 'w' and gid < 'x' and branch = 0"
	// lockWater makes those who raise a row wait for each other.
	lockWater = "select pg_advisory_xact_lock(x'434f4e43'::bit(32)::int, 2)"

	// evidenceText lists markers behind one. What somebody else has put into the table is none.
	evidenceText = "select cluster, gid, branch from " + markerTable + `
 where (cluster, gid, branch) > ($1, $2, $3) and cluster <= 4294967295 and branch between 0 and 255
   and gid ~ '^[0-7][0-9A-HJKMNP-TV-Z]{25}$'
 order by cluster, gid, branch limit $4`
)

// markerText leaves the marker and answers what numberText does, and like it fails in a
// transaction without the mark.
func (m mark) markerText() string {
	return "insert into " + markerTable + " (cluster, gid, branch) values ($1, $2, $3) " +
		"returning pg_current_xact_id()::text, current_user::text, " + m.checkText("")
}

var (
	// errMarker says that branches cannot leave their markers, or that those cannot be read.
	errMarker = errors.New("the evidence of branches")

	errReadOnly = errors.New("the branch is read only and did more than plain reads: declare it with " +
		"TxOptions.ReadOnly")
	errCommittedBefore = errors.New("a branch of this name has committed already: run the work in a new global " +
		"transaction")
)

// prepareMarker makes sure that branches can leave their markers. A server that takes no writes
// needs none.
func (r *Resource) prepareMarker(ctx context.Context, conn *pgx.Conn) error {
	if r.noMarker || r.markerReady.Load() {
		return nil
	}
	usable, schema, writes, err := markerState(ctx, conn)
	if err == nil && usable == nil && writes {
		texts := []string{lockMakers, CreateMarkerTable}
		if schema { // PostgreSQL asks for the privilege before it looks whether there is something to do
			texts[1] = createTableAlone()
		}
		if _, err := conn.Exec(ctx, texts[0]+";"+texts[1], pgx.QueryExecModeSimpleProtocol); err != nil {
			return fmt.Errorf("%w has no table: %w", errMarker, err)
		}
		usable, _, _, err = markerState(ctx, conn)
	}
	switch {
	case err != nil:
		return err
	case usable == nil: // it takes no writes
		return nil
	case !*usable:
		return fmt.Errorf("%w: the role %s may not write %s", errMarker, conn.Config().User, markerTable)
	}
	r.markerReady.Store(true)
	return nil
}

func markerState(ctx context.Context, conn *pgx.Conn) (usable *bool, schema, writes bool, err error) {
	err = conn.QueryRow(ctx, markerStateText, pgx.QueryExecModeSimpleProtocol).Scan(&usable, &schema, &writes)
	return usable, schema, writes, err
}

func createTableAlone() string {
	const schema = "CREATE SCHEMA IF NOT EXISTS concord;\n"
	return CreateMarkerTable[len(schema):]
}

// markerDoubted says what the server's refusal of a marker is about, and if it is the table looks at that
// again before the next branch.
func (r *Resource) markerDoubted(err error) error {
	switch code := sqlState(err); {
	case code == codeUndefinedTable, code == codeUndefinedSchema, code == codePrivilege:
		r.markerReady.Store(false)
		return fmt.Errorf("%w: %w", errMarker, err)
	case code == codeReadOnly:
		return fmt.Errorf("%w: %w", errReadOnly, err)
	case code == codeDuplicate:
		return fmt.Errorf("%w: %w", errCommittedBefore, err)
	}
	return err
}

// question is what the round trip of a vote asks before it prepares.
type question struct {
	text   string
	params [][]byte
	known  *pgconn.StatementDescription // if the server knows the text by name
}

// question returns that of a branch. Where nothing can be written there is no marker, and nothing
// that it would have to prove.
func (s *session) question() question {
	switch {
	case s.reader:
		return question{text: s.server.mark.noWriteText()}
	case s.r.noMarker:
		return question{text: s.server.mark.numberText()}
	}
	return question{text: s.server.mark.markerText(), known: s.server.vote, params: markerParams(s.x)}
}

// marked reports whether the marker of a branch is there. Where there is no table none is.
func marked(ctx context.Context, conn *pgx.Conn, x txn.XID) (there bool, err error) {
	err = conn.QueryRow(ctx, markerThereText, pgx.QueryExecModeExec, int64(x.Cluster), x.ID.String(),
		int16(x.Branch)).Scan(&there)
	if noTable(err) {
		return false, nil
	}
	if err != nil && sqlState(err) == codePrivilege {
		return false, fmt.Errorf("%w: %w", errMarker, err)
	}
	return there, err
}

func noTable(err error) bool {
	code := sqlState(err)
	return code == codeUndefinedTable || code == codeUndefinedSchema
}

// Forget removes the markers of branches that have committed. It waits for nobody.
func (r *Resource) Forget(ctx context.Context, xs []txn.XID) error {
	if r.noMarker || len(xs) == 0 {
		return nil
	}
	err := r.with(ctx, func(conn *pgx.Conn) error {
		for batch := range slices.Chunk(xs, adapters.EvidencePage) {
			if err := forget(ctx, conn, batch); err != nil {
				return err
			}
		}
		return nil
	})
	return r.explain(asking, "forget branches", err)
}

func forget(ctx context.Context, conn *pgx.Conn, xs []txn.XID) error {
	// At this level a reader is in nobody's way, whatever the default of the server. What a crash
	// brings back the next sweep removes, so nothing has to be flushed.
	err := pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{BeginQuery: "begin isolation level read committed; set local " +
		"synchronous_commit = off"}, func(tx pgx.Tx) error { return forgetIn(ctx, tx, xs) })
	if noTable(err) {
		return nil
	}
	return err
}

func forgetIn(ctx context.Context, tx pgx.Tx, xs []txn.XID) error {
	clusters, ids, branches := make([]int64, len(xs)), make([]string, len(xs)), make([]int16, len(xs))
	for i, x := range xs {
		clusters[i], ids[i], branches[i] = int64(x.Cluster), x.ID.String(), int16(x.Branch)
	}
	_, err := tx.Exec(ctx, forgetText, pgx.QueryExecModeExec, clusters, ids, branches)
	return err
}

// Expect implements adapters.Marked.
func (r *Resource) Expect(c txn.ClusterID, least zab.Zxid) { r.expected.Expect(c, least) }

// notBehind compares the database with what is expected, before something is ended there.
func (r *Resource) notBehind(ctx context.Context, conn *pgx.Conn) error {
	e := r.expected.Now()
	if e.IsZero() || r.noMarker {
		return nil
	}
	if _, err := r.compareHighWater(ctx, conn, e.Cluster); !noTable(err) {
		return err
	}
	return nil
}

// compareHighWater reads the row of a cluster, and compares it with what was expected before. Where there is no table,
// and none is missed, the error is noTable.
func (r *Resource) compareHighWater(ctx context.Context, q rowQuerier, c txn.ClusterID) (txn.HighWater, error) {
	e := r.expected.Now()
	has, standby, err := readHighWater(ctx, q, c)
	switch {
	case err != nil && !noTable(err) || !e.Behind(c, has):
		return has, err
	case standby:
		return has, adapters.ErrCopy
	}
	return has, adapters.ErrBehind
}

type rowQuerier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

func readHighWater(ctx context.Context, q rowQuerier, c txn.ClusterID) (has txn.HighWater, standby bool, err error) {
	var text string
	err = q.QueryRow(ctx, highWaterText, pgx.QueryExecModeExec, int64(c)).Scan(&text, &standby)
	switch {
	case err != nil && sqlState(err) == codePrivilege:
		return txn.HighWater{}, false, fmt.Errorf("%w: %w", errMarker, err)
	case err != nil || text == "":
		return txn.HighWater{}, standby, err
	}
	const half = 25
	at := text[:min(len(text), half)]
	if has.At, err = txn.ParseRowText(at); err == nil {
		has.Floor, err = txn.ParseRowText(text[len(at):])
	}
	return has, standby, err
}

// HighWater implements adapters.Marked.
func (r *Resource) HighWater(ctx context.Context, c txn.ClusterID) (has txn.HighWater, err error) {
	if r.noMarker {
		return has, nil
	}
	err = r.with(ctx, func(conn *pgx.Conn) error {
		if has, err = r.compareHighWater(ctx, conn, c); noTable(err) {
			return nil
		}
		return err
	})
	return has, r.explain(asking, "read the high-water row", err)
}

// Raise implements adapters.Marked.
func (r *Resource) Raise(ctx context.Context, c txn.ClusterID, to txn.HighWater, spent []txn.XID) (now txn.HighWater,
	err error) {
	if r.noMarker {
		return now, nil
	}
	err = r.with(ctx, func(conn *pgx.Conn) error {
		return pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{BeginQuery: "begin isolation level read committed; set local " +
			"synchronous_commit = on"}, func(tx pgx.Tx) error {
			now, err = r.raiseIn(ctx, tx, c, to, spent)
			return err
		})
	})
	switch {
	case noTable(err): // no branch has left evidence yet
		return txn.HighWater{}, nil
	case err != nil && sqlState(err) == codePrivilege:
		err = fmt.Errorf("%w: %w", errMarker, err)
		if has, failed := r.HighWater(ctx, c); failed == nil && has.IsZero() {
			return has, r.Forget(ctx, spent) // there never was one: Check says what it takes
		}
	}
	return now, r.explain(asking, "raise the high-water row", err)
}

func (r *Resource) raiseIn(ctx context.Context, tx pgx.Tx, c txn.ClusterID, to txn.HighWater,
	spent []txn.XID) (txn.HighWater, error) {
	if _, err := tx.Exec(ctx, lockWater, pgx.QueryExecModeSimpleProtocol); err != nil {
		return txn.HighWater{}, err
	}
	has, err := r.compareHighWater(ctx, tx, c)
	if err != nil {
		return txn.HighWater{}, err
	}
	for batch := range slices.Chunk(spent, adapters.EvidencePage) {
		if err := forgetIn(ctx, tx, batch); err != nil {
			return txn.HighWater{}, err
		}
	}
	if !has.Less(to) {
		return has, nil
	}
	if _, err := tx.Exec(ctx, lowerWaterText, pgx.QueryExecModeExec, int64(c)); err != nil {
		return txn.HighWater{}, err
	}
	_, err = tx.Exec(ctx, "insert into "+markerTable+" (cluster, gid, branch) values ($1, $2, 0)",
		pgx.QueryExecModeExec, int64(c), txn.RowText(to.At)+txn.RowText(to.Floor))
	return to, err
}

// Evidence implements adapters.Resource.
func (r *Resource) Evidence(ctx context.Context, after txn.XID) (xs []txn.XID, err error) {
	if r.noMarker {
		return nil, nil
	}
	err = r.with(ctx, func(conn *pgx.Conn) error {
		return pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadOnly},
			func(tx pgx.Tx) error {
				xs, err = listMarkers(ctx, tx, after)
				return err
			})
	})
	if noTable(err) {
		return nil, nil
	}
	return xs, r.explain(asking, "list the evidence", err)
}

func listMarkers(ctx context.Context, tx pgx.Tx, after txn.XID) ([]txn.XID, error) {
	rows, err := tx.Query(ctx, evidenceText, pgx.QueryExecModeExec, int64(after.Cluster), after.ID.String(),
		int16(after.Branch), adapters.EvidencePage)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (txn.XID, error) {
		var cluster int64
		var gid string
		var branch int16
		if err := row.Scan(&cluster, &gid, &branch); err != nil {
			return txn.XID{}, err
		}
		id, err := txn.ParseID(gid)
		return txn.XID{Cluster: txn.ClusterID(uint32(cluster)), ID: id, Branch: txn.BranchNo(uint8(branch))}, err
	})
}
