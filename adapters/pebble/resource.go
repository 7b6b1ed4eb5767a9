// SPDX-License-Identifier: Apache-2.0

package pebble

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/internal/lock"
	"github.com/concordtx/concord/txn"
)

// Resource is a handle on one store.
type Resource struct {
	name   string
	store  *store
	closed atomic.Bool
}

var (
	_ adapters.Adapter = (*Resource)(nil)
	_ adapters.Failing = (*session)(nil)
	_ adapters.Reading = (*session)(nil)
)

// New makes a store of the application's own take part. It undoes what a crash left
// unprepared before it returns. The application closes db, after the resource.
func New(name string, db *pebble.DB) (*Resource, error) {
	s, err := newStore(db, false)
	if err != nil {
		return nil, fmt.Errorf("resource %s: %w", name, err)
	}
	return &Resource{name: name, store: s}, nil
}

// Open opens the store in dir, or makes one there, and closes it with the last handle.
// What it makes is for the owner of the process alone: an engine leaves that to others.
func Open(name, dir string) (*Resource, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("resource %s: create the store: %w; name another directory", name, err)
	}
	db, err := pebble.Open(dir, &pebble.Options{
		FormatMajorVersion: pebble.FormatNewest,
		Logger:             engineLog{slog.Default().With("resource", name)},
	})
	if err != nil {
		return nil, fmt.Errorf("resource %s: open the store %s: %w; only one process at a time can open "+
			"it", name, dir, err)
	}
	s, err := newStore(db, true)
	if err != nil {
		_ = db.Close() // the first error is the one that matters
		return nil, fmt.Errorf("resource %s: store %s: %w", name, dir, err)
	}
	return &Resource{name: name, store: s}, nil
}

// engineLog passes on Pebble's errors and drops its diary.
type engineLog struct{ log *slog.Logger }

func (l engineLog) Infof(string, ...any) {}

func (l engineLog) Errorf(format string, args ...any) {
	l.log.Error("store error", "err", fmt.Sprintf(format, args...))
}

// Fatalf ends the process, as Pebble asks: nobody knows what the disk holds after a
// failed write.
func (l engineLog) Fatalf(format string, args ...any) {
	l.log.Error("the store cannot be written, so the process exits: check the disk's free space and its health, "+
		"then start again",
		"err", fmt.Sprintf(format, args...))
	os.Exit(1)
}

// Share returns another handle on the same store, closed on its own.
func (r *Resource) Share() *Resource {
	r.store.addHandle()
	return &Resource{name: r.name, store: r.store}
}

// Tx returns this resource's branch of g to work in.
func (r *Resource) Tx(ctx context.Context, g adapters.Global) (*Tx, error) {
	enlisted, err := g.Enlist(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("enlist %s: %w", r.name, err)
	}
	s, ours := enlisted.(*session)
	if !ours || s.store != r.store {
		return nil, fmt.Errorf("enlist %s: the transaction has a branch of another store under this name: give each "+
			"its own", r.name)
	}
	return &Tx{store: s.store, branch: s.branch}, nil
}

// Get returns a copy of the last committed value of a key. It waits for no lock, and
// two calls may see two different moments.
func (r *Resource) Get(key []byte) (value []byte, found bool, err error) {
	release, err := r.store.use()
	if err != nil {
		return nil, false, err
	}
	defer release()
	return r.store.committed(key)
}

// Name is the name that the application and the coordinator share.
func (r *Resource) Name() string { return r.name }

// Driver is "pebble".
func (r *Resource) Driver() string { return "pebble" }

// Identity is a random name that the store keeps.
func (r *Resource) Identity(ctx context.Context) (string, error) {
	return r.store.identity, ctx.Err()
}

// Open begins a branch.
func (r *Resource) Open(ctx context.Context, x txn.XID) (adapters.Session, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("begin %s: %w", x, err)
	}
	release, err := r.store.use()
	if err != nil {
		return nil, fmt.Errorf("begin %s: %w", x, err)
	}
	defer release()
	b, err := r.store.begin(x)
	if err != nil {
		return nil, fmt.Errorf("begin %s: %w", x, err)
	}
	return &session{store: r.store, branch: b, resource: r.name}, nil
}

// Commit finishes a prepared branch. A marker is the evidence that it was finished
// before; without it the answer is Lost.
func (r *Resource) Commit(ctx context.Context, x txn.XID, _ txn.Branch) (txn.Finish, error) {
	return r.store.finish(ctx, x, txn.Commit)
}

// Rollback ends a branch. One that still works is ended too, so that it cannot be
// prepared afterwards.
func (r *Resource) Rollback(ctx context.Context, x txn.XID, _ txn.Branch) (txn.Finish, error) {
	return r.store.finish(ctx, x, txn.Abort)
}

// finish ends an open branch or asks the evidence about one that is not there.
func (s *store) finish(ctx context.Context, x txn.XID, d txn.Decision) (txn.Finish, error) {
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("%s %s: %w", d, x, err)
	}
	release, err := s.use()
	if err != nil {
		return 0, fmt.Errorf("%s %s: %w", d, x, err)
	}
	defer release()
	did := false
	if b := s.find(x); b != nil {
		did, err = s.finishOpen(b, d)
	}
	if err != nil {
		return 0, fmt.Errorf("%s %s: %w", d, x, err)
	}
	if did {
		return txn.Done, nil
	}
	committed, err := s.journal.Committed(x)
	switch {
	case err != nil:
		return 0, fmt.Errorf("%s %s: %w", d, x, err)
	case committed && d == txn.Commit, !committed && d == txn.Abort:
		return txn.AlreadyDone, nil
	case committed:
		return txn.Contradicted, nil
	default:
		return txn.Lost, nil
	}
}

// finishOpen does nothing if somebody else was faster.
func (s *store) finishOpen(b *branch, d txn.Decision) (did bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.state == ended:
		return false, nil
	case d == txn.Abort:
		return true, s.rollback(b)
	case b.state == prepared:
		return true, s.commit(b)
	default:
		return false, errors.New("the branch is not prepared yet: its session must vote first")
	}
}

// markerEvidence in a branch record says that the branch leaves a marker when it commits.
const markerEvidence = "marker"

// Validate implements adapters.Resource. Branches here have no holder that matters.
func (r *Resource) Validate(b txn.Branch) error {
	if b.Evidence != "" && b.Evidence != markerEvidence || b.Holder != "" {
		return errors.New("the evidence or the holder is not that of a Pebble store: run the newest version of " +
			"concord on all nodes")
	}
	return nil
}

// Recover lists the prepared branches.
func (r *Resource) Recover(ctx context.Context) ([]adapters.Prepared, error) {
	release, err := r.store.use()
	if err != nil {
		return nil, fmt.Errorf("recover: %w", err)
	}
	defer release()
	r.store.mu.Lock()
	open := make([]*branch, 0, len(r.store.branches))
	for _, b := range r.store.branches {
		open = append(open, b)
	}
	r.store.mu.Unlock()
	var list []adapters.Prepared
	for _, b := range open {
		b.mu.Lock()
		if b.state == prepared {
			list = append(list, adapters.Prepared{XID: b.journal.XID, Since: b.journal.Since, Last: b.journal.Last})
		}
		b.mu.Unlock()
	}
	return list, ctx.Err()
}

// Forget drops the markers of finished branches.
func (r *Resource) Forget(ctx context.Context, xs []txn.XID) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("forget: %w", err)
	}
	release, err := r.store.use()
	if err != nil {
		return fmt.Errorf("forget: %w", err)
	}
	defer release()
	return r.store.journal.Forget(xs)
}

// Evidence lists the markers that are kept.
func (r *Resource) Evidence(ctx context.Context, after txn.XID) ([]txn.XID, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("list the evidence: %w", err)
	}
	release, err := r.store.use()
	if err != nil {
		return nil, fmt.Errorf("list the evidence: %w", err)
	}
	defer release()
	return r.store.journal.Markers(after, adapters.EvidencePage)
}

// Check tells the version. What would make a store unfit was found when it was opened.
func (r *Resource) Check(ctx context.Context) (adapters.Report, error) {
	list, err := r.Recover(ctx)
	if err != nil {
		return adapters.Report{}, err
	}
	return adapters.Report{
		Version:  fmt.Sprintf("Pebble, format %s", r.store.db.FormatMajorVersion()),
		Findings: []adapters.Finding{{What: "prepared branches", Detail: fmt.Sprint(len(list))}},
	}, nil
}

// Close gives this handle back. The last one closes a store that Open opened.
func (r *Resource) Close() error {
	if r.closed.Swap(true) {
		return nil
	}
	return r.store.dropHandle()
}

// Transient implements adapters.Opener.
func (r *Resource) Transient(err error) bool {
	return errors.Is(err, lock.ErrDeadlock) || errors.Is(err, ErrLockTimeout)
}
