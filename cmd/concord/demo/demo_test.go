// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord"
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

func TestAgentsFinishWithoutAnyCoordinator(t *testing.T) {
	require.Positive(t, *lost(t, concord.ThreePhase).FinishedByAgents)
}

func TestTwoPhasesWaitForACoordinator(t *testing.T) {
	require.Zero(t, *lost(t, concord.TwoPhase).FinishedByAgents)
}
