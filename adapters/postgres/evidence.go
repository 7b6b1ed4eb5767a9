// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
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
	mark                     mark                         // of the branches on this connection
	vote                     *pgconn.StatementDescription // markerText, if the server knows it by name
	deallocated              bool                         // it has been made to forget it
}

// holder names a session of the server. Process ids are used again, start times not.
type holder struct {
	pid   uint32
	start int64 // microseconds since 1970
}

// evidence tells whether the branch has left a marker, which proves that it committed, and has
// what pg_xact_status is asked with, and who prepared, for people.
type evidence struct {
	marker   bool
	number   string // xid8, decimal
	system   string
	timeline string
	database string
	role     string
}

var errEvidence = errors.New("the record of the branch is not in a form that this version writes: run the newest " +
	"version of concord on all nodes")

// How evidence begins. Branches of older clients, and those that declared to be read only, have
// left no marker.
const (
	evidenceOfNumber = "v1"
	evidenceOfMarker = "v2"
)

func (e evidence) String() string {
	version := evidenceOfNumber
	if e.marker {
		version = evidenceOfMarker
	}
	return fmt.Sprintf("%s;xid8=%s;system=%s;timeline=%s;db=%s;role=%s", version, e.number, e.system, e.timeline,
		e.database, url.QueryEscape(e.role))
}

// parseEvidence accepts exactly what String prints.
func parseEvidence(s string) (evidence, error) {
	f := form{rest: s}
	marker := strings.HasPrefix(s, evidenceOfMarker)
	if marker {
		f.word(evidenceOfMarker)
	} else {
		f.word(evidenceOfNumber)
	}
	f.word(";xid8=")
	number := f.number(20)
	f.word(";system=")
	system := f.number(20)
	f.word(";timeline=")
	timeline := f.while(8, func(c byte) bool { return '0' <= c && c <= '9' || 'A' <= c && c <= 'F' })
	f.word(";db=")
	database := f.number(10)
	f.word(";role=")
	escaped := f.while(400, func(c byte) bool { return c != ';' })
	role, err := url.QueryUnescape(escaped)
	if f.wrong || f.rest != "" || len(timeline) != 8 || err != nil || url.QueryEscape(role) != escaped {
		return evidence{}, errEvidence
	}
	return evidence{marker: marker, number: number, system: system, timeline: timeline, database: database, role: role},
		nil
}

// form reads a text from its front. It stands on the way of every commit request, where a regular
// expression would be a tenth of the work of the leader's loop.
type form struct {
	rest  string
	wrong bool
}

func (f *form) word(w string) {
	rest, ok := strings.CutPrefix(f.rest, w)
	f.rest, f.wrong = rest, f.wrong || !ok
}

// while reads at least one and at most so many bytes.
func (f *form) while(most int, is func(byte) bool) string {
	n := 0
	for n < len(f.rest) && n < most && is(f.rest[n]) {
		n++
	}
	read := f.rest[:n]
	f.rest, f.wrong = f.rest[n:], f.wrong || n == 0
	return read
}

func (f *form) number(digits int) string {
	return f.while(digits, func(c byte) bool { return '0' <= c && c <= '9' })
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
	f := form{rest: s}
	f.word("v1;pid=")
	process := f.number(10)
	f.word(";start=")
	began := f.number(18)
	pid, err := strconv.ParseUint(process, 10, 32)
	if err != nil || f.wrong || f.rest != "" || pid == 0 || process[0] == '0' || len(began) > 1 && began[0] == '0' {
		return holder{}, errEvidence
	}
	start, err := strconv.ParseInt(began, 10, 64)
	if err != nil {
		return holder{}, errEvidence
	}
	return holder{uint32(pid), start}, nil
}

// customKey is where a connection remembers its server.
const customKey = "concord.postgres"

// serverOf asks once per connection and remembers the answer on it, so that the way
// of a commit has no round trip for it.
func serverOf(ctx context.Context, conn *pgx.Conn) (server, error) {
	if known, ok := conn.PgConn().CustomData()[customKey].(server); ok {
		return known, nil
	}
	s := server{mark: newMark()}
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
	if s.timeline != "" { // a standby may be promoted under a living connection
		conn.PgConn().CustomData()[customKey] = s
	}
	return s, nil
}

// learnVote has the server remember the statement of the vote, on a connection where pgx itself has it
// remember statements. The table of the markers must be there.
func (s server) learnVote(ctx context.Context, conn *pgx.Conn) (server, error) {
	if s.vote != nil || s.deallocated || s.timeline == "" ||
		conn.Config().DefaultQueryExecMode != pgx.QueryExecModeCacheStatement {
		return s, nil
	}
	var err error
	if s.vote, err = conn.Prepare(ctx, "concord_vote", s.mark.markerText()); err != nil {
		return s, err
	}
	conn.PgConn().CustomData()[customKey] = s
	return s, nil
}

// forgetVote is for a connection whose statements were deallocated behind our back.
func (s server) forgetVote(pg *pgconn.PgConn) {
	s.vote, s.deallocated = nil, true
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
