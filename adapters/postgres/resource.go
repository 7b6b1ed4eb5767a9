// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"crypto/tls"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/security"
)

// Defaults of the limits that every branch sets for itself. Two databases make
// deadlocks that neither of them sees, and PostgreSQL waits for a lock for ever. Sessions
// that begin with these very limits, by the settings of the pool, the role or the
// database, save each branch the statements that set them.
const (
	DefaultLockTimeout = 10 * time.Second
	DefaultIdleTimeout = 5 * time.Minute
)

// Resource is one PostgreSQL database. It is safe for concurrent use.
type Resource struct {
	name        string
	pool        *pgxpool.Pool
	ownsPool    bool
	lockTimeout time.Duration
	idleTimeout time.Duration
	noMarker    bool
	markerReady atomic.Bool // branches can leave their markers
	// decisionsReady: last resources can, too
	decisionsReady atomic.Bool
	expected       adapters.Expectation
	trust          security.ServerTrust // of Open
}

var (
	_ adapters.Adapter    = (*Resource)(nil)
	_ adapters.Batching   = (*Resource)(nil)
	_ adapters.Inspector  = (*Resource)(nil)
	_ adapters.Marked     = (*Resource)(nil)
	_ adapters.WaitLister = (*Resource)(nil)
)

// Option changes a default of New.
type Option func(*Resource)

// WithLockTimeout limits how long a statement of a branch waits for a lock. A stricter
// lock_timeout of the server, the database, the role or the pool stays, and with zero any
// does.
func WithLockTimeout(d time.Duration) Option { return func(r *Resource) { r.lockTimeout = d } }

// WithIdleTimeout is the lease of an open branch: the server ends a session that holds
// one and says nothing for so long. A stricter idle_in_transaction_session_timeout stays, and
// with zero any does.
func WithIdleTimeout(d time.Duration) Option { return func(r *Resource) { r.idleTimeout = d } }

// WithoutMarker goes without the table of the evidence, where there must be none. The price: when a
// branch that was decided to commit is not there any more, nothing tells whether it has been committed, and the
// transaction becomes a heuristic hazard, which a person has to look into.
func WithoutMarker() Option { return func(r *Resource) { r.noMarker = true } }

// WithTrust says which servers Open believes. Without it one of another machine is believed by its certificate alone,
// as sslmode=verify-full has it.
func WithTrust(t security.ServerTrust) Option { return func(r *Resource) { r.trust = t } }

// New returns the resource that works through the application's own pool. Its name is
// the one that the coordinator's configuration gives the database. The pool stays the
// application's: Close does not close it.
func New(name string, pool *pgxpool.Pool, options ...Option) *Resource {
	r := &Resource{name: name, pool: pool, lockTimeout: DefaultLockTimeout, idleTimeout: DefaultIdleTimeout}
	for _, option := range options {
		option(r)
	}
	return r
}

// Open returns the resource that works through a small pool of its own, for coordinator
// nodes. It connects when it is first used, so a database that is down is no error
// here. ctx is not kept. The dsn is a URL or keyword=value text, with the settings of
// pgxpool, such as pool_max_conns.
func Open(ctx context.Context, name, dsn string, options ...Option) (*Resource, error) {
	r := New(name, nil, options...)
	config, err := r.parse(dsn)
	if err != nil {
		return nil, err
	}
	// A node ends eight branches at a time, and whoever lists or probes is not to wait for them.
	const connectTimeout, idle, conns = 5 * time.Second, 5 * time.Minute, 12
	if !strings.Contains(dsn, "pool_max_conns") {
		config.MaxConns = conns
	}
	if config.ConnConfig.ConnectTimeout == 0 {
		config.ConnConfig.ConnectTimeout = connectTimeout
	}
	if config.ConnConfig.RuntimeParams["application_name"] == "" {
		config.ConnConfig.RuntimeParams["application_name"] = "concord"
	}
	config.MaxConnIdleTime = idle
	guardPassword(config.ConnConfig)
	pool, err := pgxpool.NewWithConfig(context.WithoutCancel(ctx), config)
	if err != nil {
		return nil, fmt.Errorf("postgres %q: open: %w; check the pool settings in the dsn", name, err)
	}
	r.pool, r.ownsPool = pool, true
	return r, nil
}

// parse reads a data source name. What it leaves open about a server of another machine is verify-full.
func (r *Resource) parse(dsn string) (*pgxpool.Config, error) {
	config, err := pgxpool.ParseConfig(dsn)
	if err == nil && !r.believes(config) && !setsMode.MatchString(dsn) {
		config, err = pgxpool.ParseConfig(withSetting(dsn, "sslmode=verify-full"))
	}
	if err != nil {
		// The parser quotes what it could not read, which may be the password.
		return nil, fmt.Errorf("postgres %q: the dsn cannot be parsed (it is not shown, because it may contain a "+
			"password): write it as postgres://user@host:5432/database", r.name)
	}
	if !r.believes(config) {
		return nil, fmt.Errorf("postgres %q: the sslmode in the dsn lets anybody be the server: leave it out, which "+
			"is verify-full, or say that this is meant with \"tls: insecure\" beside the dsn", r.name)
	}
	authorities, err := r.trust.Authorities()
	if err != nil {
		return nil, fmt.Errorf("postgres %q: tls_ca: %w", r.name, err)
	}
	for _, c := range tlsOf(config.ConnConfig) {
		if c.config != nil && authorities != nil {
			c.config.RootCAs = authorities
		}
	}
	return config, nil
}

// setsMode finds a setting of sslmode in a URL or a keyword=value text. A password that looks like one makes a
// weaker mode an error instead of a stronger one.
var setsMode = regexp.MustCompile(`(^|[?&\s])sslmode\s*=`)

// withSetting adds a setting to a data source name.
func withSetting(dsn, setting string) string {
	switch {
	case !strings.HasPrefix(dsn, "postgres://") && !strings.HasPrefix(dsn, "postgresql://"):
		return dsn + " " + setting
	case strings.Contains(dsn, "?"):
		return dsn + "&" + setting
	}
	return dsn + "?" + setting
}

// believes reports whether each server that may be connected to is the one that is meant.
func (r *Resource) believes(c *pgxpool.Config) bool {
	return !slices.ContainsFunc(tlsOf(c.ConnConfig), func(h hostTLS) bool {
		return !r.trust.Verifies(h.host,
			h.config)
	})
}

type hostTLS struct {
	host   string
	config *tls.Config // nil: none
}

// tlsOf are the ways in which a connection is tried.
func tlsOf(c *pgx.ConnConfig) []hostTLS {
	list := []hostTLS{{c.Host, c.TLSConfig}}
	for _, f := range c.Fallbacks {
		list = append(list, hostTLS{f.Host, f.TLSConfig})
	}
	return list
}

// Name implements adapters.Resource.
func (r *Resource) Name() string { return r.name }

// Driver implements adapters.Resource.
func (r *Resource) Driver() string { return "postgres" }

// Identity returns "postgres:<system identifier>:<oid of the database>".
func (r *Resource) Identity(ctx context.Context) (string, error) {
	var identity string
	err := r.with(ctx, func(conn *pgx.Conn) error {
		s, err := serverOf(ctx, conn)
		identity = "postgres:" + s.system + ":" + s.database
		return err
	})
	if err != nil {
		return "", r.explain(asking, "identify", err)
	}
	return identity, nil
}

// TxOptions are wishes for one transaction. The zero value wishes nothing.
type TxOptions struct {
	Isolation   pgx.TxIsoLevel // empty: the server's default
	ReadOnly    bool
	LockTimeout time.Duration // zero: that of the resource; a stricter one of the server stays
}

// Tx returns the branch of g in this database as a transaction to work in. Commit on
// it means "this part of the work is complete"; Rollback means that g must not commit.
// The branch is voted on and ended when g ends, whether Commit was called or not. Every
// call returns a handle of its own on the same branch.
func (r *Resource) Tx(ctx context.Context, g adapters.Global) (pgx.Tx, error) {
	return r.TxWith(ctx, g, TxOptions{})
}

// TxWith is Tx with options. They can only be set by the first call within a global
// transaction, before its first statement.
func (r *Resource) TxWith(ctx context.Context, g adapters.Global, options TxOptions) (pgx.Tx, error) {
	s, err := r.branchOf(ctx, g, options)
	if err != nil {
		return nil, err
	}
	return &handle{session: s}, nil
}

// branchOf returns the branch of g to work in.
func (r *Resource) branchOf(ctx context.Context, g adapters.Global, options TxOptions) (*session, error) {
	enlisted, err := g.Enlist(ctx, r)
	if err != nil {
		return nil, err
	}
	s, ok := enlisted.(*session)
	if !ok {
		return nil, fmt.Errorf("postgres %q: the branch of that name belongs to another kind of resource: give each "+
			"resource a name of its own", r.name)
	}
	if err := s.usable(); err != nil {
		return nil, err
	}
	if options != (TxOptions{}) {
		if err := s.configure(ctx, options); err != nil {
			return nil, r.explain(asking, "set options of "+s.x.String(), err)
		}
	}
	return s, nil
}

// closeTime is how long Close waits.
const closeTime = 5 * time.Second

// Close closes the pool that Open made, and waits for its connections, for some seconds at most. It is an error if some
// are still in use then.
func (r *Resource) Close() error {
	if !r.ownsPool {
		return nil
	}
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		r.pool.Close()
	}()
	select {
	case <-closed:
		return nil
	case <-time.After(closeTime):
		return fmt.Errorf("postgres %q: close: %d connections are still in use: end the transactions first", r.name,
			r.pool.Stat().AcquiredConns())
	}
}

// with lends a connection. One that comes back broken or inside a transaction is
// destroyed by the pool.
func (r *Resource) with(ctx context.Context, do func(*pgx.Conn) error) error {
	conn, err := r.acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	return do(conn.Conn())
}

// acquire waits for a connection. If it waited in vain because all are lent, the error
// names the pool, which nobody would think of when a transaction hangs.
func (r *Resource) acquire(ctx context.Context) (*pgxpool.Conn, error) {
	began := time.Now()
	conn, err := r.pool.Acquire(ctx)
	if err == nil {
		return conn, nil
	}
	if stat := r.pool.Stat(); ctx.Err() != nil && stat.AcquiredConns() >= stat.MaxConns() {
		return nil, fmt.Errorf("no connection of the pool became free in %v: all %d are in use: a branch keeps one "+
			"until its global transaction ends, so a transaction begun inside another needs a second one: raise "+
			"pool_max_conns, or end the outer transaction first: %w",
			time.Since(began).Round(time.Millisecond), stat.MaxConns(), err)
	}
	return nil, err
}

// guardPassword keeps the password from whoever asks for it as it is without having shown who he is: with
// other ways of authentication a server learns nothing that it does not know. Who wants that sets
// require_auth in the dsn, or lets the server be verified by sslmode.
func guardPassword(c *pgx.ConnConfig) {
	verified := !slices.ContainsFunc(tlsOf(c), func(h hostTLS) bool { return !verifies(h.config) })
	if c.RequireAuth == "" && !verified {
		c.RequireAuth = "!password"
	}
}

func verifies(c *tls.Config) bool {
	return c != nil && (!c.InsecureSkipVerify || c.VerifyPeerCertificate != nil || c.VerifyConnection != nil)
}
