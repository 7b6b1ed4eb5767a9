// SPDX-License-Identifier: Apache-2.0

//go:build mutant

package concord_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/internal/mutant"
	"github.com/concordtx/concord/txn"
)

// checks are the properties that mutants of the SDK break.
var checks = map[string]struct {
	id    string
	holds func(*testing.T) error
}{
	"X17": {"IDEM", workIsCommittedUnderOneGid},
}

func TestMutants(t *testing.T) {
	for _, m := range mutant.Of(".") {
		t.Run(m.ID, func(t *testing.T) {
			check, ok := checks[m.ID]
			require.True(t, ok, "%s (%s) is not hunted", m.ID, m.Name)
			began := time.Now()
			require.NoError(t, check.holds(t), "without the mutant")
			var broken error
			mutant.With(m.ID, func() { broken = check.holds(t) })
			require.Error(t, broken, "MUTANT %s survived: %s", m.ID, m.What)
			t.Logf("MUTANT %s killed by %s: seed 1 of at most 1, %s: %v", m.ID, check.id,
				time.Since(began).Round(time.Millisecond), broken)
		})
	}
}

// workIsCommittedUnderOneGid: the answer to the commit request is lost after the decision,
// and whatever the SDK asks then, the same work is not committed a second time.
func workIsCommittedUnderOneGid(t *testing.T) error {
	b := newBank(t)
	lost := false
	b.after = func(context.Context) error {
		if !lost {
			lost = true
			return fmt.Errorf("something between client and leader: %w", txn.ErrRefused)
		}
		return nil
	}
	require.NoError(t, b.client.Run(t.Context(),
		func(ctx context.Context, tx *concord.Tx) error { return b.transfer(ctx, tx) }))
	b.mu.Lock()
	defer b.mu.Unlock()
	var gids []txn.ID
	b.table.EachOpen(func(x txn.Txn) {
		if x.Decision == txn.Commit {
			gids = append(gids, x.ID)
		}
	})
	require.NotEmpty(t, gids)
	if len(gids) > 1 {
		return fmt.Errorf("one piece of work is committed under %v", gids)
	}
	return nil
}
