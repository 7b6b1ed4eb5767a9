// SPDX-License-Identifier: Apache-2.0

package mysql

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

const (
	markerTable = "concord_branch"
	// markerEvidence in a branch record says that the branch has left a marker.
	markerEvidence = "marker in " + markerTable
)

// CreateMarkerTable is the table of the evidence, to be created in every database that
// takes part. Users of applications need SELECT, INSERT and DELETE on it, and so do those of
// coordinator nodes.
const CreateMarkerTable = `CREATE TABLE IF NOT EXISTS ` + markerTable + ` (
  cluster INT UNSIGNED NOT NULL,
  gid CHAR(26) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  branch TINYINT UNSIGNED NOT NULL,
  holder VARCHAR(80) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  siblings VARCHAR(512) CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT '',
  created TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3),
  ` + decisionColumn + `,
  PRIMARY KEY (cluster, gid, branch)
) ENGINE=InnoDB`

// tableIn names the marker table whatever database the session is in by now.
func tableIn(s server) string {
	return "`" + strings.ReplaceAll(s.database, "`", "``") + "`." + markerTable
}

// insertMarker leaves a marker. The siblings are the numbers of all branches of its transaction, two hex
// digits each; none where they are not known yet.
func insertMarker(table string, x txn.XID, holder string, siblings []txn.BranchNo) string {
	return "INSERT INTO " + table + " (cluster, gid, branch, holder, siblings) VALUES (" +
		strconv.FormatUint(uint64(x.Cluster), 10) +
		", '" + x.ID.String() + "', " + strconv.FormatUint(uint64(x.Branch), 10) + ", '" + holder + "', '" +
		siblingsText(siblings) + "')"
}

func siblingsText(siblings []txn.BranchNo) string {
	numbers := make([]byte, len(siblings))
	for i, no := range siblings {
		numbers[i] = byte(no)
	}
	return hex.EncodeToString(numbers)
}

// parseSiblings returns nil for what siblingsText does not print of the siblings of a branch: the row
// may be anybody's.
func parseSiblings(text string, own txn.BranchNo) []txn.BranchNo {
	numbers, err := hex.DecodeString(text)
	if err != nil || !slices.IsSorted(numbers) || !slices.Contains(numbers, byte(own)) {
		return nil
	}
	siblings := make([]txn.BranchNo, len(numbers))
	for i, no := range numbers {
		siblings[i] = txn.BranchNo(no)
	}
	return slices.Compact(siblings)
}

func deleteMarker(table string, x txn.XID) string {
	return fmt.Sprintf("DELETE FROM %s WHERE %s", table, markerOf(x))
}

func markerOf(x txn.XID) string {
	return fmt.Sprintf("cluster = %d AND gid = '%s' AND branch = %d", uint32(x.Cluster), x.ID, uint8(x.Branch))
}

func selectMarker(s server, x txn.XID, siblings string) string {
	return fmt.Sprintf("SELECT holder, %s FROM %s WHERE %s", siblings, tableIn(s), markerOf(x))
}

// prepareMarker makes sure that branches can leave their markers. When several first
// branches do it at once, nothing is lost but time.
func (r *Resource) prepareMarker(ctx context.Context) error {
	if r.markerReady.Load() || r.options.NoMarker {
		return nil
	}
	err := r.onServer(ctx, func(c *sql.Conn, s server) error {
		if s.database == "" {
			return errNoDatabase
		}
		// It inserts nothing, but the server checks table and grants.
		// #nosec G202 -- tableIn quotes
		try := "INSERT INTO " + tableIn(s) +
			" (cluster, gid, branch, holder, siblings) SELECT 0, '', 0, '', '' FROM DUAL WHERE FALSE"
		_, err := c.ExecContext(ctx, try)
		if isCode(err, codeNoSuchColumn) {
			// Another session may have been faster.
			if _, err = c.ExecContext(ctx, addSiblings(s)); err != nil && !isCode(err, codeColumnExists) {
				return markerOld(addSiblings(s), err)
			}
			return nil
		}
		if !isCode(err, codeNoSuchTable, codeTableDenied) {
			return err
		}
		// MariaDB and MySQL hide from a user without grants whether there is a table.
		if _, err := c.ExecContext(ctx, createMarkerTable(s)); err != nil {
			return markerMissing(s, err)
		}
		if _, err = c.ExecContext(ctx, try); err != nil {
			return markerMissing(s, err)
		}
		return nil
	})
	if err == nil {
		r.markerReady.Store(true)
	}
	return err
}

func addSiblings(s server) string {
	return "ALTER TABLE " + tableIn(s) +
		" ADD COLUMN siblings VARCHAR(512) CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT ''"
}

func markerOld(addition string, err error) error {
	return fmt.Errorf("the table for the evidence of branches comes from an older version: have an administrator "+
		"run:\n%s;\n(%w)", addition, err)
}

func markerMissing(s server, err error) error {
	return fmt.Errorf("no table for the evidence of branches: have an administrator run, in database %s, the "+
		"following, and GRANT SELECT, INSERT, DELETE on it to the users of this resource:\n%s;\n(%w)", s.database,
		CreateMarkerTable, err)
}

// markerDoubted looks at the table again before the next branch.
func (r *Resource) markerDoubted(err error) {
	if isCode(err, codeNoSuchTable, codeTableDenied, codeNoSuchColumn) {
		r.markerReady.Store(false)
		r.decisionsReady.Store(false)
	}
}

// trace is what a marker shows of its branch.
type trace uint8

const (
	absent    trace = iota // no transaction has the row
	pending                // the row is written and not committed: the branch has not ended
	committed              // the branch has committed
)

// marker reads the marker of a branch, and who wrote it.
func (r *Resource) marker(ctx context.Context, c *sql.Conn, s server, x txn.XID) (trace, holder, error) {
	found, row, err := r.readMarker(ctx, c, s, x)
	if row == nil {
		return found, holder{}, err
	}
	h, _ := parseHolder(row[0]) // the zero holder is of no server
	return found, h, nil
}

// markerLooks are the two questions about a marker, in this order.
var markerLooks = [...]struct {
	level sql.IsolationLevel
	found trace
}{{sql.LevelReadCommitted, committed}, {sql.LevelReadUncommitted, pending}}

// seenMarker is what a marker shows of its branch, and who wrote it.
type seenMarker struct {
	found  trace
	holder holder
}

// markers is marker for many branches; what is absent is missing.
func (r *Resource) markers(ctx context.Context, c *sql.Conn, s server, xs []txn.XID) (map[markerKey]seenMarker, error) {
	seen, table := make(map[markerKey]seenMarker, len(xs)), tableIn(s)
	for _, look := range markerLooks {
		rows, err := readAt(ctx, c, look.level,
			fmt.Sprintf("SELECT %[1]s.cluster, %[1]s.gid, %[1]s.branch, holder FROM %s", table, markersOf(table, xs)))
		if isCode(err, codeNoSuchTable) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read the marker: %w", err)
		}
		for _, row := range rows {
			key := markerKey(row[:3])
			if _, known := seen[key]; !known {
				h, _ := parseHolder(row[3]) // the zero holder is of no server
				seen[key] = seenMarker{look.found, h}
			}
		}
	}
	return seen, nil
}

// markerKey is the key of a marker, as the server writes it.
type markerKey [3]string

func keyOf(x txn.XID) markerKey {
	return markerKey{fmt.Sprint(uint32(x.Cluster)), x.ID.String(), fmt.Sprint(uint8(x.Branch))}
}

// readMarker reads holder and siblings of a marker; nil if it is absent, as it is without evidence.
// A row never goes from absent to pending once its branch is prepared, so the order
// of the two questions leaves nothing between them.
func (r *Resource) readMarker(ctx context.Context, c *sql.Conn, s server, x txn.XID) (trace, []string, error) {
	if r.options.NoMarker {
		return absent, nil, nil
	}
	for _, look := range markerLooks {
		rows, err := readAt(ctx, c, look.level, selectMarker(s, x, "siblings"))
		if isCode(err, codeNoSuchColumn) { // the table is that of an older version
			rows, err = readAt(ctx, c, look.level, selectMarker(s, x, "''"))
		}
		if isCode(err, codeNoSuchTable) {
			return absent, nil, nil
		}
		if err != nil {
			return absent, nil, fmt.Errorf("read the marker: %w", err)
		}
		if len(rows) == 1 {
			return look.found, rows[0], nil
		}
	}
	return absent, nil, nil
}

// readAt asks at an isolation level of its own, since the server's default may be any: the level holds for the next
// transaction, which is the query alone.
func readAt(ctx context.Context, c *sql.Conn, level sql.IsolationLevel, query string) ([][]string, error) {
	if _, err := c.ExecContext(ctx, "SET TRANSACTION ISOLATION LEVEL "+level.String()); err != nil {
		return nil, err
	}
	rows, err := c.QueryContext(ctx, query)
	if err != nil {
		useUpLevel(c)
		return nil, err
	}
	return collect(rows)
}

// useUpLevel begins and ends the transaction for which a level was set, since a query that failed may not have: the
// level must not be that of whatever comes next on the connection, which is given up if it cannot be asked.
func useUpLevel(c *sql.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), detachTime)
	defer cancel()
	for _, command := range []string{"START TRANSACTION", "ROLLBACK"} {
		if _, err := c.ExecContext(ctx, command); err != nil {
			_ = c.Raw(func(any) error { return driver.ErrBadConn }) // returns what it is given
			return
		}
	}
}

// forgetBatch is how many markers are looked up, and deleted, in one statement.
const forgetBatch = 500

// Forget deletes the markers of branches that committed. It leaves those of branches
// that have not ended, and does not wait for them.
func (r *Resource) Forget(ctx context.Context, xs []txn.XID) error {
	if r.options.NoMarker || len(xs) == 0 {
		return nil
	}
	err := r.onServer(ctx, func(c *sql.Conn, s server) error {
		// Two nodes that forget the same lock it in the same order.
		xs := slices.SortedFunc(slices.Values(xs), txn.XID.Compare)
		ended, err := committedOf(ctx, c, tableIn(s), xs)
		for batch := range slices.Chunk(ended, forgetBatch) {
			if err := forget(ctx, c, s, batch); err != nil {
				return err
			}
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("forget branches at %s: %w", r.name, advise(err))
	}
	return nil
}

// committedOf returns the branches whose markers can be read as committed: a DELETE of the others would
// wait for the locks of branches that are still prepared.
func committedOf(ctx context.Context, c *sql.Conn, table string, xs []txn.XID) ([]txn.XID, error) {
	there := make(map[markerKey]bool, len(xs))
	for batch := range slices.Chunk(xs, forgetBatch) {
		rows, err := readAt(ctx, c, sql.LevelReadCommitted,
			fmt.Sprintf("SELECT %[1]s.cluster, %[1]s.gid, %[1]s.branch FROM %s", table, markersOf(table, batch)))
		if isCode(err, codeNoSuchTable) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		for _, row := range rows {
			there[markerKey(row)] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(xs), func(x txn.XID) bool { return !there[keyOf(x)] }), nil
}

// forget deletes markers that are committed.
func forget(ctx context.Context, c *sql.Conn, s server, ended []txn.XID) error {
	tx, err := c.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted})
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // of no effect after the commit
	table := tableIn(s)
	// #nosec G202 -- the name is quoted, and what was parsed is written as numbers and hexadecimal digits
	if _, err := tx.ExecContext(ctx, "DELETE "+table+" FROM "+markersOf(table, ended)); err != nil {
		return err
	}
	return tx.Commit()
}

// Expect implements adapters.Marked.
func (r *Resource) Expect(c txn.ClusterID, least zab.Zxid) { r.expected.Expect(c, least) }

// notBehind compares the database with what is expected, before something is ended there.
func (r *Resource) notBehind(ctx context.Context, c *sql.Conn, s server) error {
	e := r.expected.Now()
	if e.IsZero() || r.options.NoMarker {
		return nil
	}
	_, err := r.compareHighWater(ctx, c, s, e.Cluster)
	return err
}

// The high-water row of a cluster is one of the marker table whose gid is none, but the position; the
// holder is the floor.
func waterOf(c txn.ClusterID) string {
	return fmt.Sprintf("cluster = %d AND gid > 'w' AND gid < 'x' AND branch = 0", uint32(c))
}

// compareHighWater reads the row of a cluster, and compares it with what was expected before.
func (r *Resource) compareHighWater(ctx context.Context, c *sql.Conn, s server, id txn.ClusterID) (txn.HighWater,
	error) {
	e := r.expected.Now()
	rows, err := readAt(ctx, c, sql.LevelReadCommitted,
		fmt.Sprintf("SELECT gid, holder FROM %s WHERE %s ORDER BY gid DESC LIMIT 1", tableIn(s), waterOf(id)))
	if isCode(err, codeNoSuchTable) {
		rows, err = nil, nil
	}
	if err != nil {
		return txn.HighWater{}, fmt.Errorf("read the high-water row: %w", err)
	}
	has, err := parseHighWater(rows)
	switch {
	case err != nil || !e.Behind(id, has):
		return has, err
	case s.variables["read_only"] == "ON" || s.variables["super_read_only"] == "ON":
		return has, adapters.ErrCopy
	}
	return has, adapters.ErrBehind
}

func parseHighWater(rows [][]string) (has txn.HighWater, err error) {
	if len(rows) == 0 {
		return has, nil
	}
	if has.At, err = txn.ParseRowText(rows[0][0]); err == nil {
		has.Floor, err = txn.ParseRowText(rows[0][1])
	}
	return has, err
}

// HighWater implements adapters.Marked.
func (r *Resource) HighWater(ctx context.Context, id txn.ClusterID) (has txn.HighWater, err error) {
	if r.options.NoMarker {
		return has, nil
	}
	err = r.onServer(ctx, func(c *sql.Conn, s server) error {
		has, err = r.compareHighWater(ctx, c, s, id)
		return err
	})
	if err != nil {
		err = fmt.Errorf("look at %s: %w", r.name, advise(err))
	}
	return has, err
}

// waterLock makes those who raise a row wait for each other.
const waterLock = "concord_high_water"

// Raise implements adapters.Marked.
func (r *Resource) Raise(ctx context.Context, id txn.ClusterID, to txn.HighWater, spent []txn.XID) (now txn.HighWater,
	err error) {
	if r.options.NoMarker {
		return now, nil
	}
	err = r.onServer(ctx, func(c *sql.Conn, s server) error {
		now, err = r.raise(ctx, c, s, id, to, spent)
		return err
	})
	if isCode(err, codeNoSuchTable) { // no branch has left evidence yet
		return txn.HighWater{}, nil
	}
	if err != nil {
		return txn.HighWater{}, fmt.Errorf("raise the high-water row at %s: %w", r.name, advise(err))
	}
	return now, nil
}

func (r *Resource) raise(ctx context.Context, c *sql.Conn, s server, id txn.ClusterID, to txn.HighWater,
	spent []txn.XID) (txn.HighWater, error) {
	rows, err := sqlRows(c)(ctx, fmt.Sprintf("SELECT GET_LOCK('%s', 5)", waterLock))
	if err != nil {
		return txn.HighWater{}, err
	}
	if len(rows) != 1 || rows[0][0] != "1" {
		return txn.HighWater{}, errors.New("another node is doing this: try again")
	}
	defer c.ExecContext(context.WithoutCancel(ctx),
		"DO RELEASE_LOCK('"+waterLock+"')") //nolint:errcheck // it goes with the session
	has, err := r.compareHighWater(ctx, c, s, id)
	if err != nil {
		return txn.HighWater{}, err
	}
	table := tableIn(s)
	ended, err := committedOf(ctx, c, table, slices.SortedFunc(slices.Values(spent), txn.XID.Compare))
	if err != nil {
		return txn.HighWater{}, err
	}
	tx, err := c.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted})
	if err != nil {
		return txn.HighWater{}, err
	}
	defer tx.Rollback() //nolint:errcheck // of no effect after the commit
	var texts []string
	for batch := range slices.Chunk(ended, forgetBatch) {
		texts = append(texts, "DELETE "+table+" FROM "+markersOf(table, batch))
	}
	if has.Less(to) {
		// By its key: a range would wait for the markers of branches that are prepared.
		if !has.IsZero() {
			texts = append(texts, fmt.Sprintf("DELETE FROM %s WHERE cluster = %d AND gid = '%s' AND branch = 0", table,
				uint32(id), txn.RowText(has.At)))
		}
		texts = append(texts, fmt.Sprintf("INSERT INTO %s (cluster, gid, branch, holder) VALUES (%d, '%s', 0, '%s')",
			table, uint32(id), txn.RowText(to.At), txn.RowText(to.Floor)))
		has = to
	}
	for _, text := range texts {
		if _, err := tx.ExecContext(ctx, text); err != nil {
			return txn.HighWater{}, err
		}
	}
	return has, tx.Commit()
}

// Evidence lists the markers of branches that committed: what is not committed is not seen,
// and nothing is waited for.
func (r *Resource) Evidence(ctx context.Context, after txn.XID) (xs []txn.XID, err error) {
	if r.options.NoMarker {
		return nil, nil
	}
	err = r.onServer(ctx, func(c *sql.Conn, s server) error {
		xs, err = listMarkers(ctx, c, s, after)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list the evidence at %s: %w", r.name, advise(err))
	}
	return xs, nil
}

func listMarkers(ctx context.Context, c *sql.Conn, s server, after txn.XID) ([]txn.XID, error) {
	// Three conditions and not one on the row, which the servers do not look up by the key.
	behind := fmt.Sprintf("cluster > %[1]d OR cluster = %[1]d AND (gid > '%[2]s' OR gid = '%[2]s' AND branch > %[3]d)",
		uint32(after.Cluster), after.ID, uint8(after.Branch))
	// Rows that somebody else has put there are none of ours, and must not end a page early.
	const ours = "gid REGEXP '^[0-7][0-9A-HJKMNP-TV-Z]{25}$'"
	rows, err := readAt(ctx, c, sql.LevelReadCommitted,
		fmt.Sprintf("SELECT cluster, gid, branch FROM %s FORCE INDEX (PRIMARY) "+
			"WHERE (%s) AND %s ORDER BY cluster, gid, branch LIMIT %d", tableIn(s), behind, ours,
			adapters.EvidencePage))
	if isCode(err, codeNoSuchTable) {
		return nil, nil
	}
	xs := make([]txn.XID, 0, len(rows))
	for _, row := range rows {
		x, err := parseMarker(row)
		if err != nil {
			return nil, err
		}
		xs = append(xs, x)
	}
	return xs, err
}

func parseMarker(row []string) (txn.XID, error) {
	cluster, err1 := strconv.ParseUint(row[0], 10, 32)
	id, err2 := txn.ParseID(row[1])
	branch, err3 := strconv.ParseUint(row[2], 10, 8)
	if err := errors.Join(err1, err2, err3); err != nil {
		return txn.XID{}, fmt.Errorf("a row of %s is not concord's: %w", markerTable, err)
	}
	return txn.XID{Cluster: txn.ClusterID(cluster), ID: id, Branch: txn.BranchNo(branch)}, nil
}

// markersOf is the markers of some branches, in their order, for a FROM. Each is looked up by
// its primary key, whatever the server thinks of the size of the table: to find many at a
// time it may rather read all of them, and wait for those of branches that are prepared.
func markersOf(table string, xs []txn.XID) string {
	var names strings.Builder
	for i, x := range xs {
		if i == 0 {
			fmt.Fprintf(&names, "SELECT %d AS cluster, _ascii'%s' COLLATE ascii_bin AS gid, %d AS branch",
				uint32(x.Cluster), x.ID, x.Branch)
		} else {
			fmt.Fprintf(&names, " UNION ALL SELECT %d, _ascii'%s', %d", uint32(x.Cluster), x.ID, x.Branch)
		}
	}
	return fmt.Sprintf("(%[2]s) AS named STRAIGHT_JOIN %[1]s FORCE INDEX (PRIMARY) ON "+
		"%[1]s.cluster = named.cluster AND %[1]s.gid = named.gid AND %[1]s.branch = named.branch", table, &names)
}
