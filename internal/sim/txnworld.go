// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/concordtx/concord/coordinator/commit"
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

// txnWorld is a cluster whose nodes are whole coordinators, with banks and clients
// around it.
type txnWorld struct {
	*cluster
	check     *txnChecker
	quirks    quirks
	dice      *rand.Rand // of the quirks
	banks     []*bank
	formed    txn.ClusterID
	hosts     []*txnHost                    // the last one of each node
	skews     []time.Duration               // of the nodes' clocks, until all is healed
	years     []time.Duration               // for good: timers of a running process know no steps of this size
	waits     map[uint64]func(commit.Reply) // for a reply; looked up by number only
	request   uint64
	clients   []*client
	jobs      int // pieces of work that clients have begun
	beginning bool
	loss      float64 // of what clients and workers say and hear
	crash     float64 // of a client, some time in its life
	failed    float64 // of a statement
	counters  [txnSituations]int
	failures  map[txn.XID]bool // branches that a worker could not finish at first
	lookedAt  txn.Position     // up to which the log was searched for situations
	watermark time.Time        // the latest that a table ever had
	planted   PlantedTxn
	learners  []uint64 // as of lookedAt
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
	PrepareAgain                     // a PREPARE that did not succeed is repeated on another session
	TryAgainAsAnother                // a client that does not hear does its work again, under another gid
)

// asked is a coordinator's event on its way through the queue of a node.
type asked struct {
	zab.Tick // an event for the queue; the host looks at what is in it first
	event    replica.Event
}

var resources = []string{"orders", "billing", "ledger", "stock"}

// txnRules are short, so that grace periods and orphans happen within a run.
var txnRules = commit.Rules{MaxTransaction: 4 * time.Second, Grace: 500 * time.Millisecond, Scan: 500 * time.Millisecond, Lease: 1500 * time.Millisecond}

// inhabit puts coordinators on the nodes of a cluster that is being made.
func (w *txnWorld) inhabit(seed uint64, c *cluster) {
	w.cluster = c
	w.quirks, w.dice = drawQuirks(seed, c.swarm.Quiet)
	members := c.swarm.Voters + c.swarm.Observers
	w.hosts, w.skews, w.years = make([]*txnHost, members), make([]time.Duration, members), make([]time.Duration, members)
	c.newHost = w.newHost
	c.change, c.tell = changeOfRecords, w.tells
	c.founded = w.foundedByAll
	c.swarm.Gossip = second / 4
}

// foundedByAll reports whether the cluster is formed and no voter is blank any more. A majority may
// form it once all have met; a voter that has crashed before it wrote anything then waits for
// somebody who knows that, or for all, which is what keeps two blank nodes from founding another
// cluster. So until all have taken part, the loss of one for good is more than is promised.
func (w *txnWorld) foundedByAll() bool {
	return w.formed != 0 && !slices.ContainsFunc(w.nodes, func(n *node) bool {
		return !n.observer && n.disk.hard == zab.HardState{} && len(n.disk.log) == 0
	})
}

// clock is the true time.
func (w *txnWorld) clock() time.Time {
	return time.UnixMicro(1_800_000_000_000_000 + int64(w.now))
}

// nodeClock is what the clock of a node shows, and latestClock the one that is furthest ahead.
func (w *txnWorld) nodeClock(i int) time.Time { return w.clock().Add(w.skews[i] + w.years[i]) }

func (w *txnWorld) latestClock() (latest time.Time) {
	for i := range w.nodes {
		if now := w.nodeClock(i); now.After(latest) {
			latest = now
		}
	}
	return latest
}

// say lets something arrive after a while, or never.
func (w *txnWorld) say(hear func()) {
	if !w.chance(w.loss) {
		w.after(w.about(w.swarm.Latency)+1, hear)
	}
}

// question puts a question to a node; late says that it arrives once more, at some time.
// One of hear and over is called, unless the answer comes when nobody waits any more.
func (w *txnWorld) question(n *node, late bool, ask func(request uint64) replica.Event, hear func(commit.Reply), over func()) {
	w.request++
	request := w.request
	w.waits[request] = hear
	deliver := func() { w.event(n, asked{event: ask(request)}) }
	w.say(deliver)
	if late {
		w.after(w.about(3*second), deliver)
	}
	w.after(w.about(400*millisecond)+1, func() {
		if _, unanswered := w.waits[request]; unanswered {
			delete(w.waits, request)
			over()
		}
	})
}

func (w *txnWorld) replied(r commit.Reply) {
	if hear, ok := w.waits[r.Request]; ok {
		delete(w.waits, r.Request)
		hear(r)
	}
}

// post answers a node's order, if the node that gave it still lives.
func (w *txnWorld) post(n *node, boot uint32, e replica.Event) {
	if n.boot == boot {
		w.event(n, asked{event: e})
	}
}

func (w *txnWorld) bank(name string) *bank { return w.banks[slices.Index(resources, name)] }

// finish is a recovery worker.
func (w *txnWorld) finish(n *node, t commit.Task) {
	boot := n.boot
	fail := func(why error) {
		w.failures[t.XID] = true
		w.post(n, boot, commit.Failed{XID: t.XID, Why: why.Error()})
	}
	w.after(w.about(20*millisecond)+1, func() {
		if t.XID.Cluster != w.formed {
			w.check.fail("FOREIGN", "node %d wants to %v %v, which belongs to others", n.id, t.Decision, t.XID)
			return
		}
		b := w.bank(t.Branch.Resource).branches[branchKey{t.XID.ID, t.XID.Branch}]
		if b == nil {
			w.check.fail("AC1", "node %d wants to finish %v, which its bank never had", n.id, t.XID)
			return
		}
		if w.chance(w.loss) {
			fail(errConnection)
			return
		}
		cameBack := b.state == prepared && b.final == committed
		attempt{b: b, d: t.Decision, holder: t.Branch.Holder != "", evident: t.Branch.Evidence != "", done: func(f txn.Finish, err error) {
			if err != nil {
				fail(err)
				return
			}
			w.countFinish(t, f, cameBack && b.state == committed)
			w.after(w.about(5*millisecond), func() { w.worked(n, boot, b, t, f) })
		}}.run()
	})
}

// worked brings the answer of a worker to its node.
func (w *txnWorld) worked(n *node, boot uint32, b *branch, t commit.Task, f txn.Finish) {
	if n.boot == boot && n.up && !n.paused && f == txn.Contradicted && n.role.Role == zab.Leading && n.role.Established {
		w.check.heard(b, uint32(n.role.Epoch))
	}
	w.post(n, boot, commit.Finished{XID: t.XID, Finish: f, By: txn.FromCluster, Who: t.Branch.Resource, Why: "seen by a worker"})
}

func (w *txnWorld) scan(n *node, name string) {
	boot := n.boot
	w.after(w.about(10*millisecond)+1, func() {
		server := w.bank(name)
		server.plantForeign()
		listed := commit.Listed{Resource: name, Listing: server.list()}
		if server.down || w.chance(w.loss) {
			listed = commit.Listed{Resource: name, Err: errConnection}
		} else if len(server.foreign) > 0 {
			w.hit(ForeignListed)
		}
		server.meddle()
		w.after(w.about(10*millisecond), func() { w.post(n, boot, listed) })
	})
}

// forget removes the marker of a branch, as an adapter does: only if it is committed.
func (w *txnWorld) forget(name string, x txn.XID) {
	b := w.bank(name).branches[branchKey{x.ID, x.Branch}]
	if w.chance(w.loss) {
		w.hit(ForgetLost)
		return
	}
	w.after(w.about(10*millisecond), func() {
		if b != nil && b.state == committed && !b.bank.down {
			b.forgotten = true
		}
	})
}

// evidence lists a page of the markers that a bank keeps. What others have left is in front and
// behind, and never forgotten.
func (w *txnWorld) evidence(n *node, e commit.EvidenceAsk) {
	boot := n.boot
	w.after(w.about(10*millisecond)+1, func() {
		server := w.bank(e.Resource)
		kept := commit.Kept{Resource: e.Resource, Evidence: server.evidence(e.After)}
		if server.down || w.chance(w.loss) {
			kept = commit.Kept{Resource: e.Resource, Err: errConnection}
		}
		w.after(w.about(10*millisecond), func() { w.post(n, boot, kept) })
	})
}

// newID mints an id that is born now; the seed draws what is random in it.
func (w *txnWorld) newID(c txn.Class) txn.ID {
	id := txn.FirstID(w.clock())
	binary.BigEndian.PutUint64(id[8:], w.rng.Uint64())
	return id.WithClass(c)
}

// TxnOptions choose a run of this layer.
type TxnOptions struct {
	Steps   int // of coordinators in the safety phase; zero means 3,000
	Planted PlantedTxn
	Mute    []string     // ids of checks that are off
	Swarm   func(*Swarm) // changes what was drawn, for directed runs

	trace bool
}

// TxnResult is what a run without a violation says of itself.
type TxnResult struct {
	Hash         uint64
	Steps        int
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
		return TxnResult{Hash: w.trace.hash, Steps: w.steps, Transactions: len(w.check.all), Counters: w.counters}, nil
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
	w := &txnWorld{waits: map[uint64]func(commit.Reply){}, failures: map[txn.XID]bool{}, planted: o.Planted, beginning: true}
	// The checker exists only when the cluster does, but hosts are made with it.
	w.check = newTxnChecker(nil)
	newCluster(seed, Options{Mute: o.Mute, Swarm: o.Swarm, trace: o.trace, inhabit: func(c *cluster) { w.inhabit(seed, c) }})
	w.check.Checker, w.check.quorumHas = w.cluster.check, w.quorumHas
	w.check.now = func() instant { return w.now }
	if w.quirks.Clock == 0 { // by a clock that is wrong everything may be old
		w.check.maxAge = instant(txnRules.MaxTransaction / time.Microsecond)
	}
	w.openBanks()
	if !w.swarm.Quiet {
		w.loss, w.crash, w.failed = 0.1*w.rng.Float64(), 0.4*w.rng.Float64(), 0.1*w.rng.Float64()
	}
	w.beginClients()
	w.startFaults()
	w.startQuirks()
	w.startMembers()
	if w.quirks.Clock > 0 && seed%3 == 0 { // a clock that is a year ahead, or behind
		w.years[int(seed/6)%len(w.years)] = time.Duration(seed%2*2)*year - year
	}
	for w.check.violation == nil && w.steps < o.Steps && w.next() {
	}
	w.beginning = false
	if w.check.violation == nil {
		w.settle()
	}
	w.cluster.check.compare()
	if w.check.violation == nil {
		if wrong := w.check.history.check(); wrong != "" {
			w.check.fail("LIN", "%s", wrong)
		}
	}
	return w
}

// settle is the liveness phase: everything is healed, and nothing may stay unfinished.
func (w *txnWorld) settle() {
	quiet := w.swarm.Quiet
	w.heal()
	w.loss, w.crash, w.failed, w.quirks.LateDetach = 0, 0, 0, 0
	clear(w.skews)
	if !w.until(w.now+reunion, w.reunited) {
		w.notReunited()
		return
	}
	if !w.until(w.now+reunion, w.allDone) {
		what, left := w.check.leftover(w.banks)
		if leader := w.leader(); left == nil && leader != nil {
			if b := w.spent(leader); b != nil {
				what = "the evidence of " + b.ghost.id.String() + " is kept at " + b.bank.name + ", and nobody needs it"
			}
		}
		w.check.fail("AC5", "%s after healing: %s; %d clients wait%s", reunion, what, w.waiting(), w.describe())
		return
	}
	if w.check.violation == nil {
		// Of what the log has forgotten it can record nothing.
		w.check.seen = slices.DeleteFunc(w.check.seen, func(s seenContradiction) bool { return w.mayBePurged(s.b.ghost.id) })
		w.check.settled(uint32(w.leader().role.Epoch))
	}
	if quiet && w.check.violation == nil {
		w.check.allCommitted()
	}
}

// allDone reports whether nothing is left to do for anybody.
func (w *txnWorld) allDone() bool {
	leader := w.leader()
	if leader == nil || w.waiting() > 0 || w.check.onTheWay() {
		return false
	}
	if w.now%(100*millisecond) < 10*millisecond { // people are not as fast as that
		for _, b := range w.banks {
			w.administer(leader, b)
		}
	}
	if _, left := w.check.leftover(w.banks); left != nil || w.spent(leader) != nil {
		return false
	}
	done := true
	leader.host.(*txnHost).table.EachOpen(func(x txn.Txn) { done = done && x.Ended })
	return done
}

// spent returns a branch whose evidence is kept although nobody needs it, or nil.
func (w *txnWorld) spent(leader *node) *branch {
	table := leader.host.(*txnHost).table
	for _, bank := range w.banks {
		for _, b := range bank.all {
			if x, known := table.Get(b.ghost.id); b.marked() && known && x.Decision == txn.Commit && x.Finished() {
				return b
			}
		}
	}
	return nil
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

// quorumHas reports whether the durable logs of a quorum hold an entry.
func (w *txnWorld) quorumHas(p txn.Position) bool {
	z := zab.Zxid{Epoch: zab.Epoch(p.Epoch), Counter: p.Counter}
	c := w.cluster.check
	ok, _ := c.quorumHolds(c.inForce(c.countUpto(z)), func(g *ghost) bool { return g.disk.has(z) })
	return ok
}
