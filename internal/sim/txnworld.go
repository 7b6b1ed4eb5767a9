// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/concordtx/concord/coordinator"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

// txnWorld is a cluster whose nodes are whole coordinators, with banks and clients
// around it.
type txnWorld struct {
	*cluster
	check     *txnChecker
	banks     []*bank
	formed    txn.ClusterID
	requests  map[uint64]*client // that wait for a reply; looked up by number only
	request   uint64
	clients   []*client
	beginning bool
	loss      float64 // of what clients and workers say and hear
	crash     float64 // of a client, some time in its life
	failed    float64 // of a statement
	counters  [txnSituations]int
	planted   PlantedTxn
}

// PlantedTxn is a bug that clients, workers or the applied state could have.
type PlantedTxn int

// The planted bugs of this layer.
const (
	SoundTxn              PlantedTxn = iota
	PresumeCommit                    // a client that does not hear commits
	ForgetTombstone                  // the applied state does not keep aborts
	NotFoundMeansDone                // a worker takes "not found" for success
	RollbackMeansPrepared            // the answer ROLLBACK to PREPARE is taken for a yes
)

// TxnSituation is something that must happen in some seeds, as Situation is.
type TxnSituation int

// The situations of this layer.
const (
	ClientToldCommit TxnSituation = iota
	ClientToldAbort
	ClientNeverTold
	ClientCrashed
	WorkerFinished
	OrphanAborted
	BranchCameBack
	BranchLost
	HolderFenced
	txnSituations
)

var txnSituationNames = [txnSituations]string{"client told commit", "client told abort", "client never told", "client crashed",
	"branch finished by a worker", "orphan aborted", "committed branch came back", "prepared branch lost", "holder fenced"}

// String is the situation in words.
func (s TxnSituation) String() string { return txnSituationNames[s] }

// asked is a coordinator's event on its way through the queue of a node.
type asked struct {
	zab.Tick // an event for the queue; the host looks at what is in it first
	event    coordinator.Event
}

// done is what a coordinator wants beyond what its log wants.
type done struct {
	zab.Note
	w  *txnWorld
	fx coordinator.Effects
}

// txnHost is a coordinator that looks like the zab core within it: what the log did
// inside a step is told by comparing before and after.
type txnHost struct {
	w       *txnWorld
	n       int
	core    *coordinator.Core
	table   *txn.Table
	disk    *disk
	role    zab.RoleChanged
	applied zab.Zxid
	again   bool // the table was made anew from a snapshot
}

// memory is the applied state of one node. What a crash takes from it, it takes by
// being made again from fewer entries.
type memory struct {
	w        *txnWorld
	node     int
	silent   bool // while it is made again, nobody looks
	open     map[txn.ID]txn.Txn
	finished map[txn.ID]txn.Txn
}

// Keep implements txn.Archive.
func (m *memory) Keep(c txn.Changes) {
	for _, x := range c.Open {
		m.open[x.ID] = x
		delete(m.finished, x.ID)
	}
	for _, x := range c.Finished {
		delete(m.open, x.ID)
		if m.w.planted == ForgetTombstone && x.Decision == txn.Abort {
			continue
		}
		m.finished[x.ID] = x
	}
	if m.silent {
		return
	}
	m.w.check.folded(m.node, c)
	for _, v := range c.Verdicts {
		if v.First && strings.HasPrefix(v.Reason, "orphan") {
			m.w.counters[OrphanAborted]++
		}
	}
}

// Finished implements txn.Archive.
func (m *memory) Finished(id txn.ID) (txn.Txn, bool) {
	x, ok := m.finished[id]
	return x, ok
}

var resources = []string{"orders", "billing", "ledger", "stock"}

// txnRules are short, so that grace periods and orphans happen within a run.
var txnRules = coordinator.Rules{MaxTransaction: 4 * time.Second, Grace: 500 * time.Millisecond, Scan: 500 * time.Millisecond}

func (w *txnWorld) inhabit(c *cluster) {
	w.cluster = c
	c.newHost = w.newHost
}

func (w *txnWorld) newHost(config zab.Config, s zab.Storage) (host, error) {
	d := s.(*disk)
	table, err := w.table(int(config.ID), d)
	if err != nil {
		return nil, err
	}
	var members []coordinator.Member
	for _, member := range config.Members {
		members = append(members, coordinator.Member{ID: member.ID, Observer: member.Observer})
	}
	h := &txnHost{w: w, n: int(config.ID), table: table, disk: d, applied: d.appliedZxid()}
	h.core, err = coordinator.NewCore(coordinator.CoreConfig{
		Node: config.ID, Members: members, Boot: config.Boot,
		NewCluster: txn.ClusterID(config.ID), Resources: resources, Rules: txnRules, Reload: h.reload,
	}, s, table)
	if err != nil {
		return nil, err
	}
	return h, nil
}

// table makes the table of a node from what is applied on its disk.
func (w *txnWorld) table(node int, d *disk) (*txn.Table, error) {
	m := &memory{w: w, node: node, silent: true, open: map[txn.ID]txn.Txn{}, finished: map[txn.ID]txn.Txn{}}
	again := txn.NewTable(txn.Meta{}, nil, m)
	for _, e := range d.log[:d.applied] {
		if _, err := again.Apply(position(e.Zxid), e.Data); err != nil {
			return nil, err
		}
	}
	m.silent = false
	// What a store keeps is the meta data and the transactions, so start from those.
	return txn.NewTable(again.Meta(), again.Open(), m), nil
}

// reload makes the table anew after a snapshot was installed.
func (h *txnHost) reload() (*txn.Table, error) {
	table, err := h.w.table(h.n, h.disk)
	if err == nil {
		h.table, h.again, h.applied = table, true, h.disk.appliedZxid()
	}
	return table, err
}

func position(z zab.Zxid) txn.Position {
	return txn.Position{Epoch: uint32(z.Epoch), Counter: z.Counter}
}

// Status implements host.
func (h *txnHost) Status() zab.Status { return h.core.Log() }

// Step implements host.
func (h *txnHost) Step(ev zab.Event) []zab.Effect {
	var event coordinator.Event
	switch ev := ev.(type) {
	case asked:
		event = ev.event
	case zab.Tick:
		event = coordinator.Tick{Now: h.w.clock()}
	case zab.Applied:
		return nil // the coordinator has told its log already
	default:
		event = coordinator.Peer{Event: ev}
	}
	fx, err := h.core.Step(event)
	if err != nil {
		panic(err)
	}
	return h.effects(fx)
}

func (h *txnHost) effects(fx *coordinator.Effects) []zab.Effect {
	var out []zab.Effect
	s := h.core.Log()
	role := zab.RoleChanged{Role: s.Role, Phase: s.Phase, Leader: s.Leader, Epoch: s.Epoch, Established: s.Established}
	if role != h.role {
		h.role = role
		out = append(out, role)
	}
	for _, write := range fx.Write {
		out = append(out, write)
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
	p := h.table.Meta().Position
	if z := (zab.Zxid{Epoch: zab.Epoch(p.Epoch), Counter: p.Counter}); h.applied.Less(z) {
		out = append(out, zab.Deliver{Entries: h.disk.log[after(h.disk.log, h.applied):after(h.disk.log, z)]})
		h.applied = z
	}
	if len(fx.Reply)+len(fx.Finish)+len(fx.Scan) > 0 {
		out = append(out, done{w: h.w, fx: coordinator.Effects{
			Reply:  append([]coordinator.Reply(nil), fx.Reply...),
			Finish: append([]coordinator.Task(nil), fx.Finish...),
			Scan:   append([]string(nil), fx.Scan...),
		}})
	}
	if c := h.table.Cluster(); c != 0 {
		h.w.formed = c
	}
	return out
}

// clock is what the coordinators take for the time.
func (w *txnWorld) clock() time.Time {
	return time.UnixMicro(1_800_000_000_000_000 + int64(w.now))
}

// carryOut implements larger.
func (d done) carryOut(n *node) {
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
}

// say lets something arrive after a while, or never.
func (w *txnWorld) say(hear func()) {
	if !w.chance(w.loss) {
		w.after(w.about(w.swarm.Latency)+1, hear)
	}
}

func (w *txnWorld) replied(r coordinator.Reply) {
	if c, ok := w.requests[r.Request]; ok {
		delete(w.requests, r.Request)
		c.replied(r)
	}
}

// post answers a node's order, if the node that gave it still lives.
func (w *txnWorld) post(n *node, boot uint32, e coordinator.Event) {
	if n.boot == boot {
		w.event(n, asked{event: e})
	}
}

func (w *txnWorld) bank(name string) *bank {
	for _, b := range w.banks {
		if b.name == name {
			return b
		}
	}
	return nil
}

var errConnection = errors.New("connection refused")

// finish is a recovery worker.
func (w *txnWorld) finish(n *node, t coordinator.Task) {
	boot := n.boot
	w.after(w.about(20*millisecond)+1, func() {
		if w.chance(w.loss) {
			w.post(n, boot, coordinator.Failed{XID: t.XID, Why: errConnection.Error()})
			return
		}
		for _, b := range w.bank(t.Branch.Resource).branches {
			if b.xid() != t.XID {
				continue
			}
			f, ok := b.finish(t.Decision, false)
			if !ok {
				w.counters[HolderFenced]++
				w.post(n, boot, coordinator.Failed{XID: t.XID, Why: "the session that prepared it was still there"})
				return
			}
			if f == txn.Lost {
				w.counters[BranchLost]++
			}
			w.counters[WorkerFinished]++
			w.after(w.about(5*millisecond), func() {
				w.post(n, boot, coordinator.Finished{XID: t.XID, Finish: f, Who: t.Branch.Resource, Why: "seen by a worker"})
			})
			return
		}
		w.check.fail("AC1", "node %d wants to finish %v, which its bank never had", n.id, t.XID)
	})
}

func (w *txnWorld) scan(n *node, name string) {
	boot := n.boot
	w.after(w.about(10*millisecond)+1, func() {
		listed := coordinator.Listed{Resource: name, Listing: w.bank(name).list()}
		if w.chance(w.loss) {
			listed = coordinator.Listed{Resource: name, Err: errConnection}
		}
		w.after(w.about(10*millisecond), func() { w.post(n, boot, listed) })
	})
}

// newID mints an id that is born now; the seed draws what is random in it.
func (w *txnWorld) newID() txn.ID {
	id := txn.FirstID(w.clock())
	binary.BigEndian.PutUint64(id[8:], w.rng.Uint64())
	return id
}

// TxnOptions choose a run of this layer.
type TxnOptions struct {
	Steps   int // of coordinators in the safety phase; zero means 3,000
	Planted PlantedTxn
	Mute    []string // ids of checks that are off

	trace bool
}

// TxnResult is what a run without a violation says of itself.
type TxnResult struct {
	Hash         uint64
	Transactions int
	Counters     [txnSituations]int
}

// RunTxn runs one seed with transactions.
func RunTxn(seed uint64, o TxnOptions) (TxnResult, error) {
	if o.Steps == 0 {
		o.Steps = 3000
	}
	w := runTxnOnce(seed, o)
	v := w.check.violation
	if v == nil {
		return TxnResult{Hash: w.trace.hash, Transactions: len(w.check.all), Counters: w.counters}, nil
	}
	if !o.trace {
		o.trace = true
		again := runTxnOnce(seed, o)
		if a := again.check.violation; a == nil || a.ID != v.ID || a.Detail != v.Detail {
			v.Detail += " (a second run of the same seed went differently)"
		}
		v.Trace = again.trace.last()
	}
	v.Seed, v.Steps, v.At, v.Swarm, v.Test = seed, w.steps, w.now, w.swarm, "TestTransactions$"
	return TxnResult{Counters: w.counters}, v
}

func runTxnOnce(seed uint64, o TxnOptions) *txnWorld {
	w := &txnWorld{requests: map[uint64]*client{}, planted: o.Planted, beginning: true}
	// The checker exists only when the cluster does, but hosts are made with it.
	w.check = newTxnChecker(nil)
	newCluster(seed, Options{Mute: o.Mute, trace: o.trace, inhabit: w.inhabit})
	w.check.Checker = w.cluster.check
	for i, name := range resources {
		w.banks = append(w.banks, &bank{name: name, xa: i%2 == 1, w: w})
	}
	if !w.swarm.Quiet {
		w.loss, w.crash, w.failed = 0.1*w.rng.Float64(), 0.4*w.rng.Float64(), 0.1*w.rng.Float64()
		w.again(instant(w.logUniform(float64(second/4), float64(10*second))), func() { w.banks[w.rng.IntN(len(w.banks))].failover() })
	}
	w.beginClients()
	w.startFaults()
	for w.check.violation == nil && w.steps < o.Steps && w.next() {
	}
	w.beginning = false
	if w.check.violation == nil {
		w.settle()
	}
	w.cluster.check.compare()
	return w
}

// settle is the liveness phase: everything is healed, and nothing may stay unfinished.
func (w *txnWorld) settle() {
	quiet := w.swarm.Quiet
	w.heal()
	w.loss, w.crash, w.failed = 0, 0, 0
	if !w.until(w.now+reunion, w.reunited) {
		w.notReunited()
		return
	}
	if !w.until(w.now+reunion, w.finished) {
		what, _ := w.check.leftover()
		w.check.fail("AC5", "%s after healing: %s; %d clients wait%s", reunion, what, w.waiting(), w.describe())
		return
	}
	if w.check.violation == nil {
		w.check.settled()
	}
	if quiet && w.check.violation == nil {
		w.check.allCommitted()
	}
}

// finished reports whether nothing is left to do for anybody.
func (w *txnWorld) finished() bool {
	leader := w.leader()
	if leader == nil || w.waiting() > 0 {
		return false
	}
	if _, left := w.check.leftover(); left {
		return false
	}
	open := leader.host.(*txnHost).table.Open()
	for _, x := range open {
		if !x.Ended {
			return false
		}
	}
	return true
}

func (w *txnWorld) waiting() int {
	waiting := 0
	for _, c := range w.clients {
		if c.busy {
			waiting++
		}
	}
	return waiting
}

// String tells what a coordinator wants, for traces.
func (d done) String() string {
	return fmt.Sprintf("%d replies, %d branches to finish, scans %v", len(d.fx.Reply), len(d.fx.Finish), d.fx.Scan)
}
