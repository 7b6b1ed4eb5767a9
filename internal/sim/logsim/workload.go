// SPDX-License-Identifier: Apache-2.0

package logsim

import (
	"encoding/binary"

	"github.com/concordtx/concord/internal/sim"
	"github.com/concordtx/concord/protocol/zab"
)

// workload is the clients: they propose payloads that are all different, and read, at
// whoever claims to lead, and try another node when they are refused.
type workload struct {
	c        *sim.Cluster
	on       bool
	payloads uint64
	ids      uint64 // of proposals and reads; those of answered reads are used again
	free     []uint64
	open     map[uint64]request // looked up by id only
	sessions *sessions
}

// request is something that a core has not answered yet.
type request struct {
	node    *sim.Node
	boot    uint32
	data    []byte // of a proposal
	retries int
	asked   int // of a read: what Checker.readAsked returned

	client *session // nil: nobody in particular
	seen   zab.Zxid // by the client when it asked
	turn   int
}

func newWorkload(c *sim.Cluster) *workload {
	w := &workload{c: c, on: true, open: map[uint64]request{}}
	c.Answered = w.answered
	c.Propose = func(n *sim.Node, data []byte) { w.ask(request{node: n, data: data}) }
	w.every(c.Swarm.Proposals, w.propose)
	w.every(c.Swarm.Reads, w.read)
	w.sessions = newSessions(w)
	return w
}

func (w *workload) every(mean sim.Instant, do func()) {
	w.c.After(w.c.About(mean), func() {
		if w.on {
			do()
			w.every(mean, do)
		}
	})
}

// target picks a node that claims to lead, sometimes just anybody.
func (w *workload) target() *sim.Node {
	var leading []*sim.Node
	for _, n := range w.c.Nodes {
		if n.Up && n.Role.Role == zab.Leading {
			leading = append(leading, n)
		}
	}
	if len(leading) == 0 || w.c.Chance(0.1) {
		leading = w.c.Nodes
	}
	return leading[w.c.RNG.IntN(len(leading))]
}

func (w *workload) propose() {
	w.payloads++
	data := binary.BigEndian.AppendUint64(nil, w.payloads)
	data = append(data, make([]byte, w.c.RNG.IntN(40))...)
	w.ask(request{node: w.target(), data: data, retries: 3})
}

func (w *workload) read() {
	w.ask(request{node: w.target(), asked: w.c.Check.ReadAsked()})
}

// ask takes a request to its node: a proposal if it has data, a read if not.
func (w *workload) ask(r request) {
	if !r.node.Up {
		return
	}
	r.boot = r.node.Boot
	id := w.id()
	w.open[id] = r
	if r.data != nil {
		w.c.Event(r.node, zab.Proposed{ID: id, Data: r.data})
		return
	}
	w.c.Event(r.node, zab.ReadAsked{ID: id})
}

// id takes the number of an answered request when there is one: nothing may depend on
// numbers being unique over time.
func (w *workload) id() uint64 {
	if n := len(w.free); n > 0 && w.c.Chance(0.5) {
		id := w.free[n-1]
		w.free = w.free[:n-1]
		return id
	}
	w.ids++
	return w.ids
}

func (w *workload) answered(n *sim.Node, e zab.Effect) {
	switch e := e.(type) {
	case zab.Accepted:
		r := w.close(n, e.ID)
		if p := w.c.Check.Proposals[e.Zxid]; !w.c.Dying &&
			(p.Leader != n.ID || string(p.Entry.Data) != string(r.data)) {
			w.c.Check.Fail("S2", "node %d accepted proposal %d as %s, which is %q of node %d", n.ID, e.ID, e.Zxid,
				p.Entry.Data, p.Leader)
		}
		if r.client != nil {
			w.sessions.written[e.Zxid] = r
		}
	case zab.Refused:
		r := w.close(n, e.ID)
		if r.client != nil {
			r.client.free(r)
		}
		if r.retries > 0 {
			r.retries--
			w.c.After(w.c.About(20*sim.Millisecond), func() {
				r.node = w.target()
				w.ask(r)
			})
		}
	case zab.ReadReady:
		r := w.close(n, e.ID)
		w.c.Check.ReadReady(n.Ghost, r.asked, e.Index)
		if r.client != nil {
			w.sessions.saw(r, n.LastApply)
		}
	case zab.ReadFailed:
		r := w.close(n, e.ID)
		w.c.Check.ReadFailed(n.Ghost)
		if r.client != nil {
			r.client.free(r)
		}
	}
}

// close takes an answered request. An answer that nobody waits for is a bug.
func (w *workload) close(n *sim.Node, id uint64) request {
	r, ok := w.open[id]
	if !ok || r.node != n || r.boot != n.Boot {
		w.c.Check.Fail("S15", "node %d answers request %d, which it was not asked", n.ID, id)
		return request{}
	}
	delete(w.open, id)
	w.free = append(w.free, id)
	return r
}
