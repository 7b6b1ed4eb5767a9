// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/coordinator/replica"
)

// lost is what a demonstration says in which every coordinator dies.
func lost(t *testing.T, protocol string) result {
	t.Helper()
	var out, said bytes.Buffer
	err := Run(t.Context(), Options{Transfers: 2000, Workers: 16, Protocol: protocol, KillCoordinators: true,
		In: &bytes.Buffer{}, Out: &out, Err: &said, JSON: true})
	t.Log(said.String())
	require.NoError(t, err)
	var r result
	require.NoError(t, json.Unmarshal(out.Bytes(), &r))
	require.Equal(t, r.SumExpected, r.Sum)
	require.NotNil(t, r.InDoubt)
	require.Zero(t, *r.InDoubt)
	require.Equal(t, 2000, r.Committed+r.Aborted+r.Unknown)
	require.GreaterOrEqual(t, *r.CoordinatorsKilled, 3)
	return r
}

// What was opened before an agent could not start is closed again: the store can be opened once more.
func TestAnAgentThatCannotStartLeavesNothingOpen(t *testing.T) {
	dir := t.TempDir()
	journal := filepath.Join(dir, "oslo-agent")
	require.NoError(t, os.WriteFile(journal, nil, 0o600))
	members := []replica.Member{{ID: 1, API: "127.0.0.1:1"}}
	_, err := openAgentBank("oslo", dir, members)
	require.ErrorContains(t, err, journal)
	require.NoError(t, os.Remove(journal))
	b, err := openAgentBank("oslo", dir, members)
	require.NoError(t, err)
	require.NoError(t, b.Close())
}

func TestAgentsFinishWithoutAnyCoordinator(t *testing.T) {
	require.Positive(t, *lost(t, concord.ThreePhase).FinishedByAgents)
}

func TestALastResourceDecidesWhateverLeadersDo(t *testing.T) {
	var out, said bytes.Buffer
	require.NoError(t, Run(t.Context(), Options{Transfers: 1000, Workers: 16, Kills: 1, Protocol: LastResource,
		In: &bytes.Buffer{}, Out: &out, Err: &said, JSON: true}), &said)
	var r result
	require.NoError(t, json.Unmarshal(out.Bytes(), &r))
	require.Equal(t, r.SumExpected, r.Sum)
	require.Zero(t, *r.InDoubt)
	require.Greater(t, r.Committed, 900)
}

func TestTwoPhasesWaitForACoordinator(t *testing.T) {
	require.Zero(t, *lost(t, concord.TwoPhase).FinishedByAgents)
}
