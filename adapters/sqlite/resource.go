// SPDX-License-Identifier: Apache-2.0

package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/driver"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/txn"
)

// DefaultLockTimeout is how long a branch waits for the write lock of the file.
const DefaultLockTimeout = 10 * time.Second

const (
	// settleTime is how long whoever is no branch waits for the write lock of the file.
	settleTime = 2 * time.Second
	// graceTime is how long a call works on after its context has ended, to undo things.
	graceTime = 3 * time.Second
	// most connections of branches, of which one works and the others wait or are idle.
	mostConns, idleConns = 16, 4
)

// Resource is a handle on one file. It is safe for concurrent use.
type Resource struct {
	name        string
	path        string
	file        os.FileInfo // what path named when it was opened
	identity    string
	lockTimeout time.Duration
	db          *sql.DB // what has no branch
	branches    *sql.DB // over links
	expected    adapters.Expectation
}

var (
	_ adapters.Adapter = (*Resource)(nil)
	_ adapters.Marked  = (*Resource)(nil)
	_ adapters.Settler = (*Resource)(nil)
)

// Option changes a default of Open.
type Option func(*Resource)

// WithLockTimeout limits how long the first statement of a branch waits for the write lock of the file.
func WithLockTimeout(d time.Duration) Option { return func(r *Resource) { r.lockTimeout = d } }

// Open opens a file, or makes one. Others may have it open, in this process or another one of the machine.
func Open(name, path string, options ...Option) (*Resource, error) {
	r := &Resource{name: name, lockTimeout: DefaultLockTimeout}
	for _, option := range options {
		option(r)
	}
	if err := r.open(path); err != nil {
		return nil, fmt.Errorf("sqlite %q: open %s: %w; it must be a SQLite database on a local disk that this user "+
			"may write, in a directory that exists", name, path, err)
	}
	return r, nil
}

func (r *Resource) open(path string) (err error) {
	if r.path, err = filepath.Abs(path); err != nil {
		return err
	}
	if r.db, err = driver.Open(r.dsn(settleTime)); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), r.lockTimeout+settleTime)
	defer cancel()
	if r.identity, err = makeTables(ctx, r.db); err != nil {
		return errors.Join(err, r.db.Close())
	}
	if r.file, err = os.Stat(r.path); err != nil {
		return errors.Join(err, r.db.Close())
	}
	inner, err := (&driver.SQLite{}).OpenConnector(r.dsn(r.lockTimeout))
	if err != nil {
		return errors.Join(err, r.db.Close())
	}
	r.branches = sql.OpenDB(&connector{inner})
	r.branches.SetMaxOpenConns(mostConns)
	r.branches.SetMaxIdleConns(idleConns)
	return nil
}

var errMoved = errors.New("its path names another file than the one that was opened, or none: somebody moved, " +
	"deleted or replaced it; open the resource again, and do that to a file only while nobody has it open")

// inPlace reports an error if what is committed now would not be found under the path any more. With a write-ahead log
// SQLite itself does not notice.
func (r *Resource) inPlace() error {
	now, err := os.Stat(r.path)
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", errMoved, err)
	case !os.SameFile(now, r.file):
		return errMoved
	}
	return nil
}

// dsn is what every connection begins with. EXTRA flushes the directory as well, where the file has no write-ahead log.
func (r *Resource) dsn(wait time.Duration) string {
	u := url.URL{Scheme: "file", Path: r.path, RawQuery: url.Values{"_pragma": {
		fmt.Sprintf("busy_timeout(%d)", wait.Milliseconds()), "synchronous(extra)", "foreign_keys(on)"}}.Encode()}
	return u.String()
}

// Tx returns the branch of g in this file as a transaction to work in. Commit on it means "this part of the work is
// complete"; Rollback means that g must not commit. The branch ends when g ends, whether Commit was called or not.
func (r *Resource) Tx(ctx context.Context, g adapters.Global) (*sql.Tx, error) {
	enlisted, err := g.Enlist(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("enlist %s: %w", r.name, err)
	}
	s, ours := enlisted.(*session)
	if !ours || s.r.path != r.path {
		return nil, fmt.Errorf("enlist %s: the transaction has a branch of another database under this name: give "+
			"each its own", r.name)
	}
	return s.work(ctx)
}

// Name implements adapters.Resource.
func (r *Resource) Name() string { return r.name }

// Driver implements adapters.Resource.
func (r *Resource) Driver() string { return "sqlite" }

// Identity is a random name that the file keeps.
func (r *Resource) Identity(ctx context.Context) (string, error) {
	return "sqlite:" + r.identity, ctx.Err()
}

// Commit finds no prepared branch, and no evidence of one: there are none in a SQLite file.
func (r *Resource) Commit(ctx context.Context, _ txn.XID, _ txn.Branch) (txn.Finish, error) {
	return txn.Lost, r.explain("commit", r.notBehind(ctx, r.db))
}

// Rollback has nothing to end: there are no prepared branches in a SQLite file.
func (r *Resource) Rollback(ctx context.Context, _ txn.XID, _ txn.Branch) (txn.Finish, error) {
	return txn.AlreadyDone, r.explain("roll back", r.notBehind(ctx, r.db))
}

// Recover lists nothing: there are no prepared branches in a SQLite file.
func (r *Resource) Recover(ctx context.Context) ([]adapters.Prepared, error) { return nil, ctx.Err() }

// Validate refuses every evidence and holder: branches here have none.
func (r *Resource) Validate(b txn.Branch) error {
	if b.Evidence != "" || b.Holder != "" {
		return errors.New("a SQLite file has no prepared branches, so there is no evidence and no holder of one: " +
			"run the newest version of concord on all nodes")
	}
	return nil
}

// Check tells the version, and whether the file can be written.
func (r *Resource) Check(ctx context.Context) (adapters.Report, error) {
	var version, mode string
	err := r.db.QueryRowContext(ctx, "SELECT sqlite_version(), journal_mode FROM pragma_journal_mode").Scan(&version,
		&mode)
	if err != nil {
		return adapters.Report{}, r.explain("check", err)
	}
	journal := adapters.Finding{What: "journal_mode", Detail: mode}
	if mode != "wal" {
		journal.Fix = "PRAGMA journal_mode = WAL: otherwise readers and commits wait for each other"
	}
	return adapters.Report{Version: "SQLite " + version, NotBranch: "SQLite has no prepared transactions",
		Findings: []adapters.Finding{{What: "file", Detail: r.path}, journal, r.writable(ctx)}}, nil
}

// writable takes the write lock for a moment.
func (r *Resource) writable(ctx context.Context) adapters.Finding {
	f := adapters.Finding{What: "writes", Detail: "possible"}
	switch err := inTx(ctx, r.db, func(*sql.Tx) error { return nil }); {
	case isBusy(err):
		f.Detail, f.Fix = "somebody is writing at the moment", "ask again; if it stays so, look for a process that "+
			"keeps a transaction open in the file"
	case err != nil:
		f.Detail, f.Problem, f.Fix = err.Error(), true, "let the user of this process write the file and its directory"
	}
	return f
}

// Close releases the connections.
func (r *Resource) Close() error { return errors.Join(r.branches.Close(), r.db.Close()) }

// Transient implements adapters.Opener.
func (r *Resource) Transient(err error) bool { return isBusy(err) }

func isBusy(err error) bool { return errors.Is(err, sqlite3.BUSY) || errors.Is(err, sqlite3.LOCKED) }

func isDuplicate(err error) bool { return errors.Is(err, sqlite3.CONSTRAINT_PRIMARYKEY) }

// explain puts the resource and what it was asked for in front of an error.
func (r *Resource) explain(operation string, err error) error {
	switch {
	case err == nil:
		return nil
	case isBusy(err):
		err = fmt.Errorf("the file is being written by somebody else for longer than that is waited for: try again, "+
			"or look for a process that keeps a transaction open in it: %w", err)
	}
	return fmt.Errorf("sqlite %q: %s: %w", r.name, operation, err)
}
