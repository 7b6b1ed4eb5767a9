// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// server is what stays the same as long as a connection lives.
type server struct {
	system   string // system identifier, decimal
	timeline string // 8 hex digits; empty on a standby
	database string // oid, decimal
	holder   holder // zero behind a pooler

	// What the session had when it was asked.
	lockTimeout, idleTimeout time.Duration
	number                   *pgconn.StatementDescription // numberText, if the server knows it by name
}

// holder names a session of the server. Process ids are used again, start times not.
type holder struct {
	pid   uint32
	start int64 // microseconds since 1970
}

// evidence is what pg_xact_status is asked with, and who prepared, for people.
type evidence struct {
	number   string // xid8, decimal
	system   string
	timeline string
	database string
	role     string
}

var errEvidence = errors.New("the record of the branch is not in a form that this version writes: run the newest version of concord on all nodes")

var (
	evidenceForm = regexp.MustCompile(`^v1;xid8=([0-9]{1,20});system=([0-9]{1,20});timeline=([0-9A-F]{8});db=([0-9]{1,10});role=([^;]{1,400})$`)
	holderForm   = regexp.MustCompile(`^v1;pid=([0-9]{1,10});start=([0-9]{1,18})$`)
)

func (e evidence) String() string {
	return fmt.Sprintf("v1;xid8=%s;system=%s;timeline=%s;db=%s;role=%s", e.number, e.system, e.timeline, e.database, url.QueryEscape(e.role))
}

// parseEvidence accepts exactly what String prints.
func parseEvidence(s string) (evidence, error) {
	m := evidenceForm.FindStringSubmatch(s)
	if m == nil {
		return evidence{}, errEvidence
	}
	role, err := url.QueryUnescape(m[5])
	e := evidence{number: m[1], system: m[2], timeline: m[3], database: m[4], role: role}
	if err != nil || e.String() != s {
		return evidence{}, errEvidence
	}
	return e, nil
}

// String is empty for a session that cannot be named.
func (h holder) String() string {
	if h.pid == 0 {
		return ""
	}
	return fmt.Sprintf("v1;pid=%d;start=%d", h.pid, h.start)
}

// parseHolder accepts exactly what String prints.
func parseHolder(s string) (holder, error) {
	m := holderForm.FindStringSubmatch(s)
	if m == nil {
		return holder{}, errEvidence
	}
	pid, err := strconv.ParseUint(m[1], 10, 32)
	if err != nil {
		return holder{}, errEvidence
	}
	start, err := strconv.ParseInt(m[2], 10, 64)
	if h := (holder{uint32(pid), start}); err == nil && h.String() == s {
		return h, nil
	}
	return holder{}, errEvidence
}

// customKey is where a connection remembers its server.
const customKey = "concord.postgres"

// serverOf asks once per connection and remembers the answer on it, so that the way
// of a commit has no round trip for it.
func serverOf(ctx context.Context, conn *pgx.Conn) (server, error) {
	if known, ok := conn.PgConn().CustomData()[customKey].(server); ok {
		return known, nil
	}
	var s server
	var lock, idle int64
	err := conn.QueryRow(ctx, serverText, pgx.QueryExecModeSimpleProtocol).
		Scan(&s.system, &s.timeline, &s.database, &s.holder.pid, &s.holder.start, &lock, &idle)
	if err != nil {
		return server{}, err
	}
	s.lockTimeout, s.idleTimeout = time.Duration(lock)*time.Millisecond, time.Duration(idle)*time.Millisecond
	if s.holder.pid != conn.PgConn().PID() {
		s.holder = holder{} // a pooler's connection: the session behind it may be anybody's next
	}
	// Where pgx itself has the server remember statements, one more is right.
	if conn.Config().DefaultQueryExecMode == pgx.QueryExecModeCacheStatement {
		if s.number, err = conn.Prepare(ctx, "concord_number", numberText); err != nil {
			return server{}, err
		}
	}
	if s.timeline != "" { // a standby may be promoted under a living connection
		conn.PgConn().CustomData()[customKey] = s
	}
	return s, nil
}

// forgetNumber is for a connection whose statements were deallocated behind our back.
func (s server) forgetNumber(pg *pgconn.PgConn) {
	s.number = nil
	pg.CustomData()[customKey] = s
}

// limits are what a branch has to set for itself on this session. Limits that are
// stricter already, by the settings of the server, the database, the role or the pool, stay.
func (s server) limits(lockTimeout, idleTimeout time.Duration) []string {
	return append(limitText("lock_timeout", lowered(lockTimeout, s.lockTimeout)),
		limitText("idle_in_transaction_session_timeout", lowered(idleTimeout, s.idleTimeout))...)
}

// lowered is the wish, or zero if there is none or what is set already is no looser. A setting of
// zero is no limit.
func lowered(wish, set time.Duration) time.Duration {
	if set > 0 && set <= wish {
		return 0
	}
	return wish
}
