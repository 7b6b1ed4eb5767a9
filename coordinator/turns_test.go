// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/coordinator/commit"
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/protocol/zab"
)

func TestTurnsAreCountedAndSlowOnesLogged(t *testing.T) {
	var text bytes.Buffer
	log := slog.New(slog.NewTextHandler(&text, nil))
	var ts turns
	now := time.Unix(1_700_000_000, 0)
	took := func(d time.Duration) {
		now = now.Add(d)
		ts.count(log, turn{began: now.Add(-d), stepped: now.Add(-d / 4), ended: now, log: &replica.Effects{},
			commits: &commit.Effects{Reply: make([]commit.Reply, 3)},
			events:  []replica.Event{commit.CommitAsked{}, replica.Peer{Event: zab.Persisted{}}, commit.CommitAsked{}}})
	}
	took(time.Microsecond)
	took(20 * time.Millisecond)
	require.Empty(t, text.String(), "20 ms is not too long")
	for range 5 {
		took(30 * time.Millisecond)
	}
	took(3 * time.Second)
	require.Equal(t, 1, strings.Count(text.String(), "\n"), "one line in ten seconds: %s", text.String())
	require.Contains(t, text.String(), "took=30ms core=22.5ms events=3 kinds=\"2 CommitAsked, 1 Persisted\"")
	require.Contains(t, text.String(), "replies=3")

	took(8 * time.Second)
	require.Equal(t, 2, strings.Count(text.String(), "\n"))
	require.Contains(t, text.String(), "slow_turns=6", "those that had no line")

	x := ts.read()
	require.Equal(t, uint64(9), x.Count)
	require.Equal(t, uint64(1), x.Upto[50*time.Microsecond])
	require.Equal(t, uint64(2), x.Upto[slowTurn])
	require.Equal(t, uint64(7), x.Upto[50*time.Millisecond])
	require.Equal(t, uint64(7), x.Upto[time.Second])
	require.Equal(t, 20*time.Millisecond+150*time.Millisecond+11*time.Second+time.Microsecond, x.Sum)
}
