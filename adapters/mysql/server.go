// SPDX-License-Identifier: Apache-2.0

package mysql

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/concordtx/concord/txn"
)

// Flavors.
const (
	flavorMySQL   = "mysql"
	flavorMariaDB = "mariadb"
)

var errNoDatabase = errors.New("the connection has no database: name one in the data source name, as in " +
	"user:password@tcp(host:port)/database")

// server is what one connection says of its server.
type server struct {
	flavor  string
	version string
	// name tells servers apart.
	name string
	// start is when this life of the server began, in seconds since 1970. It is exact:
	// the server computes Uptime from the same clock reading, so their difference is
	// the moment that it noted, whatever its clock has done since.
	start      int64
	database   string
	connection uint64
	// detaches: a branch that this session prepares is not bound to it any more.
	detaches  bool
	variables map[string]string
}

// lockLimit is for a SET SESSION: it limits the lock waits of a session to t, or to what
// the session was given at first if that is stricter.
func (s server) lockLimit(t time.Duration) string {
	return s.limit("innodb_lock_wait_timeout", t) + ", " + s.limit("lock_wait_timeout", t)
}

func (s server) limit(variable string, t time.Duration) string {
	seconds := int((t + time.Second - 1) / time.Second)
	if given, err := strconv.Atoi(s.variables[variable]); err == nil {
		seconds = min(seconds, given)
	}
	return variable + " = " + strconv.Itoa(seconds)
}

// letters is for a SET SESSION: how the client and the server write to each other.
func (s server) letters() string {
	name := func(variable string) string {
		if v := s.variables[variable]; v != "" {
			return variable + " = " + v
		}
		return variable + " = NULL"
	}
	return name("character_set_client") + ", " + name("character_set_results") + ", " + name("collation_connection")
}

// together makes one statement of several. MariaDB takes compound statements outside of
// stored programs, and stops at the first that fails; that needs no multi-statement
// mode, which nobody shall switch on for the application's own statements. MySQL has
// nothing like it.
func (s server) together(statements ...string) string {
	if len(statements) == 1 {
		return statements[0]
	}
	return "BEGIN NOT ATOMIC " + strings.Join(statements, "; ") + "; END"
}

// id is a short form of the name, for holders.
func (s server) id() string {
	sum := sha256.Sum256([]byte(s.flavor + " " + s.name))
	return fmt.Sprintf("%x", sum[:8])
}

const askVariables = `SHOW VARIABLES WHERE Variable_name IN ('version', 'server_uuid', 'server_uid', 'hostname', ` +
	`'server_id', 'port', 'datadir', ` +
	`'xa_detach_on_prepare', 'read_only', 'super_read_only', 'wsrep_on', 'group_replication_group_name', ` +
	`'default_storage_engine', ` +
	`'innodb_flush_log_at_trx_commit', 'sync_binlog', 'log_bin', 'wait_timeout', 'lock_wait_timeout', ` +
	`'innodb_lock_wait_timeout', 'innodb_rollback_on_timeout', 'init_connect', 'character_set_client', ` +
	`'character_set_results', 'collation_connection')`

// askServer asks who the server is.
func askServer(ctx context.Context, q rowsOf) (server, error) {
	rows, err := q(ctx, askVariables)
	if err != nil {
		return server{}, fmt.Errorf("ask the server for its variables: %w", err)
	}
	s := server{flavor: flavorMySQL, variables: map[string]string{}}
	for _, row := range rows {
		if len(row) == 2 {
			s.variables[strings.ToLower(row[0])] = row[1]
		}
	}
	s.version = s.variables["version"]
	s.detaches = s.variables["xa_detach_on_prepare"] == "ON"
	s.name = fmt.Sprintf("server_uuid=%s hostname=%s port=%s", s.variables["server_uuid"], s.variables["hostname"],
		s.variables["port"])
	status := "performance_schema.global_status"
	if strings.Contains(strings.ToLower(s.version), flavorMariaDB) {
		s.flavor, status = flavorMariaDB, "information_schema.global_status"
		s.name = s.mariaName()
	}
	if s.flavor == flavorMySQL && s.variables["server_uuid"] == "" {
		return server{}, fmt.Errorf("the server (version %s) has no server_uuid: use MySQL 8.0.29 or MariaDB 10.5, "+
			"or newer", s.version)
	}
	rows, err = q(ctx, "SELECT CONNECTION_ID(), IFNULL(DATABASE(), ''), UNIX_TIMESTAMP() - VARIABLE_VALUE FROM "+status+
		" WHERE VARIABLE_NAME = 'UPTIME'")
	if err != nil {
		return server{}, fmt.Errorf("ask the server for its start: %w", err)
	}
	if len(rows) != 1 || len(rows[0]) != 3 {
		return server{}, errors.New("the server does not report its uptime")
	}
	start, err := strconv.ParseFloat(rows[0][2], 64)
	if err != nil {
		return server{}, errors.New("the server does not report its uptime in seconds")
	}
	s.start, s.database = int64(start), rows[0][1]
	if s.connection, err = strconv.ParseUint(rows[0][0], 10, 64); err != nil {
		return server{}, errors.New("the server does not report the connection id as a number")
	}
	return s, nil
}

func (s server) mariaName() string {
	v := s.variables
	name := fmt.Sprintf("hostname=%s port=%s server_id=%s", v["hostname"], v["port"], v["server_id"])
	if uid := v["server_uid"]; uid != "" {
		return name + " server_uid=" + uid
	}
	return name + " datadir=" + v["datadir"] // older than server_uid
}

var versionNumbers = regexp.MustCompile(`^(\d+)\.(\d+)\.(\d+)`)

// atLeast compares version numbers; a version that has none is too old.
func (s server) atLeast(major, minor, patch int) bool {
	m := versionNumbers.FindStringSubmatch(s.version)
	if m == nil {
		return false
	}
	for i, want := range []int{major, minor, patch} {
		got, err := strconv.Atoi(m[i+1])
		if err != nil || got < want {
			return false
		}
		if got > want {
			return true
		}
	}
	return true
}

// sqlRows asks through database/sql.
func sqlRows(c *sql.Conn) rowsOf {
	return func(ctx context.Context, query string) ([][]string, error) {
		rows, err := c.QueryContext(ctx, query)
		if err != nil {
			return nil, err
		}
		return collect(rows)
	}
}

// collect reads and closes rows. NULL becomes the empty text.
func collect(rows *sql.Rows) ([][]string, error) {
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return nil, err
	}
	var all [][]string
	for rows.Next() {
		values := make([]sql.RawBytes, len(columns))
		into := make([]any, len(columns))
		for i := range values {
			into[i] = &values[i]
		}
		if err := rows.Scan(into...); err != nil {
			return nil, err
		}
		row := make([]string, len(columns))
		for i, v := range values {
			row[i] = string(v)
		}
		all = append(all, row)
	}
	return all, rows.Err()
}

// rawRows asks on a driver's connection itself.
func rawRows(raw rawConn) rowsOf {
	return func(ctx context.Context, query string) ([][]string, error) {
		rows, err := raw.QueryContext(ctx, query, nil)
		if err != nil {
			return nil, err
		}
		all, err := collectRaw(rows)
		return all, errors.Join(err, rows.Close())
	}
}

func collectRaw(rows driver.Rows) ([][]string, error) {
	values := make([]driver.Value, len(rows.Columns()))
	var all [][]string
	for {
		err := rows.Next(values)
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		row := make([]string, len(values))
		for i, v := range values {
			switch v := v.(type) {
			case nil:
			case []byte:
				row[i] = string(v)
			default:
				row[i] = fmt.Sprint(v)
			}
		}
		all = append(all, row)
	}
}

// Identity names the server and the database. XA names are server-wide, but the markers are
// the database's. It does not change when the server gets another host, address or port: what
// it is made of lives with the data.
//
// MySQL has server_uuid, which images and copies of a data directory share. MariaDB has no
// such thing: its server_uid comes from port and network card. So an id is drawn once, and kept
// in a row of the marker table that is no marker, beside server_uuid or server_id, which
// replicas of one server must not share. Who may neither read nor write the row goes without.
func (r *Resource) Identity(ctx context.Context) (string, error) {
	var id string
	err := r.onServer(ctx, func(c *sql.Conn, s server) error {
		if s.database == "" {
			return errNoDatabase
		}
		drawn := ""
		if !r.options.NoMarker {
			var err error
			if drawn, err = drawnIdentity(ctx, c, s); err != nil {
				return err
			}
		}
		id = fmt.Sprintf("%s %s database=%s", s.flavor, identityOf(s, drawn), s.database)
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("identity of %s: %w", r.name, advise(err))
	}
	return id, nil
}

func identityOf(s server, drawn string) string {
	v := s.variables
	who := "server_uuid=" + v["server_uuid"]
	if s.flavor == flavorMariaDB {
		who = "server_id=" + v["server_id"]
	}
	switch {
	case drawn != "":
		return who + " id=" + drawn
	case s.flavor == flavorMySQL:
		return who
	case v["server_uid"] != "":
		return who + " server_uid=" + v["server_uid"]
	}
	return who + " datadir=" + v["datadir"] // older than server_uid
}

// drawnIdentity reads the id, and draws it if nobody has. It is empty if the grants allow
// neither, or the server takes no writes.
func drawnIdentity(ctx context.Context, c *sql.Conn, s server) (string, error) {
	draw := fmt.Sprintf("INSERT IGNORE INTO %s (cluster, gid, branch, holder) VALUES (0, '%s', 0, '%s%s')",
		tableIn(s), txn.ID{}, identityMark, txn.NewID(time.Now()))
	for _, write := range []string{"", createMarkerTable(s), draw} {
		if write != "" {
			if _, err := c.ExecContext(ctx, write); err != nil {
				if _, answered := codeOf(err); !answered {
					return "", err
				}
			}
		}
		rows, err := readAt(ctx, c, sql.LevelReadCommitted, selectMarker(s, txn.XID{}, "''"))
		switch _, answered := codeOf(err); {
		case err != nil && !answered:
			return "", err
		case len(rows) == 1:
			id, _ := strings.CutPrefix(rows[0][0], identityMark)
			return id, nil
		}
	}
	return "", nil
}

// identityMark begins the holder in the row that has the id.
const identityMark = "identity "

func createMarkerTable(s server) string {
	return strings.Replace(CreateMarkerTable, markerTable, tableIn(s), 1)
}
