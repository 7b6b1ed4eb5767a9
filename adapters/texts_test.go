// SPDX-License-Identifier: Apache-2.0

package adapters_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/internal/said"
)

// What a database can be decides whether it is fit, as does every problem.
func TestADatabaseIsFitIfItCanBeSomething(t *testing.T) {
	problem := []adapters.Finding{{What: "fsync", Detail: "off", Problem: true, Fix: "set fsync = on"}}
	for unfit, r := range map[string]adapters.Report{
		"":                           {NotBranch: "no prepare", Findings: []adapters.Finding{{What: "version"}}},
		"fsync: off: set fsync = on": {Findings: problem},
		"branches cannot be prepared there (no prepare), and it cannot be a last resource (no marker): put one " +
			"of the two right": {NotBranch: "no prepare", NotLast: "no marker"},
	} {
		require.Equal(t, unfit, r.Unfit())
		require.Equal(t, unfit == "", r.OK())
	}
}

// Who writes another error finds out here that its text has to be looked at by everybody.
func TestEveryErrorHasARow(t *testing.T) {
	var rows []string
	for says, err := range map[string]error{
		"the database is behind what the log remembers of it: it was restored from a backup, or replaced by a copy " +
			"that " +
			`lacked something; see "concord resource ls"`: adapters.ErrBehind,
		"the server accepts no writes and is behind what the log remembers of the database: point the resource at " +
			"the primary": adapters.ErrCopy,
		"the cluster was asked for the outcome before the commit, and has aborted it in its last resource: run it " +
			"again": adapters.ErrSettled,
		"a session of the last resource has written the marker of the transaction, or may have, and has not ended: " +
			"the server ends it when it has been idle for too long; try again": adapters.ErrLastHeld,
		"the branch has ended, as its global transaction was committed or rolled back: begin a new " +
			"one": adapters.ErrBranchEnded,
	} {
		require.EqualError(t, err, says)
		rows = append(rows, says)
	}
	said.Check(t, rows, map[string]string{
		"not committed":                                         "the first words of an error that says why",
		"part of the branch may be committed":                   "a part of what concord.TornError says",
		"nobody could be asked, so something of it may be left": "a part of what concord.TornError says",
	})
}
