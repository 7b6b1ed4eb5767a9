// SPDX-License-Identifier: Apache-2.0

package zabworld

import (
	"encoding/binary"
	"slices"

	"github.com/concordtx/concord/internal/explore"
	"github.com/concordtx/concord/protocol/zab"
)

const maxEpochs = 8

// ghost is what has ever happened in a cluster, as far as it decides what is right.
type ghost struct {
	leaders  [maxEpochs]uint8 // who finished discovery, from 1, by epoch
	proposed chain            // in the order of proposals
	global   chain            // the committed sequence
	by       [maxLog]uint8    // epoch of the leader that committed it
}

func (g *ghost) mix(h uint64) uint64 {
	h = explore.Mix(h, binary.LittleEndian.Uint64(g.leaders[:]))
	h = explore.Mix(h, binary.LittleEndian.Uint64(g.proposed.entries[:]))
	h = explore.Mix(h, binary.LittleEndian.Uint64(g.global.entries[:]))
	return explore.Mix(h, binary.LittleEndian.Uint64(g.by[:]))
}

func (w *cluster) fail(s *state, format string, args ...any) {
	if s.bad == 0 {
		s.bad = w.breach(format, args...)
	}
}

func (w *cluster) zxid(e uint8) zab.Zxid { return w.entries[e].Zxid }

// entryNamed finds the entry that was just accepted.
func (w *cluster) entryNamed(z zab.Zxid, queue []zab.Write) uint8 {
	for _, write := range queue {
		for _, e := range write.Entries {
			if e.Zxid == z {
				return w.entry(e)
			}
		}
	}
	return w.entry(zab.Entry{Zxid: z}) // its write follows
}

// witness compares what a node did with what was done before.
func (w *cluster) witness(s *state, i int, seen []sight) {
	for _, x := range seen {
		switch x.kind {
		case sawLeader:
			w.leads(s, i, x.about)
		case sawProposal:
			if z := w.zxid(x.about); z.Epoch >= maxEpochs || s.leaders[z.Epoch] != uint8(i+1) {
				w.fail(s, "S2: node %d proposed %s of the epoch of node %d", i+1, z, s.leaders[z.Epoch])
			}
		case sawAppend:
			w.appends(s, i, x.about)
		case sawCut:
			if s.global.holds(x.about) {
				w.fail(s, "S9: node %d truncates %s, which is committed", i+1, w.zxid(x.about))
			}
		}
	}
	w.extend(s, i)
	for _, x := range seen {
		if x.kind == sawDelivery && (x.place >= s.global.n || s.global.entries[x.place] != x.about) {
			w.fail(s, "S5: node %d delivers %s at position %d", i+1, w.zxid(x.about), x.place+1)
		}
	}
}

// leads hears that a node finished discovery.
func (w *cluster) leads(s *state, i int, epoch uint8) {
	if epoch >= maxEpochs {
		panic("an epoch beyond what the ghost remembers")
	}
	if old := s.leaders[epoch]; old != 0 && old != uint8(i+1) {
		w.fail(s, "S1: nodes %d and %d both lead epoch %d", old, i+1, epoch)
	}
	s.leaders[epoch] = uint8(i + 1)
	if v := w.view(s, i); !begins(&v.handed, &s.global) {
		w.fail(s, "S6: node %d leads epoch %d without all that is committed", i+1, epoch)
	}
}

// begins reports whether a log begins with the committed sequence.
func begins(log, global *chain) bool {
	return log.n >= global.n && slices.Equal(log.entries[:global.n], global.entries[:global.n])
}

// appends hears of an entry that goes into a log. The first to have it is the leader of its
// epoch, who makes it.
func (w *cluster) appends(s *state, i int, e uint8) {
	if s.proposed.holds(e) {
		return
	}
	z := w.zxid(e)
	for _, old := range s.proposed.entries[:s.proposed.n] {
		if w.zxid(old) == z {
			w.fail(s, "S3: node %d has %s after %s %q, another has it after %s %q", i+1,
				z, w.entries[e].Prev, w.entries[e].Data, w.entries[old].Prev, w.entries[old].Data)
			return
		}
	}
	if z.Epoch >= maxEpochs || s.leaders[z.Epoch] != uint8(i+1) {
		w.fail(s, "S2: node %d has %s, which nobody proposed", i+1, z)
	}
	s.proposed.push(e)
}

// extend appends to the committed sequence what a leader has committed.
func (w *cluster) extend(s *state, i int) {
	v := w.view(s, i)
	if v.role != zab.Leading || !v.established || v.committed <= s.global.n {
		return
	}
	if !begins(&v.handed, &s.global) {
		w.fail(s, "S6: leader %d commits without having all that was committed before", i+1)
		return
	}
	for _, e := range v.handed.entries[s.global.n:v.committed] {
		s.by[s.global.n] = uint8(v.epoch)
		s.global.push(e)
	}
	for j := range nodes {
		o := w.view(s, j)
		if o.role == zab.Leading && o.phase >= zab.Synchronization && o.epoch > v.epoch && !begins(&o.handed,
			&s.global) {
			w.fail(s, "S6: leader %d of epoch %d lacks what epoch %d commits", j+1, o.epoch, v.epoch)
		}
	}
}

// survey checks all nodes.
func (w *cluster) survey(s *state) {
	for at, e := range s.global.entries[:s.global.n] {
		have := 0
		for i := range nodes {
			v := w.view(s, i)
			if v.durable.holds(e) {
				have++
			} else if zab.Epoch(s.by[at]) < v.current {
				w.fail(s, "S7: node %d has current epoch %d without %s, which epoch %d committed", i+1, v.current,
					w.zxid(e), s.by[at])
			}
		}
		if w.bounds.Changes == 0 && have < nodes/2+1 || w.bounds.Changes > 0 && !w.atQuorum(s, at, e) {
			w.fail(s, "S8: %s is committed, but durable at %d nodes", w.zxid(e), have)
		}
	}
}

// atQuorum reports whether an entry of the committed sequence is durable at a quorum of the
// members as of its position, or of those before them.
func (w *cluster) atQuorum(s *state, at int, e uint8) bool {
	log := make([]zab.Entry, at)
	for i := range log {
		log[i] = w.entries[s.global.entries[i]]
	}
	for range 2 {
		set, have := setOf(log), 0
		for _, m := range set.Members {
			if w.view(s, int(m.ID)-1).durable.holds(e) {
				have++
			}
		}
		if have >= len(set.Members)/2+1 {
			return true
		}
		for len(log) > 0 && set.At.Less(log[len(log)-1].Zxid) {
			log = log[:len(log)-1]
		}
		log = log[:max(0, len(log)-1)]
	}
	return false
}

// changeTo finds the entry that made a set.
func (w *cluster) changeTo(set zab.Set) uint8 {
	for i, e := range w.entries {
		if e.Zxid != set.At {
			continue
		}
		if members, ok := change(e.Data); ok && slices.Equal(members, set.Members) {
			return uint8(i)
		}
	}
	panic("a set that no entry made")
}
