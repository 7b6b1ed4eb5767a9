// SPDX-License-Identifier: Apache-2.0

package zabworld

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/internal/explore"
	"github.com/concordtx/concord/internal/explore/exploretest"
	"github.com/concordtx/concord/protocol/zab"
)

func TestEveryOrderOfEventsKeepsThePromises(t *testing.T) { exploretest.Quick(t, Quick(), false) }

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
			r := explore.Explore[state](c.bounds.String(), newCluster(c.bounds, c.mistake),
				explore.Limits{States: 1_000_000})
			t.Log(r)
			require.True(t, strings.HasPrefix(r.Broken, c.check), "%s: %s", c.check, r)
			require.Contains(t, r.Trace, r.Broken)
		})
	}
}

// looking is a cluster in which a situation is looked for, as if it were a mistake.
type looking struct {
	*cluster
	is func(w *cluster, s *state) bool
}

func (l looking) Broken(s *state) string {
	if s.bad == 0 && l.is(l.cluster, s) {
		return "there it is"
	}
	return l.cluster.Broken(s)
}

// Invariants hold easily where nothing happens.
func TestTheSearchGetsToWhatMatters(t *testing.T) {
	any := func(w *cluster, s *state, is func(v *view) bool) bool {
		for i := range nodes {
			if is(w.view(s, i)) {
				return true
			}
		}
		return false
	}
	for what, c := range map[string]struct {
		bounds Bounds
		is     func(w *cluster, s *state) bool
	}{
		"a later leader commits what an earlier one proposed": {
			Bounds{Elections: 1, Sessions: 2, Proposals: 1, Crashes: 1, Delays: -1},
			func(w *cluster, s *state) bool { return s.by[0] == 2 && w.zxid(s.global.entries[0]).Epoch == 1 },
		},
		"both epochs commit": {
			Bounds{Elections: 1, Sessions: 2, Proposals: 2, Crashes: 1},
			func(_ *cluster, s *state) bool { return s.by[0] == 1 && s.by[1] == 2 },
		},
		"a tail is cut off": {
			Bounds{Elections: 1, Sessions: 3, Proposals: 2, Crashes: 1},
			func(w *cluster, s *state) bool {
				return any(w, s, func(v *view) bool { return v.handed.n < v.durable.n })
			},
		},
		"two nodes lead, one of them in vain": {
			Bounds{Elections: 1, Sessions: 2, Proposals: 1, Breaks: 2},
			func(w *cluster, s *state) bool {
				return w.view(s, 2).established && w.view(s, 2).epoch == 1 && any(w, s,
					func(v *view) bool { return v.established && v.epoch == 2 })
			},
		},
		"a leader hands over, and the next one commits what it left": {
			Bounds{Elections: 1, Sessions: 2, Proposals: 1, Handovers: 1, Ticks: 1},
			func(w *cluster, s *state) bool {
				return s.left.handovers == 0 && w.view(s, 2).role != zab.Leading && s.by[0] == 2 &&
					any(w, s, func(v *view) bool { return v.established && v.epoch == 2 })
			},
		},
		"a third epoch": {
			Bounds{Elections: 2, Sessions: 4, Proposals: 1, Crashes: 2},
			func(w *cluster, s *state) bool {
				return any(w, s, func(v *view) bool { return v.role == zab.Leading && v.established && v.epoch == 3 })
			},
		},
	} {
		t.Run(what, func(t *testing.T) {
			r := explore.Explore[state](c.bounds.String(), looking{newCluster(c.bounds, ""), c.is},
				explore.Limits{States: 1_000_000})
			require.Equal(t, "there it is", r.Broken, r)
			t.Logf("%d states, %d steps away", r.States, r.Depth)
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
	r := explore.Explore[state]("", w, explore.Limits{States: 100_000})
	require.Empty(t, r.Broken, r.Trace)
	w.met = nil
	pairs = pairs[:min(len(pairs), 3000)]
	require.Greater(t, len(pairs), 1000)
	stepped := map[hostID][]explore.Move{}
	for key := range w.outcomes {
		id := hostID(key >> 32)
		stepped[id] = append(stepped[id], explore.Move(key))
	}
	compared := 0
	for _, p := range pairs {
		require.Equal(t, w.hosts[p.id].view, p.twin.view)
		for _, m := range stepped[p.id] {
			o := w.act(p.twin, m)
			require.Equal(t, w.outcomes[uint64(p.id)<<32|uint64(m)], o, "%s %x\n%+v\n%+v", p.twin.core, m,
				w.hosts[w.outcomes[uint64(p.id)<<32|uint64(m)].next].core, w.hosts[o.next].core)
			compared++
		}
	}
	require.Greater(t, compared, 1000)
	for print, id := range w.byPrint {
		require.Equal(t, print, w.hosts[id].fingerprint(), "stepping a clone changed %s", w.hosts[id].core)
	}
	t.Logf("%s; %d pairs of hosts, %d steps compared", r, len(pairs), compared)
}
