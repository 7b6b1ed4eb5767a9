// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/internal/lock"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

// Resource is one connection to a Disk.
type Resource struct {
	name     string
	disk     *Disk
	expected adapters.Expectation
}

var (
	_ adapters.Adapter   = (*Resource)(nil)
	_ adapters.Inspector = (*Resource)(nil)
	_ adapters.Marked    = (*Resource)(nil)
	_ adapters.Counted   = (*session)(nil)
	_ adapters.Failing   = (*session)(nil)
	_ adapters.Reading   = (*session)(nil)
)

// New connects to a disk.
func New(name string, disk *Disk) *Resource { return &Resource{name: name, disk: disk} }

// Tx returns this resource's branch of g to work in.
func (r *Resource) Tx(ctx context.Context, g adapters.Global) (*Tx, error) {
	enlisted, err := g.Enlist(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("enlist %s: %w", r.name, err)
	}
	s, ours := enlisted.(*session)
	if !ours {
		return nil, fmt.Errorf("enlist %s: the transaction has a branch of another kind of resource under this "+
			"name: give each its own", r.name)
	}
	return &Tx{disk: s.resource.disk, branch: s.branch}, nil
}

// Name is the name that the application and the coordinator share.
func (r *Resource) Name() string { return r.name }

// Driver is "memory".
func (r *Resource) Driver() string { return "memory" }

// Identity is a random name of the disk.
func (r *Resource) Identity(ctx context.Context) (string, error) {
	return "memory " + r.disk.id, ctx.Err()
}

// Open begins a branch.
func (r *Resource) Open(ctx context.Context, x txn.XID) (adapters.Session, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("begin %s: %w", x, err)
	}
	b, err := r.disk.begin(x)
	if err != nil {
		return nil, err
	}
	return &session{resource: r, branch: b}, nil
}

// Commit finishes a prepared branch.
func (r *Resource) Commit(ctx context.Context, x txn.XID, _ txn.Branch) (txn.Finish, error) {
	if err := r.notBehind(ctx); err != nil {
		return 0, err
	}
	return r.disk.finish(ctx, x, txn.Commit)
}

// Rollback ends a branch. One that is still open is ended too, so that it cannot be
// prepared later.
func (r *Resource) Rollback(ctx context.Context, x txn.XID, _ txn.Branch) (txn.Finish, error) {
	if err := r.notBehind(ctx); err != nil {
		return 0, err
	}
	return r.disk.finish(ctx, x, txn.Abort)
}

// Expect implements adapters.Marked.
func (r *Resource) Expect(c txn.ClusterID, least zab.Zxid) { r.expected.Expect(c, least) }

func (r *Resource) notBehind(ctx context.Context) error {
	e := r.expected.Now()
	if e.IsZero() {
		return nil
	}
	_, err := r.HighWater(ctx, e.Cluster)
	return err
}

// HighWater implements adapters.Marked.
func (r *Resource) HighWater(ctx context.Context, c txn.ClusterID) (txn.HighWater, error) {
	e := r.expected.Now()
	r.disk.mu.Lock()
	defer r.disk.mu.Unlock()
	has := r.disk.rows[c]
	if e.Behind(c, has) {
		return has, adapters.ErrBehind
	}
	return has, ctx.Err()
}

// Raise implements adapters.Marked.
func (r *Resource) Raise(ctx context.Context, c txn.ClusterID, to txn.HighWater,
	spent []txn.XID) (txn.HighWater, error) {
	if _, err := r.HighWater(ctx, c); err != nil {
		return txn.HighWater{}, err
	}
	r.disk.mu.Lock()
	defer r.disk.mu.Unlock()
	for _, x := range spent {
		r.disk.forget(x)
	}
	if r.disk.rows[c].Less(to) {
		r.disk.rows[c] = to
	}
	return r.disk.rows[c], nil
}

// diskEvidence in a branch record says that the disk keeps how the branch ends.
const diskEvidence = "kept by the disk"

// Validate implements adapters.Resource. Branches here have no holder that matters.
func (r *Resource) Validate(b txn.Branch) error {
	if b.Evidence != "" && b.Evidence != diskEvidence || b.Holder != "" {
		return errors.New("the evidence or the holder is not that of a memory disk: run the newest version of " +
			"concord on all nodes")
	}
	return nil
}

// Recover lists the prepared branches.
func (r *Resource) Recover(ctx context.Context) ([]adapters.Prepared, error) {
	r.disk.mu.Lock()
	defer r.disk.mu.Unlock()
	var list []adapters.Prepared
	for x, b := range r.disk.open {
		if b.prepared {
			list = append(list, adapters.Prepared{XID: x, Since: b.since, Last: b.tag})
		}
	}
	return list, ctx.Err()
}

// Inspect implements adapters.Inspector.
func (r *Resource) Inspect(ctx context.Context, x txn.XID) (adapters.Inspection, error) {
	r.disk.mu.Lock()
	defer r.disk.mu.Unlock()
	found := adapters.Inspection{Committed: r.disk.ended[x] == txn.Commit}
	if b := r.disk.open[x]; b != nil && b.prepared {
		found.Prepared, found.Siblings = true, b.siblings
	}
	return found, ctx.Err()
}

// Forget drops the evidence.
func (r *Resource) Forget(ctx context.Context, xs []txn.XID) error {
	r.disk.mu.Lock()
	defer r.disk.mu.Unlock()
	for _, x := range xs {
		r.disk.forget(x)
	}
	return ctx.Err()
}

func (d *Disk) forget(x txn.XID) {
	delete(d.ended, x)
	delete(d.markers, x)
}

// Evidence lists what was not forgotten.
func (r *Resource) Evidence(ctx context.Context, after txn.XID) ([]txn.XID, error) {
	r.disk.mu.Lock()
	defer r.disk.mu.Unlock()
	var kept []txn.XID
	for x := range r.disk.ended {
		if inEvidence(x, after) > 0 {
			kept = append(kept, x)
		}
	}
	for x := range r.disk.markers {
		if inEvidence(x, after) > 0 {
			kept = append(kept, x)
		}
	}
	slices.SortFunc(kept, inEvidence)
	return kept[:min(len(kept), adapters.EvidencePage)], ctx.Err()
}

// inEvidence is the order of Evidence.
func inEvidence(x, y txn.XID) int { return cmp.Or(cmp.Compare(x.Cluster, y.Cluster), x.Compare(y)) }

// Check finds nothing wrong, ever.
func (r *Resource) Check(ctx context.Context) (adapters.Report, error) {
	return adapters.Report{Version: "memory"}, ctx.Err()
}

// Close does nothing: a Disk has no connections to release.
func (r *Resource) Close() error { return nil }

// Transient implements adapters.Opener.
func (r *Resource) Transient(err error) bool { return errors.Is(err, lock.ErrDeadlock) }
