// SPDX-License-Identifier: Apache-2.0

package zab

import "testing"

// BenchmarkCommit measures one entry from Proposed to Deliver at all of three nodes,
// without disk, network and encoding.
func BenchmarkCommit(b *testing.B) {
	c := newCluster(3, 0, nil)
	for _, h := range c.hosts {
		if err := c.start(h); err != nil {
			b.Fatal(err)
		}
	}
	c.run(10)
	leader := c.leader()
	delivered := 0
	var wires [3][]Message
	step := func(n *Node, ev Event) {
		for _, e := range n.Step(ev) {
			switch e := e.(type) {
			case Send:
				wires[e.Message.To-1] = append(wires[e.Message.To-1], e.Message)
			case Write:
				wires[n.cfg.ID-1] = append(wires[n.cfg.ID-1], Message{Epoch: Epoch(e.ID)})
			case Deliver:
				delivered += len(e.Entries)
			}
		}
	}
	data := make([]byte, 200)
	b.ReportAllocs()
	for b.Loop() {
		step(leader.core, Proposed{Data: data})
		for busy := true; busy; {
			busy = false
			for i, h := range c.hosts {
				queue := wires[i]
				wires[i] = wires[i][:0:0]
				for _, m := range queue {
					busy = true
					if m.Body == nil {
						step(h.core, Persisted{uint64(m.Epoch)})
						continue
					}
					step(h.core, Received{m})
				}
			}
		}
	}
	if delivered < 3*b.N {
		b.Fatalf("%d deliveries of %d entries at 3 nodes", delivered, b.N)
	}
}

func benchmarkPropose() Message {
	return Message{From: 1, To: 2, Epoch: 7, Session: 1<<32 | 9, Body: Propose{
		Entries: []Entry{{Zxid: Zxid{7, 12345}, Prev: Zxid{7, 12344}, Data: make([]byte, 1024)}},
		Commit:  Zxid{7, 12340},
	}}
}

func BenchmarkAppendMessage(b *testing.B) {
	m := benchmarkPropose()
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = AppendMessage(buf[:0], m)
	}
	b.SetBytes(int64(len(buf)))
}

func BenchmarkDecodeMessage(b *testing.B) {
	buf := AppendMessage(nil, benchmarkPropose())
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := DecodeMessage(buf); err != nil {
			b.Fatal(err)
		}
	}
}
