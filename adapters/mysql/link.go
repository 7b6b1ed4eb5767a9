// SPDX-License-Identifier: Apache-2.0

package mysql

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// rawConn is what a driver's connection must be able to do. Those of go-sql-driver
// are, and wrappers of it for tracing.
type rawConn interface {
	driver.Conn
	driver.ExecerContext
	driver.QueryerContext
	driver.ConnPrepareContext
	driver.Validator
	driver.SessionResetter
}

func asRaw(c driver.Conn) (rawConn, error) {
	raw, ok := c.(rawConn)
	if !ok {
		return nil, fmt.Errorf("the driver's %T does not accept contexts: use a connector of go-sql-driver/mysql", c)
	}
	return raw, nil
}

// link is one session of the server. It has at most one branch at a time and one
// user: the branch's session, or the *sql.Tx that this has handed out.
type link struct {
	r      *Resource
	raw    rawConn
	wire   *wire // nil if the connector is not of NewConnector
	server server
	holder string  // names the session in evidence
	table  string  // of the evidence
	db     *sql.DB // over conn, to make *sql.Tx
	conn   *conn

	// dirty: its state is not what a new session's would be; it is not used again.
	dirty bool
	// counted: changes is what the session's counters said, and it has written nothing since.
	counted bool
	changes changes
	// xaSent is how many XA statements were sent to the session, and of those xaQueued wait.
	xaSent, xaQueued int64
	// worked: a statement of an application has run in it since it was new.
	worked bool
	// anew is what makes a session that was reset as it was at first; nil if nobody knows.
	anew []string
	// lockTimeout limits its lock waits; zero if that is not known.
	lockTimeout time.Duration

	lease     time.Duration // after which the server ends it when it is idle
	idleSince time.Time

	branch atomic.Pointer[session] // that it works for, nil between branches

	ending sync.Mutex
	closed bool
	gone   bool // the server does not know it any more
}

// current is the branch that the link works for, or nil. Old *sql.Tx come here too.
func (l *link) current() *session { return l.branch.Load() }

func connect(ctx context.Context, r *Resource) (*link, error) {
	l := &link{r: r}
	c, err := r.connector.Connect(context.WithValue(ctx, wireKey{}, &l.wire))
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	raw, err := asRaw(c)
	if err != nil {
		_ = c.Close() // the error that is returned matters more
		return nil, err
	}
	l.raw = raw
	if l.wire != nil {
		l.wire.settled = true
	}
	if err := l.setUp(ctx); err != nil {
		_ = raw.Close()
		return nil, err
	}
	l.conn = &conn{link: l}
	l.db = sql.OpenDB(&once{conn: l.conn})
	l.db.SetMaxOpenConns(1)
	l.db.SetMaxIdleConns(1)
	return l, nil
}

func (l *link) setUp(ctx context.Context) (err error) {
	if l.server, err = askServer(ctx, rawRows(l.raw)); err != nil {
		return err
	}
	if l.server.database == "" {
		return errNoDatabase
	}
	l.holder, l.table = holderOf(l.server).String(), tableIn(l.server)
	o := l.r.options
	l.lease, l.lockTimeout = o.Lease, o.LockTimeout
	if seconds, err := strconv.Atoi(l.server.variables["wait_timeout"]); err == nil {
		l.lease = min(l.lease, time.Duration(seconds)*time.Second)
	}
	limits := startClean + ", " + l.server.lockLimit(o.LockTimeout) + ", " + l.server.limit("wait_timeout", o.Lease)
	if l.server.flavor == flavorMariaDB { // where everybody may
		limits += ", " + keepWarnings
	}
	if l.wire.able() {
		// A statement that travels with an XA START which the server refuses runs outside of
		// the branch. It must not commit by itself, so that the end of the session undoes it.
		limits += ", autocommit = 0"
		if l.server.variables["init_connect"] == "" { // which the server does not run again
			l.anew = append(l.wire.setUp, limits+", "+l.server.letters())
		}
	}
	return l.exec(ctx, limits)
}

// keepWarnings is for a SET SESSION: the server tells only by a warning that a rollback has left something.
const keepWarnings = "max_error_count = CAST(GREATEST(@@SESSION.max_error_count, 64) AS UNSIGNED)"

// renew makes the session as new: what routines, triggers and views that a branch has used have left in it (variables,
// user locks, temporary tables) ends with the branch. It reports false if that could not be sent.
func (l *link) renew() bool {
	if !l.worked || l.anew == nil {
		return true
	}
	if l.wire.renew(l.anew...) != nil {
		return false
	}
	l.worked = false
	l.xaSent, l.changes.rows = 0, 0 // the server forgets its counters
	l.lockTimeout = l.r.options.LockTimeout
	return true
}

// ready reports whether a session that was kept can be used: it is as new, and the server has not closed it.
func (l *link) ready() bool {
	return l.raw.IsValid() && l.wire.settle(time.Now().Add(cleanupTime)) == nil &&
		l.raw.ResetSession(context.Background()) == nil // which looks at the socket and does not wait
}

// ahead lets commands travel with the next one. The wire must be able.
func (l *link) ahead(commands []string) {
	for _, command := range commands {
		if isXA(command) {
			l.xaQueued++
		}
		l.wire.send(command)
	}
	l.xaSent += l.xaQueued
}

// drop forgets what waits to travel, and reports whether something did.
func (l *link) drop() bool {
	if !l.wire.pending() {
		l.xaQueued = 0
		return false
	}
	l.wire.drop()
	l.xaSent -= l.xaQueued
	l.xaQueued = 0
	return true
}

// heard returns the answers to what has travelled.
func (l *link) heard() []answer {
	l.xaQueued = 0
	return l.wire.take()
}

func isXA(command string) bool { return strings.HasPrefix(command, "XA ") }

// exec runs one of our own commands.
func (l *link) exec(ctx context.Context, command string) error {
	if isXA(command) {
		l.xaSent++
	}
	_, err := l.raw.ExecContext(ctx, command, nil)
	return err
}

// changes is what a session's counters say.
type changes struct {
	rows uint64 // written so far; too many (temporary tables), never too few
	// flush is when the counters were last reset: MySQL's FLUSH STATUS of one session
	// resets those of all.
	flush int64
}

// inOrder executes commands: in one round trip where that can be. It returns the first
// error. Some of those behind it may have been executed.
func (l *link) inOrder(ctx context.Context, commands ...string) error {
	switch {
	case l.wire.able():
		for _, a := range l.each(ctx, commands...) {
			if a.err != nil {
				return a.err
			}
		}
		return nil
	case l.server.flavor == flavorMariaDB:
		for _, command := range commands {
			if isXA(command) {
				l.xaSent++
			}
		}
		_, err := l.raw.ExecContext(ctx, l.server.together(commands...), nil)
		return err
	}
	for _, command := range commands {
		if err := l.exec(ctx, command); err != nil {
			return err
		}
	}
	return nil
}

// each executes all of the commands, whether the one before failed or not, and returns their
// answers: in one round trip where that can be. What was not answered has the error of the
// connection.
func (l *link) each(ctx context.Context, commands ...string) []answer {
	if !l.wire.able() {
		answers := make([]answer, 0, len(commands))
		for _, command := range commands {
			answers = append(answers, answer{err: l.exec(ctx, command)})
		}
		return answers
	}
	last := len(commands) - 1
	l.ahead(commands[:last])
	err := l.exec(ctx, commands[last])
	return l.answered(last, answer{err: err})
}

// answered returns the answers to n commands that were sent ahead, and that of the driver's
// command behind them.
func (l *link) answered(n int, own answer) []answer {
	l.drop() // if the driver has not sent its command
	answers := l.heard()
	for len(answers) < n {
		missing := own.err
		if missing == nil {
			missing = errNotAnswered
		}
		answers = append(answers, answer{err: missing})
	}
	return append(answers, own)
}

var errNotAnswered = errors.New("the server did not answer")

// eachAndWarnings is each, and whether the server says of the last command that it could not
// undo what was done to tables without transactions.
func (l *link) eachAndWarnings(ctx context.Context, commands ...string) (answers []answer, stayed bool) {
	var rows [][]string
	var err error
	if l.wire.able() {
		l.ahead(commands)
		rows, err = rawRows(l.raw)(ctx, "SHOW WARNINGS")
		answers = l.answered(len(commands), answer{err: err})[:len(commands)]
	} else {
		answers = l.each(ctx, commands...)
		rows, err = rawRows(l.raw)(ctx, "SHOW WARNINGS")
	}
	last := answers[len(answers)-1]
	if err != nil || last.err != nil || l.wire.able() && last.warnings == 0 {
		return answers, false // the server keeps older warnings
	}
	warnings := last.warnings
	if !l.wire.able() {
		warnings = l.count(ctx, "WARNINGS")
	}
	return answers, warnings > len(rows) || slices.ContainsFunc(rows, saysStayed)
}

// count asks how many WARNINGS, or of these ERRORS, the last statement had, whether the session keeps their texts
// (max_error_count) or not.
func (l *link) count(ctx context.Context, what string) int {
	rows, err := rawRows(l.raw)(ctx, "SHOW COUNT(*) "+what)
	if err != nil || len(rows) != 1 {
		return 0
	}
	n, _ := strconv.Atoi(rows[0][0]) // a number
	return n
}

// warnsOfRest reports whether the server said so of the last statement of the session, which has failed. Where it
// warned of something and kept no text, it may have.
func (l *link) warnsOfRest(ctx context.Context) bool {
	rows, err := rawRows(l.raw)(ctx, "SHOW WARNINGS")
	if err != nil {
		return false
	}
	unkept := l.count(ctx, "WARNINGS") - l.count(ctx, "ERRORS")
	for _, row := range rows {
		if row[0] != "Error" {
			unkept--
		}
	}
	return unkept > 0 || slices.ContainsFunc(rows, saysStayed)
}

func saysStayed(row []string) bool { return len(row) > 1 && row[1] == warningStayed }

// warningStayed is ER_WARNING_NOT_COMPLETE_ROLLBACK.
const warningStayed = "1196"

// endedByOthers reports whether the session was sent XA statements that are not ours. It is
// asked only when something is wrong.
func (l *link) endedByOthers(ctx context.Context) (bool, error) {
	rows, err := rawRows(l.raw)(ctx, "SHOW SESSION STATUS WHERE Variable_name IN "+
		"('Com_xa_start', 'Com_xa_end', 'Com_xa_prepare', 'Com_xa_commit', 'Com_xa_rollback')")
	if err != nil {
		return false, fmt.Errorf("count the XA statements of the session: %w", err)
	}
	var n int64
	for _, row := range rows {
		one, err := strconv.ParseInt(row[1], 10, 64)
		if err != nil {
			return false, fmt.Errorf("count the XA statements of the session: %s is not a number", row[0])
		}
		n += one
	}
	return len(rows) != 5 || n != l.xaSent, nil // fewer, if somebody has reset the counters
}

// countChanges asks the session's counters how many rows it has written so far.
func (l *link) countChanges(ctx context.Context) (changes, error) {
	rows, err := rawRows(l.raw)(ctx, "SHOW SESSION STATUS WHERE Variable_name IN "+
		"('Handler_write', 'Handler_update', 'Handler_delete', 'Uptime', 'Uptime_since_flush_status')")
	if err != nil {
		return changes{}, fmt.Errorf("count the rows that were written: %w", err)
	}
	if len(rows) != 5 {
		return changes{}, errors.New("count the rows that were written: the server has no such counters")
	}
	var c changes
	for _, row := range rows {
		n, err := strconv.ParseInt(row[1], 10, 64)
		if err != nil {
			return changes{}, fmt.Errorf("count the rows that were written: %s is not a number", row[0])
		}
		switch strings.ToLower(row[0]) {
		case "uptime":
			c.flush += n
		case "uptime_since_flush_status":
			c.flush -= n
		default:
			c.rows += uint64(n)
		}
	}
	return c, nil
}

// stale reports whether the server may have ended the session because it is idle.
func (l *link) stale(now time.Time) bool { return now.Sub(l.idleSince) > l.lease/2 }

// discard ends the session at the server too, whatever it is doing, and returns when
// it is gone. The server does not notice that a client closed its socket while a
// statement runs. It takes at most cleanupTime, also when ctx has ended.
func (l *link) discard(ctx context.Context) error {
	l.ending.Lock()
	defer l.ending.Unlock()
	l.closeLocked()
	if l.gone {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	err := l.r.onServer(ctx, func(c *sql.Conn, s server) error {
		return holderOf(l.server).end(ctx, c, s)
	})
	l.gone = err == nil
	return err
}

func (l *link) close() {
	l.ending.Lock()
	defer l.ending.Unlock()
	l.closeLocked()
}

func (l *link) closeLocked() {
	if l.closed {
		return
	}
	l.closed = true
	_ = l.db.Close() // of no more use, whatever it says
	_ = l.raw.Close()
}

// once is the connector of a link's *sql.DB: there is one connection.
type once struct {
	conn  *conn
	taken bool
}

var errSessionGone = errors.New("the session of the branch is gone")

func (o *once) Connect(context.Context) (driver.Conn, error) {
	if o.taken {
		return nil, errSessionGone
	}
	o.taken = true
	return o.conn, nil
}

func (o *once) Driver() driver.Driver { return noDriver{} }

// noDriver is there because database/sql wants one to show.
type noDriver struct{}

func (noDriver) Open(string) (driver.Conn, error) {
	return nil, errors.New("branches are opened by a resource")
}
