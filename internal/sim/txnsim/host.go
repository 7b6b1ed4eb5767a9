// SPDX-License-Identifier: Apache-2.0

package txnsim

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/concordtx/concord/coordinator/commit"
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/internal/sim"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

// done is what a coordinator wants beyond what its log wants.
type done struct {
	zab.Note
	w  *world
	fx commit.Effects
}

// host is a coordinator that looks like the zab core within it: what the log did
// inside a step is told by comparing before and after.
type host struct {
	w       *world
	n       int
	core    *replica.Core
	machine *commit.Machine // that it carries
	table   *txn.Table
	disk    *sim.Disk
	role    zab.RoleChanged
	applied zab.Zxid
	again   bool // the table was made anew from a snapshot
	// proposed is the last entry that it wrote as a leader.
	proposed zab.Zxid
}

// memory is the applied state of one node. What a crash takes from it, it takes by
// being made again from fewer entries.
type memory struct {
	w        *world
	node     int
	silent   bool // while it is made again, nobody looks
	finished map[txn.ID]txn.Txn
	keys     map[string]txn.KeyUse
}

// Keep implements txn.Archive.
func (m *memory) Keep(c txn.Changes) {
	if !c.PurgeBefore.IsZero() {
		m.purge(c.PurgeBefore)
	}
	if c.Meta.Watermark.After(m.w.watermark) {
		m.w.watermark = c.Meta.Watermark
	}
	for _, x := range c.Open {
		delete(m.finished, x.ID)
	}
	for _, x := range c.Finished {
		if m.w.planted == ForgetTombstone && x.Decision == txn.Abort {
			continue
		}
		m.finished[x.ID] = x
	}
	for _, u := range c.Keys {
		m.keys[u.Key] = u
	}
	if m.silent {
		return
	}
	m.w.check.folded(m.node, c)
	for _, v := range c.Verdicts {
		m.w.countVerdict(v)
	}
}

// purge is what a watermark does to the store.
func (m *memory) purge(before txn.ID) {
	for id := range m.finished {
		if bytes.Compare(id[:], before[:]) < 0 {
			delete(m.finished, id)
			if !m.silent {
				m.w.hit(FinishedPurged)
			}
		}
	}
}

// Finished implements txn.Archive.
func (m *memory) Finished(id txn.ID) (txn.Txn, bool) {
	x, ok := m.finished[id]
	return x, ok
}

// KeyUse implements txn.Archive.
func (m *memory) KeyUse(key string) (txn.KeyUse, bool) {
	u, ok := m.keys[key]
	return u, ok
}

func (w *world) newHost(config zab.Config, s zab.Storage) (sim.Host, error) {
	d := s.(*sim.Disk)
	table, err := w.table(int(config.ID), d)
	if err != nil {
		return nil, err
	}
	var members []replica.Member
	for _, member := range w.Members {
		members = append(members, configured(member.ID, member.Observer))
	}
	h := &host{w: w, n: int(config.ID), table: table, disk: d, applied: d.AppliedZxid()}
	if last := w.hosts[h.n-1]; last != nil && last.role.Role == zab.Leading && last.applied.Less(last.proposed) {
		w.hit(LeaderDiedProposing)
	}
	w.hosts[h.n-1] = h
	rules := rules
	rules.Retention = w.quirks.Retention
	h.machine = commit.New(commit.Config{Resources: w.names(), Rules: rules, Reload: h.reload,
		Hosted: func(resource string) bool { return w.hosted(resource) != nil },
		Marks: func(resource string) bool {
			return w.isVault(resource) || w.hosted(resource) == nil && !w.bank(resource).noMarker
		}}, table)
	h.core, err = replica.New(replica.Config{
		Node: config.ID, Members: members, Boot: config.Boot, Log: config, NewCluster: txn.ClusterID(config.ID),
		TurnSteps: w.quirks.TurnSteps,
	}, s, h.machine)
	if err != nil {
		return nil, err
	}
	return h, nil
}

// table makes the table of a node from what is applied on its disk.
func (w *world) table(node int, d *sim.Disk) (*txn.Table, error) {
	m := &memory{w: w, node: node, silent: true, finished: map[txn.ID]txn.Txn{}, keys: map[string]txn.KeyUse{}}
	again := txn.NewTable(txn.Meta{Level: txn.Newest}, nil, m)
	for _, e := range d.Log[:d.Applied] {
		if _, err := again.Apply(e.Zxid, e.Data); err != nil {
			return nil, err
		}
	}
	m.silent = false
	// What a store keeps is the meta data and the transactions, so start from those.
	return txn.NewTable(again.Meta(), again.Open(), m, again.Witnesses()...), nil
}

// reload makes the table anew after a snapshot was installed.
func (h *host) reload() (*txn.Table, error) {
	table, err := h.w.table(h.n, h.disk)
	if err == nil {
		h.table, h.again, h.applied = table, true, h.disk.AppliedZxid()
		if table.OpenCount() > 0 {
			h.w.hit(SnapshotWithOpenInstalled)
		}
	}
	return table, err
}

// Status implements host.
func (h *host) Status() zab.Status { return h.core.Log() }

// Step implements host.
func (h *host) Step(ev zab.Event) []zab.Effect {
	var event replica.Event
	switch ev := ev.(type) {
	case asked:
		event = ev.event
	case zab.Tick:
		event = replica.Tick{Now: h.w.nodeClock(h.n - 1), Peers: h.w.latestClock()}
	case zab.Applied:
		return nil // the coordinator has told its log already
	default:
		event = replica.Peer{Event: ev}
	}
	fx, err := h.core.Step(event)
	if err != nil {
		panic(err)
	}
	for _, note := range fx.Notes {
		if note.Alarm && strings.Contains(note.Text, "says that it was decided as") {
			h.w.check.Fail("T3", "node %d: %s", h.n, note.Text)
		}
	}
	return h.effects(fx, h.machine.Take())
}

func (h *host) effects(fx *replica.Effects, more *commit.Effects) []zab.Effect {
	var out []zab.Effect
	s := h.core.Log()
	role := zab.RoleChanged{Role: s.Role, Phase: s.Phase, Leader: s.Leader, Epoch: s.Epoch, Established: s.Established}
	if role != h.role {
		h.role = role
		out = append(out, role)
	}
	for _, write := range fx.Write {
		out = append(out, write)
		if n := len(write.Entries); n > 0 && role.Role == zab.Leading {
			h.proposed = write.Entries[n-1].Zxid
		}
	}
	for _, m := range fx.Send {
		out = append(out, zab.Send{Message: m})
	}
	for _, e := range fx.SendSnapshot {
		out = append(out, e)
	}
	if fx.FetchSnapshot.Session != 0 {
		out = append(out, fx.FetchSnapshot)
	}
	if h.again {
		h.again = false
		out = append(out, zab.Restored{Snapshot: zab.Snapshot{Zxid: h.applied}})
	}
	p := h.table.Meta().Zxid
	if h.applied.Less(p) {
		entries := h.disk.Log[sim.After(h.disk.Log, h.applied):sim.After(h.disk.Log, p)]
		h.w.lookAt(entries)
		out = append(out, zab.Deliver{Entries: entries})
		h.applied = p
	}
	replies := append([]commit.Reply(nil), more.Reply...)
	for _, r := range fx.Reply {
		replies = append(replies, commit.Reply{Request: r.Request, Err: r.Err, Zxid: r.Zxid})
	}
	if len(replies)+len(more.Finish)+len(more.Scan)+len(more.Forget)+len(more.Evidence)+len(more.Send)+
		len(more.Settle) > 0 {
		out = append(out, done{w: h.w, fx: commit.Effects{
			Reply:  replies,
			Finish: append([]commit.Task(nil), more.Finish...),
			Scan:   append([]string(nil), more.Scan...),
			Send:   append([]commit.Letter(nil), more.Send...),
			Settle: append([]commit.LastTask(nil), more.Settle...),
			Forget: more.Forget, Evidence: append([]commit.EvidenceAsk(nil), more.Evidence...),
		}})
	}
	if c := h.table.Cluster(); c != 0 {
		h.w.formed = c
	}
	return out
}

// CarryOut implements larger.
func (d done) CarryOut(n *sim.Node) {
	w := d.w
	for _, r := range d.fx.Reply {
		w.say(func() { w.replied(r) })
	}
	for _, t := range d.fx.Finish {
		w.finish(n, t)
	}
	for _, name := range d.fx.Scan {
		w.scan(n, name)
	}
	for _, m := range d.fx.Send {
		w.After(w.draw(w.Swarm.Latency), func() { w.letter(nil, m.To.PartyID, m.ID, m.Message) })
	}
	for _, t := range d.fx.Settle {
		w.settleAt(n, t)
	}
	if s, some := d.fx.Forget[vaultName]; some {
		w.forgetAtVault(n, s)
	}
	for _, e := range d.fx.Evidence {
		w.evidence(n, e)
	}
	for _, name := range resources {
		s := d.fx.Forget[name]
		if !s.To.IsZero() {
			w.raise(n, name, s)
			continue
		}
		for _, x := range s.XIDs {
			w.forget(name, x)
		}
	}
}

// String tells what a coordinator wants, for traces.
func (d done) String() string {
	return fmt.Sprintf("%d replies, %d branches to finish, scans %v", len(d.fx.Reply), len(d.fx.Finish), d.fx.Scan)
}
