// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"context"
	"fmt"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/internal/mutant"
	"github.com/concordtx/concord/txn"
)

var (
	_ adapters.Last    = (*session)(nil)
	_ adapters.Tagged  = (*session)(nil)
	_ adapters.Settler = (*Resource)(nil)
)

// SetTag implements adapters.Tagged.
func (s *session) SetTag(t txn.LastTag) {
	s.resource.disk.mu.Lock()
	defer s.resource.disk.mu.Unlock()
	s.branch.tag = t
}

// BeLast implements adapters.Last: a disk has room for markers.
func (s *session) BeLast(context.Context) error { return nil }

// CommitLast implements adapters.Last.
func (s *session) CommitLast(ctx context.Context, m txn.LastMarker) error {
	if err := s.resource.disk.commitLast(ctx, s.branch, m.Text()); err != nil {
		return fmt.Errorf("commit %s as the last resource: %w", s.branch.xid, err)
	}
	return nil
}

func (d *Disk) commitLast(ctx context.Context, b *branch, text string) error {
	name := txn.LastXID(b.xid.Cluster, b.xid.ID)
	if mutant.MarkerApart {
		d.mu.Lock()
		d.markers[name] = text
		d.mu.Unlock()
		return d.commitOnePhase(ctx, b)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	err := b.failed
	switch _, there := d.markers[name]; {
	case d.open[b.xid] != b && b.orphan:
		return fmt.Errorf("%w: %w", adapters.ErrNotCommitted, ErrSessionDied)
	case d.open[b.xid] != b || b.prepared:
		return adapters.ErrBranchEnded
	case err == nil && there:
		err = adapters.ErrSettled
	case err == nil:
		err = ctx.Err()
	}
	if err != nil {
		d.rollback(b)
		return fmt.Errorf("%w: %w", adapters.ErrNotCommitted, err)
	}
	d.markers[name] = text
	d.end(b)
	return nil
}

// Settle implements adapters.Settler.
func (r *Resource) Settle(ctx context.Context, c txn.ClusterID, id txn.ID) (txn.LastMarker, error) {
	if err := r.notBehind(ctx); err != nil {
		return txn.LastMarker{}, err
	}
	name := txn.LastXID(c, id)
	r.disk.mu.Lock()
	defer r.disk.mu.Unlock()
	return adapters.SettleMarker(func(text string) (bool, error) {
		if _, there := r.disk.markers[name]; there {
			return false, nil
		}
		r.disk.markers[name] = text
		return true, nil
	}, func() (string, bool, error) {
		text, there := r.disk.markers[name]
		return text, there, nil
	})
}
