// SPDX-License-Identifier: Apache-2.0

package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/internal/testdb"
)

var (
	recoveryBranches = flag.Int("bench.branches", 60, "how many branches TestRecovery prepares in each database")
	recoveryOf       = flag.String("bench.cases", caseEverything, "the cases of TestRecovery")
)

// The command has the servers restarted by a file that it makes, and waits for another one.
func TestRecoverySettlesWhatDeadClientsLeft(t *testing.T) {
	pg := testdb.Postgres(t, testdb.WithSetting("max_prepared_transactions", fmt.Sprint(*recoveryBranches+100)))
	maria := testdb.MariaDB(t)
	require.NoError(t, maria.Exec(t.Context(), "", "CREATE DATABASE bank"))
	dir := t.TempDir()
	file := filepath.Join(dir, "databases.yaml")
	ordered, done := filepath.Join(dir, "ordered"), filepath.Join(dir, "done")
	text := fmt.Sprintf("resources:\n  - {name: orders, driver: postgres, dsn: %q}\n  - {name: billing, driver: "+
		"mysql, dsn: %q}\n", pg.DSN("postgres"), maria.DSN("bank"))
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	over := make(chan struct{})
	restarted := make(chan error, 1)
	go func() {
		for {
			select {
			case <-over:
				restarted <- fmt.Errorf("nobody asked for a restart")
				return
			case <-time.After(20 * time.Millisecond):
			}
			if _, err := os.Stat(ordered); err == nil {
				break
			}
		}
		for _, s := range []*testdb.Server{pg, maria} {
			if err := s.Kill(); err != nil {
				restarted <- err
				return
			}
		}
		for _, s := range []*testdb.Server{pg, maria} {
			if err := s.Start(); err != nil {
				restarted <- err
				return
			}
		}
		restarted <- os.WriteFile(done, nil, 0o600)
	}()
	restart := fmt.Sprintf("touch %s; while [ ! -e %s ]; do sleep 0.05; done", ordered, done)
	out, err := command(t, "recovery", "--config", file, "--branches", fmt.Sprint(*recoveryBranches), "--restart",
		restart, "--cases", *recoveryOf, "--dir", t.TempDir(), "-o", "json")
	close(over)
	require.NoError(t, err)
	require.NoError(t, <-restarted)
	var r recoveryResult
	keys := fields(t, out, &r)
	require.Subset(t, keys, []string{"branches", "decided", "rounds", "met"})
	require.Equal(t, *recoveryBranches, r.Branches)
	require.Equal(t, *recoveryBranches/2, r.Decided)
	require.Len(t, r.Rounds, len(strings.Split(*recoveryOf, ",")))
	for _, x := range r.Rounds {
		require.Positive(t, x.New, x.Case)
		require.Positive(t, x.Memory, x.Case)
		require.Less(t, x.Settled, 60.0, x.Case)
	}
}
