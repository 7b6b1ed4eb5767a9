// SPDX-License-Identifier: Apache-2.0

package pebble

import (
	"context"
	"fmt"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/txn"
)

var (
	_ adapters.Last    = (*session)(nil)
	_ adapters.Tagged  = (*session)(nil)
	_ adapters.Settler = (*Resource)(nil)
)

// SetTag implements adapters.Tagged.
func (s *session) SetTag(t txn.LastTag) {
	s.branch.mu.Lock()
	defer s.branch.mu.Unlock()
	s.branch.journal.Last = t
}

// BeLast implements adapters.Last: every store has room for markers.
func (s *session) BeLast(context.Context) error { return nil }

// CommitLast implements adapters.Last.
func (s *session) CommitLast(ctx context.Context, m txn.LastMarker) error {
	if err := s.commitLast(ctx, m.Text()); err != nil {
		return fmt.Errorf("commit %s as the last resource: %w", s.branch.journal.XID, err)
	}
	return nil
}

func (s *session) commitLast(ctx context.Context, text string) error {
	leave, err := s.enterFit(ctx)
	if err != nil {
		return err
	}
	defer leave()
	s.store.settling.Lock()
	defer s.store.settling.Unlock()
	j := s.branch.journal
	_, there, err := s.store.journal.Last(txn.LastXID(j.XID.Cluster, j.XID.ID))
	if err == nil && there {
		err = adapters.ErrSettled
	}
	if err == nil {
		err = s.store.journal.CommitLast(j, text)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", adapters.ErrNotCommitted, s.undone(err))
	}
	s.store.end(s.branch)
	return nil
}

// Settle implements adapters.Settler.
func (r *Resource) Settle(ctx context.Context, c txn.ClusterID, id txn.ID) (m txn.LastMarker, err error) {
	x := txn.LastXID(c, id)
	if err := ctx.Err(); err != nil {
		return m, fmt.Errorf("settle %s: %w", x, err)
	}
	release, err := r.store.use()
	if err != nil {
		return m, fmt.Errorf("settle %s: %w", x, err)
	}
	defer release()
	r.store.settling.Lock()
	defer r.store.settling.Unlock()
	m, err = adapters.SettleMarker(func(text string) (bool, error) {
		_, there, err := r.store.journal.Last(x)
		if err != nil || there {
			return false, err
		}
		return true, r.store.journal.SetLast(x, text)
	}, func() (string, bool, error) { return r.store.journal.Last(x) })
	if err != nil {
		return m, fmt.Errorf("settle %s: %w", x, err)
	}
	return m, nil
}
