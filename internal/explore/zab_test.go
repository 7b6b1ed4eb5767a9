// SPDX-License-Identifier: Apache-2.0

package explore

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Everything that can happen within these bounds, in every order.
func TestEveryOrderOfEventsKeepsTheInvariants(t *testing.T) {
	for _, b := range []Bounds{
		{Cold: true, Elections: 2, Sessions: 3, Delays: -1},
		{Cold: true, Elections: 2, Sessions: 2, Crashes: 1, Delays: 2},
		{Proposals: 2, Stale: 1, Delays: -1},
		{Elections: 1, Sessions: 2, Proposals: 1, Crashes: 1, Delays: -1},
		{Elections: 1, Sessions: 2, Proposals: 2, Breaks: 1, Ticks: 1, Delays: 0},
		{Elections: 2, Sessions: 4, Proposals: 2, Crashes: 1, Delays: 0},
	} {
		t.Run(b.String(), func(t *testing.T) {
			r := ZAB(b, Limits{})
			t.Log(r)
			require.Empty(t, r.Broken, r.Trace)
			require.True(t, r.Complete)
			require.Positive(t, r.Settled)
		})
	}
}

func TestPlantedMistakesOfDriversAreFound(t *testing.T) {
	for _, c := range []struct {
		mistake zabMistake
		bounds  Bounds
		check   string
	}{
		{ackBeforeDurable, Bounds{Proposals: 1, Delays: -1}, "S10:"},
		{applyBeforeCommit, Bounds{Proposals: 1, Delays: -1}, "L5:"},
		{forgetPromises, Bounds{Cold: true, Elections: 2, Sessions: 2, Crashes: 1, Delays: -1}, "S1:"},
	} {
		t.Run(string(c.mistake), func(t *testing.T) {
			r := explore[state](c.bounds.String(), newCluster(c.bounds, c.mistake), Limits{States: 1_000_000})
			t.Log(r)
			require.True(t, strings.HasPrefix(r.Broken, c.check), "%s: %s", c.check, r)
			require.Contains(t, r.Trace, r.Broken)
		})
	}
}

// A search takes two hosts for one when their fingerprints are equal, so they have to go on
// in the same way; and a host is stepped more than once, so its clones must not change it.
func TestHostsWithEqualFingerprintsGoOnInTheSameWay(t *testing.T) {
	w := newCluster(Bounds{Elections: 1, Sessions: 2, Proposals: 1, Ticks: 2, Breaks: 1, Delays: 0}, "")
	type pair struct {
		id   hostID
		twin *host
	}
	var pairs []pair
	w.met = func(id hostID, h *host) { pairs = append(pairs, pair{id, h}) }
	r := explore[state]("", w, Limits{States: 100_000})
	require.Empty(t, r.Broken, r.Trace)
	w.met = nil
	pairs = pairs[:min(len(pairs), 3000)]
	require.Greater(t, len(pairs), 1000)
	stepped := map[hostID][]Move{}
	for key := range w.outcomes {
		id := hostID(key >> 32)
		stepped[id] = append(stepped[id], Move(key))
	}
	compared := 0
	for _, p := range pairs {
		require.Equal(t, w.hosts[p.id].view, p.twin.view)
		for _, m := range stepped[p.id] {
			o := w.act(p.twin, m); require.Equal(t, w.outcomes[uint64(p.id)<<32|uint64(m)], o, "%s %x\n%+v\n%+v", p.twin.core, m, w.hosts[w.outcomes[uint64(p.id)<<32|uint64(m)].next].core, w.hosts[o.next].core)
			compared++
		}
	}
	require.Greater(t, compared, 1000)
	for print, id := range w.byPrint {
		require.Equal(t, print, w.hosts[id].fingerprint(), "stepping a clone changed %s", w.hosts[id].core)
	}
	t.Logf("%s; %d pairs of hosts, %d steps compared", r, len(pairs), compared)
}
