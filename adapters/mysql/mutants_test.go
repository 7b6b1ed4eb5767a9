// SPDX-License-Identifier: Apache-2.0

//go:build mutant

package mysql

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/internal/mutant"
	"github.com/concordtx/concord/internal/testdb"
	"github.com/concordtx/concord/txn"
)

// checks are the properties that the adapter's mutants break, on a real server.
var checks = map[string]struct {
	id    string
	holds func(*world) error
}{
	"X15": {"AC3w", onlyCommittedWorkIsDone},
}

func TestMutants(t *testing.T) {
	for _, m := range mutant.Of("adapters/mysql") {
		t.Run(m.ID, func(t *testing.T) {
			check, ok := checks[m.ID]
			require.True(t, ok, "%s (%s) is not hunted", m.ID, m.Name)
			w, began := newWorld(t, testdb.MariaDB(t)), time.Now()
			require.NoError(t, check.holds(w), "without the mutant")
			var broken error
			mutant.With(m.ID, func() { broken = check.holds(w) })
			require.Error(t, broken, "MUTANT %s survived: %s", m.ID, m.What)
			t.Logf("MUTANT %s killed by %s: seed 1 of at most 1, %s: %v", m.ID, check.id,
				time.Since(began).Round(time.Millisecond), broken)
		})
	}
}

// onlyCommittedWorkIsDone: a DBA rolls a prepared branch back, and whoever is to commit it
// must not hear that it is done.
func onlyCommittedWorkIsDone(w *world) error {
	x := newXID()
	key := x.ID.String()
	s, branch := w.prepared(w.open(), x, key)
	w.kill(s)
	w.eventually("the branch is let go of", func() bool {
		_, err := w.admin.ExecContext(w.ctx, "XA ROLLBACK "+xa(x))
		return err == nil
	})
	found := w.finish(w.open(), txn.Commit, x, branch)
	w.requireAbsent(key)
	if found == txn.Done || found == txn.AlreadyDone {
		return fmt.Errorf("the work of %v is not in the database, and its commit is said to be %v", x, found)
	}
	return nil
}
