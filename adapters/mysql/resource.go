// SPDX-License-Identifier: Apache-2.0

package mysql

import (
	"context"
	"crypto/tls"
	"database/sql"
	"database/sql/driver"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	sqldriver "github.com/go-sql-driver/mysql"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/security"
	"github.com/concordtx/concord/txn"
)

// Options changes how a resource works. The zero value is right for most.
type Options struct {
	// NoMarker switches evidence off: no table, no row per branch, and no answer where
	// the server leaves one open (see the package comment). Applications and coordinator
	// nodes have to agree on it.
	NoMarker bool
	// LockTimeout limits every lock wait of a branch. Whole seconds; less than one means 10 s.
	LockTimeout time.Duration
	// Lease is how long a session may be idle before the server ends it: an open branch
	// is rolled back, a prepared one can then be finished by others. It has to be longer
	// than a transaction thinks and a decision takes. Whole seconds; less than one means 5 minutes.
	Lease time.Duration
	// MaxOpen is how many sessions there are at most, and so how many branches are open at
	// once: the next one waits. 0 means 24. Four connections more may be open for a short time,
	// to end sessions.
	MaxOpen int
	// MaxIdle is how many sessions are kept for the next branch; 0 means MaxOpen.
	MaxIdle int
	// Trust says which servers Open believes: without it one of another machine by its certificate alone.
	Trust security.ServerTrust
}

func (o Options) withDefaults() Options {
	if o.LockTimeout < time.Second {
		o.LockTimeout = 10 * time.Second
	}
	if o.Lease < time.Second {
		o.Lease = 5 * time.Minute
	}
	if o.MaxOpen <= 0 {
		o.MaxOpen = 24
	}
	if o.MaxIdle <= 0 || o.MaxIdle > o.MaxOpen {
		o.MaxIdle = o.MaxOpen
	}
	return o
}

const (
	// cleanupTime is how long a call may go on after its context has ended, to leave no
	// locks behind.
	cleanupTime = 3 * time.Second
	// finishTime limits one attempt of the recovery half.
	finishTime = 30 * time.Second
	// detachTime is how long a session that has left the list of connections may need to
	// let go of its branch: MariaDB takes it off the list first.
	detachTime = time.Second
	// recoveryConns limits the connections of the recovery half: whoever lists or probes is not to wait for those
	// that end branches, of which a node ends eight at a time.
	recoveryConns = 12
	// factsAge is for how long what a connection said of its server counts when a branch is ended.
	factsAge = time.Second
)

// Resource is one database of a MySQL or MariaDB server.
type Resource struct {
	name      string
	connector driver.Connector
	options   Options
	db        *sql.DB // of the recovery half and for KILL
	pool      *pool

	expected    adapters.Expectation
	markerReady atomic.Bool               // the marker table is there and can be written
	outsiders   atomic.Pointer[outsiders] // nil: never asked
	// decisionsReady: it has room for those of last resources
	decisionsReady atomic.Bool

	listed lastList
	facts  facts
	gone   gone                            // sessions that held branches
	pause  func(ctx context.Context) error // waits for detachTime
}

var (
	_ adapters.Adapter    = (*Resource)(nil)
	_ adapters.Batching   = (*Resource)(nil)
	_ adapters.Inspector  = (*Resource)(nil)
	_ adapters.Logging    = (*Resource)(nil)
	_ adapters.Marked     = (*Resource)(nil)
	_ adapters.WaitLister = (*Resource)(nil)
)

// New makes a resource of an application's own connector, best one of NewConnector. It
// opens no connection yet.
func New(name string, c driver.Connector) *Resource {
	return NewWithOptions(name, c, Options{})
}

// NewWithOptions is New with options.
func NewWithOptions(name string, c driver.Connector, o Options) *Resource {
	o = o.withDefaults()
	r := &Resource{name: name, connector: c, options: o, pool: newPool(o), pause: awaitDetach}
	r.db = sql.OpenDB(limitedConnector{c, o.LockTimeout})
	r.db.SetMaxOpenConns(recoveryConns)
	r.db.SetMaxIdleConns(recoveryConns)
	r.db.SetConnMaxIdleTime(time.Minute)
	return r
}

// ErrBadDSN says that a data source name cannot be used. The name itself is not
// repeated: it may hold a password.
var ErrBadDSN = errors.New("bad data source name: want user:password@tcp(host:port)/database")

// Open makes a resource of a data source name of go-sql-driver. It opens no
// connection yet. The error wraps ErrBadDSN.
func Open(name, dsn string) (*Resource, error) {
	return OpenWithOptions(name, dsn, Options{})
}

// OpenWithOptions is Open with options.
func OpenWithOptions(name, dsn string, o Options) (*Resource, error) {
	cfg, err := sqldriver.ParseDSN(dsn)
	// What the parser or the resolver would complain about may be a piece of a password
	// that has a character of the grammar in it.
	if err != nil || cfg.Net != "tcp" && cfg.Net != "unix" || cfg.DBName == "" || strings.ContainsAny(cfg.DBName,
		"@():/") || strings.ContainsAny(cfg.Addr, "@") {
		return nil, fmt.Errorf("resource %q: %w", name, ErrBadDSN)
	}
	if err := verified(cfg, o.Trust); err != nil {
		return nil, fmt.Errorf("resource %q: %w", name, err)
	}
	cfg.MultiStatements = false
	if cfg.Timeout == 0 {
		cfg.Timeout = 10 * time.Second
	}
	connector, err := NewConnector(cfg)
	if err != nil {
		return nil, fmt.Errorf("resource %q: %w", name, ErrBadDSN)
	}
	return NewWithOptions(name, connector, o), nil
}

var errAnybody = errors.New("the tls in the dsn lets anybody be the server: leave it out, which is tls=true, or say " +
	"that this is meant with \"tls: insecure\" beside the dsn")

// verified has a server of another machine show who it is, where the data source name leaves that open.
func verified(cfg *sqldriver.Config, trust security.ServerTrust) error {
	if cfg.Net == "unix" {
		return nil
	}
	host, _, err := net.SplitHostPort(cfg.Addr)
	if err != nil || host == "" {
		return ErrBadDSN
	}
	if cfg.TLSConfig == "" && !trust.Verifies(host, cfg.TLS) {
		cfg.TLS = &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host}
	}
	if !trust.Verifies(host, cfg.TLS) || cfg.AllowFallbackToPlaintext && !trust.Verifies(host, nil) {
		return errAnybody
	}
	authorities, err := trust.Authorities()
	if err != nil {
		return fmt.Errorf("tls_ca: %w", err)
	}
	if authorities != nil && cfg.TLS != nil {
		cfg.TLS.RootCAs = authorities
	}
	return nil
}

// Name is the name that the application and the coordinator share.
func (r *Resource) Name() string { return r.name }

// Driver is "mysql", for MariaDB too.
func (r *Resource) Driver() string { return "mysql" }

// onServer runs do on one connection of the recovery half.
func (r *Resource) onServer(ctx context.Context, do func(*sql.Conn, server) error) error {
	c, err := r.db.Conn(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	s, err := askServer(ctx, sqlRows(c))
	if err != nil {
		return err
	}
	return do(c, s)
}

// facts are what connections of the recovery half said of their servers a moment ago: to end one branch after the
// other, nobody asks for each.
type facts struct {
	mu sync.Mutex
	of map[any]fact // by the driver's connection
}

type fact struct {
	server server
	at     time.Time
}

// onKnownServer is onServer for one of many calls that follow one another.
func (r *Resource) onKnownServer(ctx context.Context, do func(*sql.Conn, server) error) error {
	c, err := r.db.Conn(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	var key any
	if err := c.Raw(func(own any) error { key = own; return nil }); err != nil {
		return err
	}
	now := time.Now()
	r.facts.mu.Lock()
	known, ok := r.facts.of[key]
	r.facts.mu.Unlock()
	if !ok || now.Sub(known.at) > factsAge {
		if known.server, err = askServer(ctx, sqlRows(c)); err != nil {
			return err
		}
		r.facts.mu.Lock()
		if len(r.facts.of) >= 2*recoveryConns || r.facts.of == nil { // most are of connections that are gone
			r.facts.of = map[any]fact{}
		}
		r.facts.of[key] = fact{known.server, now}
		r.facts.mu.Unlock()
	}
	return do(c, known.server)
}

// Tx returns the branch of g to work in, opening it at first use.
func (r *Resource) Tx(ctx context.Context, g adapters.Global) (*sql.Tx, error) {
	return r.TxWith(ctx, g, TxOptions{})
}

// TxWith is Tx with options. They can only be set by the first call within a global
// transaction, before its first statement.
func (r *Resource) TxWith(ctx context.Context, g adapters.Global, o TxOptions) (*sql.Tx, error) {
	enlisted, err := g.Enlist(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("enlist %s: %w", r.name, err)
	}
	s, ours := enlisted.(*session)
	if !ours {
		return nil, fmt.Errorf("enlist %s: the transaction has a branch of another kind of resource under this "+
			"name: give each its own", r.name)
	}
	return s.work(ctx, o)
}

// Open begins a branch on a session of its own. The server hears of it with its first
// statement.
func (r *Resource) Open(ctx context.Context, x txn.XID) (adapters.Session, error) {
	if err := r.prepareMarker(ctx); err != nil {
		return nil, fmt.Errorf("begin %s at %s: %w", x, r.name, advise(err))
	}
	if r.outsiders.Load() == nil {
		r.askOutsiders(ctx)
	}
	l, err := r.pool.take(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("begin %s at %s: %w", x, r.name, advise(err))
	}
	return newSession(r, l, x), nil
}

// Close closes the connections that no branch uses. Branches that are open may be
// ended afterwards.
func (r *Resource) Close() error {
	for _, l := range r.pool.close() {
		l.close()
	}
	if err := r.db.Close(); err != nil {
		return fmt.Errorf("close %s: %w", r.name, err)
	}
	return nil
}

func awaitDetach(ctx context.Context) error { return wait(ctx, detachTime) }

// wait returns after d, or with the error of a context that ends before.
func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// limitedConnector limits the lock waits of its connections.
type limitedConnector struct {
	driver.Connector
	timeout time.Duration
}

func (c limitedConnector) Connect(ctx context.Context) (driver.Conn, error) {
	var w *wire
	conn, err := c.Connector.Connect(context.WithValue(ctx, wireKey{}, &w))
	if err != nil {
		return nil, err
	}
	raw, err := asRaw(conn)
	if err == nil {
		_, err = raw.ExecContext(ctx, startClean+", "+lockLimit(c.timeout), nil)
	}
	if err != nil {
		_ = conn.Close() // the error that is returned matters more
		return nil, err
	}
	if begins, ok := conn.(driver.ConnBeginTx); ok && w.able() {
		w.settled = true
		return &wired{raw, begins, w}, nil
	}
	return conn, nil
}

// startClean undoes defaults of the server that leave a transaction open where XA wants none.
const startClean = "SET SESSION autocommit = 1, completion_type = 0"

// lockLimit is for a SET SESSION: it limits the lock waits of a session that has no stricter
// limit yet.
func lockLimit(t time.Duration) string {
	return limit("innodb_lock_wait_timeout", t) + ", " + limit("lock_wait_timeout", t)
}

func limit(variable string, t time.Duration) string {
	return fmt.Sprintf("%[1]s = CAST(LEAST(@@SESSION.%[1]s, %d) AS UNSIGNED)", variable, int(t.Seconds()))
}

var errNotOurs = errors.New("it is not in a form that this version writes: run the newest version of concord on all " +
	"nodes")

// Validate implements adapters.Resource. It knows the form of a holder, not whether that
// session ever held the branch: who ends a session looks for himself.
func (r *Resource) Validate(b txn.Branch) error {
	if b.Evidence != "" && b.Evidence != markerEvidence {
		return fmt.Errorf("evidence: %w", errNotOurs)
	}
	if b.Holder == "" {
		return nil
	}
	h, ok := parseHolder(b.Holder)
	if _, err := hex.DecodeString(h.server); !ok || err != nil || h.connection == 0 || h.start <= 0 {
		return fmt.Errorf("holder: %w", errNotOurs)
	}
	return nil
}

// TxOptions are wishes for one branch. The zero value wishes nothing.
type TxOptions struct {
	Isolation sql.IsolationLevel // LevelDefault: the server's
	// ReadOnly makes the server refuse writes. Such a branch ends at its vote, and its locks
	// with it.
	ReadOnly    bool
	LockTimeout time.Duration // in whole seconds, rounded up; zero: that of the resource
}

var errLateOptions = errors.New("the branch already has options or has run statements: give the options with the " +
	"first call of TxWith")

// check tells whether the servers know what is wished for.
func (o TxOptions) check() error {
	switch o.Isolation {
	case sql.LevelDefault, sql.LevelReadUncommitted, sql.LevelReadCommitted, sql.LevelRepeatableRead,
		sql.LevelSerializable:
	default:
		return fmt.Errorf("there is no isolation level %q: use read uncommitted, read committed, repeatable read or "+
			"serializable", o.Isolation)
	}
	if o.LockTimeout < 0 {
		return fmt.Errorf("a lock timeout of %s is negative: give one of at least a second", o.LockTimeout)
	}
	return nil
}

// level is the statement that gives the next transaction its level, or nothing.
func (o TxOptions) level() string {
	var wishes []string
	if o.Isolation != sql.LevelDefault {
		wishes = append(wishes, "ISOLATION LEVEL "+strings.ToUpper(o.Isolation.String()))
	}
	if o.ReadOnly {
		wishes = append(wishes, "READ ONLY")
	}
	if wishes == nil {
		return ""
	}
	return "SET TRANSACTION " + strings.Join(wishes, ", ")
}

// lockTimeout is the limit of lock waits in a branch.
func (r *Resource) lockTimeout(o TxOptions) time.Duration {
	if o.LockTimeout > 0 {
		return o.LockTimeout
	}
	return r.options.LockTimeout
}
