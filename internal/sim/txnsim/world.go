// SPDX-License-Identifier: Apache-2.0

package txnsim

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/coordinator/commit"
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/internal/sim"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

// world is a cluster whose nodes are whole coordinators, with banks and clients
// around it.
type world struct {
	*sim.Cluster
	check     *checker
	quirks    quirks
	dice      *rand.Rand // of the quirks
	banks     []*bank
	formed    txn.ClusterID
	hosts     []*host                       // the last one of each node
	skews     []time.Duration               // of the nodes' clocks, until all is healed
	years     []time.Duration               // for good: timers of a running process know no steps of this size
	waits     map[uint64]func(commit.Reply) // for a reply; looked up by number only
	request   uint64
	clients   []*client
	agents    []*agent // in some seeds
	drivers   []*driver
	fate      *rand.Rand // of agents
	vault     *vault     // in some seeds
	lasts     []*lastClient
	lots      *rand.Rand // of those
	services  []*service // in some seeds
	errands   *rand.Rand // of services
	jobs      int        // pieces of work that clients have begun
	keyed     []int      // the last ones that have keys
	beginning bool
	loss      float64 // of what clients and workers say and hear
	crash     float64 // of a client, some time in its life
	failed    float64 // of a statement
	counters  [situations]int
	failures  map[txn.XID]bool // branches that a worker could not finish at first
	lookedAt  zab.Zxid         // up to which the log was searched for situations
	watermark time.Time        // the latest that a table ever had
	planted   Planted
	learners  []uint64 // as of lookedAt
}

// Planted is a bug that clients, workers or the applied state could have.
type Planted int

// The planted bugs of this layer.
const (
	Sound                 Planted = iota
	PresumeCommit                 // a client that does not hear commits
	ForgetTombstone               // the applied state does not keep aborts
	NotFoundMeansDone             // a worker takes "not found" for success
	RollbackMeansPrepared         // the answer ROLLBACK to PREPARE is taken for a yes
	PrepareAgain                  // a PREPARE that did not succeed is repeated on another session
	TryAgainAsAnother             // a client that does not hear does its work again, under another gid
	ForgiveLostAnswer             // a client commits although the answer to a call was lost
	BreakPromise                  // a service that has voted yes rolls back at its time limit
	FinishBehind                  // a worker does not compare a database with what the log remembers of it
)

// asked is a coordinator's event on its way through the queue of a node.
type asked struct {
	zab.Tick // an event for the queue; the host looks at what is in it first
	event    replica.Event
}

var resources = []string{"orders", "billing", "ledger", "stock"}

// rules are short, so that grace periods and orphans happen within a run.
var rules = commit.Rules{MaxTransaction: 4 * time.Second, Grace: 500 * time.Millisecond, Scan: 500 * time.Millisecond,
	Lease: 1500 * time.Millisecond}

// inhabit puts coordinators on the nodes of a cluster that is being made.
func (w *world) inhabit(seed uint64, c *sim.Cluster) {
	w.Cluster = c
	w.quirks, w.dice = drawQuirks(seed, c.Swarm.Quiet)
	members := c.Swarm.Voters + c.Swarm.Observers
	w.hosts, w.skews, w.years = make([]*host, members), make([]time.Duration, members), make([]time.Duration, members)
	w.openAgents(seed)
	w.openVault(seed)
	c.NewHost = w.newHost
	c.Change, c.Tell = changeOfRecords, w.tells
	c.Founded = w.foundedByAll
	c.Swarm.Gossip = sim.Second / 4
}

// foundedByAll reports whether the cluster is formed and no voter is blank any more. A majority may
// form it once all have met; a voter that has crashed before it wrote anything then waits for
// somebody who knows that, or for all, which is what keeps two blank nodes from founding another
// cluster. So until all have taken part, the loss of one for good is more than is promised.
func (w *world) foundedByAll() bool {
	return w.formed != 0 && !slices.ContainsFunc(w.Nodes, func(n *sim.Node) bool {
		return !n.Observer && n.Disk.Hard == zab.HardState{} && len(n.Disk.Log) == 0
	})
}

// clock is the true time.
func (w *world) clock() time.Time {
	return time.UnixMicro(1_800_000_000_000_000 + int64(w.Now))
}

// nodeClock is what the clock of a node shows, and latestClock the one that is furthest ahead.
func (w *world) nodeClock(i int) time.Time { return w.clock().Add(w.skews[i] + w.years[i]) }

func (w *world) latestClock() (latest time.Time) {
	for i := range w.Nodes {
		if now := w.nodeClock(i); now.After(latest) {
			latest = now
		}
	}
	return latest
}

// say lets something arrive after a while, or never.
func (w *world) say(hear func()) {
	if !w.Chance(w.loss) {
		w.After(w.About(w.Swarm.Latency)+1, hear)
	}
}

// question puts a question to a node; late says that it arrives once more, at some time.
// One of hear and over is called, unless the answer comes when nobody waits any more.
func (w *world) question(n *sim.Node, late bool, ask func(request uint64) replica.Event, hear func(commit.Reply),
	over func()) {
	w.request++
	request := w.request
	w.waits[request] = hear
	deliver := func() { w.Event(n, asked{event: ask(request)}) }
	w.say(deliver)
	if late {
		w.After(w.About(3*sim.Second), deliver)
	}
	w.After(w.About(400*sim.Millisecond)+1, func() {
		if _, unanswered := w.waits[request]; unanswered {
			delete(w.waits, request)
			over()
		}
	})
}

func (w *world) replied(r commit.Reply) {
	if hear, ok := w.waits[r.Request]; ok {
		delete(w.waits, r.Request)
		hear(r)
	}
}

// post answers a node's order, if the node that gave it still lives.
func (w *world) post(n *sim.Node, boot uint32, e replica.Event) {
	if n.Boot == boot {
		w.Event(n, asked{event: e})
	}
}

func (w *world) bank(name string) *bank { return w.banks[slices.Index(resources, name)] }

// finish is a recovery worker.
func (w *world) finish(n *sim.Node, t commit.Task) {
	boot := n.Boot
	fail := func(why error) {
		w.failures[t.XID] = true
		w.post(n, boot, commit.Failed{XID: t.XID, Why: why.Error()})
	}
	w.After(w.About(20*sim.Millisecond)+1, func() {
		if t.XID.Cluster != w.formed {
			w.check.Fail("FOREIGN", "node %d wants to %v %v, which belongs to others", n.ID, t.Decision, t.XID)
			return
		}
		if a := w.hosted(t.Branch.Resource); a != nil {
			w.finishAtAgent(a, t, func(e commit.Finished) { w.post(n, boot, e) }, fail)
			return
		}
		b := w.bank(t.Branch.Resource).branches[branchKey{t.XID.ID, t.XID.Branch}]
		if b == nil {
			w.check.Fail("AC1", "node %d wants to finish %v, which its bank never had", n.ID, t.XID)
			return
		}
		if w.Chance(w.loss) {
			fail(errConnection)
			return
		}
		if w.planted != FinishBehind && w.behind(n, b.bank) {
			fail(adapters.ErrBehind)
			return
		}
		known := w.remembered(n, b.bank)
		if w.planted != FinishBehind && known.Quarantine != nil {
			fail(errors.New(txn.Quarantined(b.bank.name)))
			return
		}
		w.check.endsAt(n, b.bank, known)
		cameBack := b.state == prepared && b.final == committed
		attempt{b: b, d: t.Decision, holder: t.Branch.Holder != "", evident: t.Branch.Evidence != "",
			done: func(f txn.Finish, err error) {
				if err != nil {
					fail(err)
					return
				}
				w.countFinish(t, f, cameBack && b.state == committed)
				w.After(w.About(5*sim.Millisecond), func() { w.worked(n, boot, b, t, f) })
			}}.run()
	})
}

// worked brings the answer of a worker to its node.
func (w *world) worked(n *sim.Node, boot uint32, b *branch, t commit.Task, f txn.Finish) {
	if n.Boot == boot && n.Up && !n.Paused && f == txn.Contradicted && n.Role.Role == zab.Leading &&
		n.Role.Established {
		w.check.heard(b, uint32(n.Role.Epoch))
	}
	w.post(n, boot, commit.Finished{XID: t.XID, Finish: f, By: txn.FromCluster, Who: t.Branch.Resource,
		Why: "seen by a worker"})
}

func (w *world) scan(n *sim.Node, name string) {
	boot := n.Boot
	w.After(w.About(10*sim.Millisecond)+1, func() {
		if w.isVault(name) {
			w.scanVault(n, boot)
			return
		}
		if a := w.hosted(name); a != nil {
			listed := w.listAtAgent(a)
			w.After(w.About(10*sim.Millisecond), func() { w.post(n, boot, listed) })
			return
		}
		server := w.bank(name)
		server.plantForeign()
		listed := commit.Listed{Resource: name, Listing: server.list()}
		if server.down || w.Chance(w.loss) {
			listed = commit.Listed{Resource: name, Err: errConnection}
		} else if w.planted != FinishBehind && w.behind(n, server) {
			listed = commit.Listed{Resource: name, Err: adapters.ErrBehind}
		} else if len(server.foreign) > 0 {
			w.hit(ForeignListed)
		}
		server.meddle()
		w.After(w.About(10*sim.Millisecond), func() { w.post(n, boot, listed) })
	})
}

// forget removes the marker of a branch, as an adapter does: only if it is committed.
func (w *world) forget(name string, x txn.XID) {
	if w.hosted(name) != nil {
		return // its agent keeps it to itself
	}
	b := w.bank(name).branches[branchKey{x.ID, x.Branch}]
	if w.Chance(w.loss) {
		w.hit(ForgetLost)
		return
	}
	w.After(w.About(10*sim.Millisecond), func() {
		if b != nil && b.state == committed && !b.bank.down {
			b.forgotten = true
		}
	})
}

// remembered is what the log remembers of a bank, as a node has it.
func (w *world) remembered(n *sim.Node, b *bank) txn.Remembered {
	return n.Host.(*host).table.Remembered(b.name)
}

// behind compares a bank with what the log of a node remembers, and tells the node if it has less and that
// is not known.
func (w *world) behind(n *sim.Node, b *bank) bool {
	if !n.Up {
		return false
	}
	known := w.remembered(n, b)
	if known.Quarantine != nil || !b.row.Less(known.HighWater) {
		return false
	}
	w.post(n, n.Boot, commit.Behind{Resource: b.name, Has: b.row})
	return true
}

// raise removes evidence and raises the row of a bank, as one transaction.
func (w *world) raise(n *sim.Node, name string, s commit.Spent) {
	boot, server := n.Boot, w.bank(name)
	lost := w.Chance(w.loss)
	if lost {
		w.hit(ForgetLost)
	}
	w.After(w.About(10*sim.Millisecond), func() {
		if n.Boot != boot || lost && len(s.XIDs)%2 == 0 || server.down || w.behind(n, server) ||
			w.remembered(n, server).Quarantine != nil {
			return
		}
		for _, x := range s.XIDs {
			if b := server.branches[branchKey{x.ID, x.Branch}]; b != nil && b.state == committed {
				b.forgotten = true
			}
		}
		if server.row.Less(s.To) {
			server.row = s.To
		}
		if now := server.row; !lost { // else the answer is
			w.After(w.About(5*sim.Millisecond), func() {
				w.post(n, boot, commit.Raised{Resource: name, To: s.To,
					Now: now})
			})
		}
	})
}

// acceptAt is an operator who goes on with a bank as it is.
func (w *world) acceptAt(n *sim.Node, b *bank) {
	w.question(n, false, func(request uint64) replica.Event {
		return commit.AcceptAsked{Request: request, Resource: b.name, Who: "operator", Why: "simulated"}
	}, func(commit.Reply) {}, func() {})
}

// evidence lists a page of the markers that a bank keeps. What others have left is in front and
// behind, and never forgotten.
func (w *world) evidence(n *sim.Node, e commit.EvidenceAsk) {
	boot := n.Boot
	w.After(w.About(10*sim.Millisecond)+1, func() {
		if w.isVault(e.Resource) {
			w.vaultEvidence(n, boot, e)
			return
		}
		if w.hosted(e.Resource) != nil {
			w.post(n, boot, commit.Kept{Resource: e.Resource})
			return
		}
		server := w.bank(e.Resource)
		kept := commit.Kept{Resource: e.Resource, Evidence: server.evidence(e.After)}
		if server.down || w.Chance(w.loss) {
			kept = commit.Kept{Resource: e.Resource, Err: errConnection}
		} else if w.behind(n, server) {
			kept = commit.Kept{Resource: e.Resource, Err: adapters.ErrBehind}
		}
		w.After(w.About(10*sim.Millisecond), func() { w.post(n, boot, kept) })
	})
}

// newID mints an id that is born now; the seed draws what is random in it.
func (w *world) newID(c txn.Class) txn.ID {
	id := txn.FirstID(w.clock())
	binary.BigEndian.PutUint64(id[8:], w.RNG.Uint64())
	return id.WithClass(c)
}

// Options choose a run of this layer.
type Options struct {
	Steps   int // of coordinators in the safety phase; zero means 3,000
	Planted Planted
	Mute    []string         // ids of checks that are off
	Swarm   func(*sim.Swarm) // changes what was drawn, for directed runs

	trace bool
}

// Result is what a run without a violation says of itself.
type Result struct {
	Hash         uint64
	Steps        int
	Transactions int
	Counters     [situations]int
}

// Run runs one seed with transactions.
func Run(seed uint64, o Options) (Result, error) {
	if o.Steps == 0 {
		o.Steps = 3000
	}
	w := runOnce(seed, o)
	v := w.check.Violation
	if v == nil {
		return Result{Hash: w.Trace.Hash, Steps: w.Steps, Transactions: len(w.check.all), Counters: w.counters}, nil
	}
	if !o.trace {
		o.trace = true
		again := runOnce(seed, o)
		if a := again.check.Violation; a == nil || a.ID != v.ID || a.Detail != v.Detail {
			v.Detail += " (a second run of the same seed went differently)"
		}
		v.Trace = again.Trace.Last()
	}
	v.Seed, v.Steps, v.At, v.Swarm, v.Replay = seed, w.Steps, w.Now, w.Swarm,
		"./internal/sim/txnsim -run 'TestTransactions$'"
	return Result{Counters: w.counters}, v
}

func runOnce(seed uint64, o Options) *world {
	w := &world{waits: map[uint64]func(commit.Reply){}, failures: map[txn.XID]bool{}, planted: o.Planted,
		beginning: true}
	// The checker exists only when the cluster does, but hosts are made with it.
	w.check = newChecker(nil)
	sim.NewCluster(seed, sim.Options{Mute: o.Mute, Swarm: o.Swarm, Trace: o.trace,
		Inhabit: func(c *sim.Cluster) { w.inhabit(seed, c) }})
	w.check.Checker, w.check.quorumHas = w.Cluster.Check, w.quorumHas
	w.check.banks = func() []*bank { return w.banks }
	w.check.now = func() sim.Instant { return w.Now }
	if w.quirks.Clock == 0 { // by a clock that is wrong everything may be old
		w.check.maxAge = sim.Instant(rules.MaxTransaction / time.Microsecond)
	}
	w.openBanks()
	w.openServices(seed)
	if !w.Swarm.Quiet {
		w.loss, w.crash, w.failed = 0.1*w.RNG.Float64(), 0.4*w.RNG.Float64(), 0.1*w.RNG.Float64()
	}
	w.beginClients()
	w.StartFaults()
	w.startQuirks()
	w.startMembers()
	w.startAgents()
	w.startVault()
	if w.quirks.Clock > 0 && seed%3 == 0 { // a clock that is a year ahead, or behind
		w.years[int(seed/6)%len(w.years)] = time.Duration(seed%2*2)*year - year
	}
	for w.check.Violation == nil && w.Steps < o.Steps && w.Next() {
	}
	w.beginning = false
	if w.check.Violation == nil {
		w.settle()
	}
	w.Cluster.Check.Compare()
	if w.check.Violation == nil {
		if wrong := w.check.history.check(); wrong != "" {
			w.check.Fail("LIN", "%s", wrong)
		}
	}
	return w
}

// settle is the liveness phase: everything is healed, and nothing may stay unfinished.
func (w *world) settle() {
	quiet := w.Swarm.Quiet
	w.Heal()
	w.loss, w.crash, w.failed, w.quirks.LateDetach = 0, 0, 0, 0
	clear(w.skews)
	w.healAgents()
	if !w.Until(w.Now+sim.Reunion, w.Reunited) {
		w.NotReunited()
		return
	}
	if !w.Until(w.Now+sim.Reunion, w.allDone) {
		what, left := w.check.leftover(w.banks)
		if leader := w.Leader(); left == nil && leader != nil {
			if b := w.spent(leader); b != nil {
				what = "the evidence of " + b.ghost.id.String() + " is kept at " + b.bank.name + ", and nobody needs it"
			}
			if more := w.unfinished(); more != "" {
				what = more
			} else if more := w.leftAtVault(leader.Host.(*host).table); more != "" {
				what = more
			} else if open := leader.Host.(*host).table.Witnesses(); len(open) > 0 {
				what = open[0].ID.String() + " is open"
			}
			if b := w.untold(leader); b != nil {
				what = "somebody committed a branch of " + b.ghost.id.String() + " at " + b.bank.name +
					" against its abort, and nobody is told"
			}
		}
		w.check.Fail("AC5", "%s after healing: %s; %d clients wait%s", sim.Reunion, what, w.waiting(), w.Describe())
		return
	}
	if w.check.Violation == nil {
		// Of what the log has forgotten it can record nothing.
		w.check.seen = slices.DeleteFunc(w.check.seen,
			func(s seenContradiction) bool { return w.mayBePurged(s.b.ghost.id) })
		w.check.settled(uint32(w.Leader().Role.Epoch))
	}
	if quiet && w.check.Violation == nil {
		w.check.allCommitted()
	}
}

// allDone reports whether nothing is left to do for anybody.
func (w *world) allDone() bool {
	leader := w.Leader()
	if leader == nil || w.waiting() > 0 || w.unfinished() != "" || leader.Host.(*host).table.WitnessCount() > 0 ||
		w.check.onTheWay() {
		return false
	}
	if w.Now%(100*sim.Millisecond) < 10*sim.Millisecond { // people are not as fast as that
		for _, b := range w.banks {
			w.administer(leader, b)
		}
	}
	if _, left := w.check.leftover(w.banks); left != nil || w.spent(leader) != nil || w.untold(leader) != nil ||
		w.leftAtVault(leader.Host.(*host).table) != "" {
		return false
	}
	done := true
	table := leader.Host.(*host).table
	table.EachOpen(func(x txn.Txn) { done = done && x.Ended })
	for _, r := range table.Meta().Remembered {
		done = done && r.Quarantine == nil
	}
	return done
}

// spent returns a branch whose evidence is kept although nobody needs it, or nil.
func (w *world) spent(leader *sim.Node) *branch {
	table := leader.Host.(*host).table
	for _, bank := range w.banks {
		for _, b := range bank.all {
			if x, known := table.Get(b.ghost.id); b.marked() && known && x.Decision == txn.Commit && x.Finished() {
				return b
			}
		}
	}
	return nil
}

// untold returns a branch that was committed against an abort, and has its marker, without a report; or nil.
func (w *world) untold(leader *sim.Node) *branch {
	table := leader.Host.(*host).table
	for _, bank := range w.banks {
		for _, b := range bank.all {
			x, known := table.Get(b.ghost.id)
			onRecord := slices.ContainsFunc(x.Heuristics, func(h txn.Heuristic) bool { return h.Branch == b.no })
			if b.marked() && known && x.Outcome() == txn.Aborted && !onRecord {
				return b
			}
		}
	}
	return nil
}

func (w *world) waiting() int {
	waiting := 0
	for _, c := range w.clients {
		if c.busy {
			waiting++
		}
	}
	return waiting
}

// quorumHas reports whether the durable logs of a quorum hold an entry.
func (w *world) quorumHas(p zab.Zxid) bool {
	z := zab.Zxid{Epoch: zab.Epoch(p.Epoch), Counter: p.Counter}
	c := w.Cluster.Check
	ok, _ := c.QuorumHolds(c.InForce(c.CountUpto(z)), func(g *sim.Ghost) bool { return g.Disk.Has(z) })
	return ok
}
