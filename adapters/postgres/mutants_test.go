// SPDX-License-Identifier: Apache-2.0

//go:build mutant

package postgres

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/internal/mutant"
	"github.com/concordtx/concord/txn"
)

// checks are the properties that the adapter's mutants break, on a real server.
var checks = map[string]struct {
	id    string
	holds func(*bank) error
}{
	"X15": {"AC3w", onlyCommittedWorkIsDone},
	"X16": {"AC3", yesIsPrepared},
}

func TestMutants(t *testing.T) {
	for _, m := range mutant.Of("adapters/postgres") {
		t.Run(m.ID, func(t *testing.T) {
			check, ok := checks[m.ID]
			require.True(t, ok, "%s (%s) is not hunted", m.ID, m.Name)
			b, began := newBank(t), time.Now()
			require.NoError(t, check.holds(b), "without the mutant")
			var broken error
			mutant.With(m.ID, func() { broken = check.holds(b) })
			require.Error(t, broken, "MUTANT %s survived: %s", m.ID, m.What)
			t.Logf("MUTANT %s killed by %s: seed 1 of at most 1, %s: %v", m.ID, check.id,
				time.Since(began).Round(time.Millisecond), broken)
		})
	}
}

// onlyCommittedWorkIsDone: a DBA rolls a prepared branch back, and whoever is to commit it
// must not hear that it is done.
func onlyCommittedWorkIsDone(b *bank) error {
	_, x, branch := b.prepared()
	_, err := b.admin.Exec(b.ctx, finishText(x, txn.Abort))
	require.NoError(b, err)
	found, err := b.Commit(b.ctx, x, branch)
	require.NoError(b, err)
	_, there := b.value(x.ID.String())
	require.False(b, there)
	if found == txn.Done || found == txn.AlreadyDone {
		return fmt.Errorf("the work of %v is not in the database, and its commit is said to be %v", x, found)
	}
	return nil
}

// yesIsPrepared: whoever votes yes has a prepared branch, also after a statement failed.
func yesIsPrepared(b *bank) error {
	s, x := b.work()
	require.Error(b, do(b.ctx, s, "select 1/0"))
	vote, _, _ := s.Prepare(b.ctx)
	list, err := b.Recover(b.ctx)
	require.NoError(b, err)
	if vote == txn.VoteYes && !lists(list, x) {
		return fmt.Errorf("%v voted yes and is not prepared", x)
	}
	return nil
}

func lists(list []adapters.Prepared, x txn.XID) bool {
	for _, p := range list {
		if p.XID == x {
			return true
		}
	}
	return false
}
