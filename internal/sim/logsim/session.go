// SPDX-License-Identifier: Apache-2.0

package logsim

import (
	"encoding/binary"

	"github.com/concordtx/concord/internal/sim"
	"github.com/concordtx/concord/protocol/zab"
)

// sessions are clients that go from node to node, followers and observers too, do one
// thing after the other, and remember the latest state that an answer let them see. To
// each of them the cluster has to look like one.
type sessions struct {
	w       *workload
	clients []*session
	written map[zab.Zxid]request // accepted and not applied yet; looked up by zxid only
}

// session is one client.
type session struct {
	id   int
	seen zab.Zxid
	at   *sim.Node // that answered last
	turn int       // of its requests; it waits for one while busy
	busy bool
}

// sessionWait is how long a client waits for an answer that may never come.
const sessionWait = 3 * sim.Second

func newSessions(w *workload) *sessions {
	s := &sessions{w: w, written: map[zab.Zxid]request{}}
	for id := range w.c.Swarm.Sessions {
		s.clients = append(s.clients, &session{id: id + 1})
	}
	if len(s.clients) > 0 {
		w.c.AppliedEntry = s.applied
		w.every(w.c.Swarm.Reads, s.next)
	}
	return s
}

// next lets one client that is not waiting ask for something.
func (s *sessions) next() {
	c := s.w.c
	client := s.clients[c.RNG.IntN(len(s.clients))]
	if client.busy {
		return
	}
	r := request{client: client, seen: client.seen, turn: client.turn}
	if c.Chance(0.4) {
		s.w.payloads++
		r.data = binary.BigEndian.AppendUint64(nil, s.w.payloads)
		r.node = s.w.target()
	} else {
		r.node = c.AnyNode()
		r.asked = c.Check.ReadAsked()
	}
	if !r.node.Up {
		return
	}
	client.busy = true
	c.After(sessionWait, func() { client.free(r) })
	s.w.ask(r)
}

// free ends a turn, unless it ended before.
func (c *session) free(r request) {
	if c.busy && c.turn == r.turn {
		c.busy = false
		c.turn++
	}
}

// saw is an answer: it must not show less than an earlier one did.
func (s *sessions) saw(r request, z zab.Zxid) {
	check, client := s.w.c.Check, r.client
	check.SessionSees(r.node.Ghost, client.id, r.seen, z)
	if client.at != nil && client.at != r.node {
		check.Counters.Hit(sim.ClientMovedOn)
	}
	client.at = r.node
	client.seen = sim.Latest(client.seen, z)
	client.free(r)
}

// applied answers a write where it was accepted, once it is applied there.
func (s *sessions) applied(n *sim.Node, e zab.Entry) {
	r, ok := s.written[e.Zxid]
	if !ok || r.node != n || r.boot != n.Boot {
		return
	}
	delete(s.written, e.Zxid)
	s.w.c.Check.Counters.Hit(sim.WriteAcknowledged)
	s.saw(r, e.Zxid)
}
