// SPDX-License-Identifier: Apache-2.0

package mysql

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
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
		return nil, fmt.Errorf("the driver's %T takes no contexts: use a connector of go-sql-driver/mysql", c)
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
		c.Close()
		return nil, err
	}
	l.raw = raw
	if err := l.setUp(ctx); err != nil {
		raw.Close()
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
	limits := fmt.Sprintf("%s, wait_timeout = %d", setLimits(o.LockTimeout), int(o.Lease.Seconds()))
	if l.wire.able() {
		// A statement that travels with an XA START which the server refuses runs outside of
		// the branch. It must not commit by itself, so that the end of the session undoes it.
		limits += ", autocommit = 0"
	}
	return l.exec(ctx, limits)
}

// start opens a branch: where it can, with the next command.
func (l *link) start(ctx context.Context, name string) error {
	command := "XA START " + name
	if l.wire.able() {
		l.wire.send(command)
		return nil
	}
	return l.exec(ctx, command)
}

// started makes sure that the branch is open before a statement that could not be undone
// outside of it.
func (l *link) started(ctx context.Context, name string) error {
	if !l.wire.pending() {
		return nil
	}
	l.wire.drop()
	return l.exec(ctx, "XA START "+name)
}

// exec runs one of our own commands.
func (l *link) exec(ctx context.Context, command string) error {
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
	if l.wire.able() {
		last := len(commands) - 1
		for _, command := range commands[:last] {
			l.wire.send(command)
		}
		err := l.exec(ctx, commands[last])
		if refused := l.wire.refused(); refused != nil {
			return refused
		}
		return err
	}
	if l.server.flavor == flavorMariaDB {
		return l.exec(ctx, l.server.together(commands...))
	}
	for _, command := range commands {
		if err := l.exec(ctx, command); err != nil {
			return err
		}
	}
	return nil
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
			return changes{}, fmt.Errorf("count the rows that were written: %s is no number", row[0])
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

// release gives the session back after its branch has ended.
func (l *link) release() {
	if l.dirty || !l.raw.IsValid() || !l.r.idle.keep(l, time.Now()) {
		l.close()
	}
}

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
	l.wire.drop()
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
