// SPDX-License-Identifier: Apache-2.0

package commit

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/concordtx/concord/coordinator/deadlock"
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

const (
	// endInterval is how long an End record may wait for company.
	endInterval = 100 * time.Millisecond
	// sweepInterval is how often unfinished branches are looked through.
	sweepInterval = 250 * time.Millisecond
	retryMin      = time.Second
	retryMax      = 30 * time.Second
	// MaxTasks branches per resource may be with the recovery workers for the first time, and
	// maxRetries again: what nobody can finish must not keep the others waiting.
	MaxTasks   = 256
	MaxRetries = 16
	// evidenceInterval is how often evidence that is not needed any more is removed: rarely, so
	// that many branches share a round trip and a sync of their database.
	evidenceInterval = 5 * time.Second
)

// Config is what the transaction machine must know.
type Config struct {
	Resources []string
	// Hosted reports whether an agent holds the branches of a resource. nil: none does.
	Hosted func(resource string) bool
	// Validate returns an error if nobody could ever finish a branch by what its record says:
	// adapters.Resource.Validate of its resource. nil: every record will do.
	Validate func(txn.Branch) error
	// Marks reports whether a resource keeps high-water rows. nil: none does.
	Marks func(resource string) bool
	Rules Rules
	// Reload makes the table anew from the store, after a snapshot was installed there.
	Reload func() (*txn.Table, error)
}

// Machine is the transaction machine: the table that folds the log, and at the leader the live
// requests and the unfinished branches.
//
// Invariants:
//  1. A decision is told only after its record was delivered.
//  2. Only an established leader proposes, answers "no record" or finishes branches.
//  3. A request is answered exactly once.
type Machine struct {
	config    Config
	core      *replica.Core // that carries it
	table     *txn.Table
	fx, taken Effects

	// committed, aborted count first decisions since the start of this node.
	committed, aborted uint64
	decided            Decided // of them, those that this node made as the leader
	deadlocks          uint64  // that this node has found as the leader
	youngest           txn.ID  // that was decided since the start of this node
	disk               DiskChanged
	unfit              map[string]string // resources that must not take part, and why
	down               map[string]bool   // resources that this node finds down

	// What is left for later turns:
	plans    []*planning
	looks    []*look
	partings []*parting

	// What only a leader has, dropped with its leadership:
	live      map[txn.ID]*live // transactions that somebody waits for, or that are committed and not ended
	asked     askedList        // those that somebody waits for
	taking    bool             // the take-over has not come by all that is open
	reopening []txn.ID         // open gids that it has not come by
	wakes     wakes            // of councils
	due       map[string]*due  // branches of live, by resource
	tasks     map[txn.XID]slot // with the recovery workers
	load      map[slot]int     // how many of them by resource
	nextSweep time.Time
	sweeping  bool // there is more of it
	ends      []txn.ID
	nextEnds  time.Time
	evidence  map[string][]txn.XID // that nobody needs any more, by resource
	nextEvid  time.Time
	raising   map[string]txn.HighWater // what the rows of resources are being raised to
	behind    map[string]bool          // resources whose quarantine is on its way into the log
	scans     map[string]*scan
	listed    map[txn.ID][]*listedBranch // in all listings
	lingering map[txn.ID]int             // how many of them linger, if any does
	vanished  map[txn.ID][]txn.Branch    // without decision; branches that were listed, and then no more
	leases    leaseBook
	keys      keyClaims
	waits     deadlock.Detector
	settles   timers         // of transactions that wait to be settled at their last resources
	settling  map[string]int // how many are being asked, by resource

	nextVanished time.Time
}

// New makes the machine from what a store kept.
func New(config Config, table *txn.Table) *Machine {
	config.Rules = config.Rules.WithDefaults()
	c := &Machine{config: config, table: table, unfit: map[string]string{}, down: map[string]bool{}}
	c.clearLeadership()
	return c
}

func (c *Machine) clearLeadership() {
	c.asked, c.taking, c.due, c.sweeping = askedList{}, false, map[string]*due{}, false
	c.leases.clear()
	c.keys = keyClaims{held: map[string]heldKey{}}
	c.waits.Clear(0)
	c.reopening, c.wakes = nil, nil
	c.settles, c.settling = nil, map[string]int{}
	c.live, c.tasks, c.load = map[txn.ID]*live{}, map[txn.XID]slot{}, map[slot]int{}
	c.ends, c.evidence = nil, map[string][]txn.XID{}
	c.raising, c.behind = map[string]txn.HighWater{}, map[string]bool{}
	c.vanished, c.nextVanished = map[txn.ID][]txn.Branch{}, time.Time{}
	c.scans, c.listed, c.lingering = map[string]*scan{}, map[txn.ID][]*listedBranch{}, map[txn.ID]int{}
	for _, r := range c.config.Resources {
		c.scans[r] = &scan{resource: r, listing: newListing(time.Time{}, nil)}
		c.due[r] = &due{}
	}
}

// Join implements Machine.
func (c *Machine) Join(core *replica.Core) { c.core = core }

// State implements Machine.
func (c *Machine) State() *txn.ClusterState { return c.table.State() }

// Take returns what the driver has to carry out since the last call. It is valid until the next.
func (c *Machine) Take() *Effects {
	t := &c.taken
	c.fx, c.taken = Effects{Reply: t.Reply[:0], Finish: t.Finish[:0], Scan: t.Scan[:0], Send: t.Send[:0],
		Evidence: t.Evidence[:0], Waits: t.Waits[:0],
		Settle: t.Settle[:0]}, c.fx
	return &c.taken
}

// Step implements Machine.
func (c *Machine) Step(e replica.Event) error {
	switch e := e.(type) {
	case replica.Tick:
		c.passLeaseTime(e.Now)
	case CommitAsked:
		c.onCommitAsked(e)
	case OutcomeAsked:
		return c.core.Read(e.Request, e)
	case KeyAsked:
		return c.core.Read(e.Request, e)
	case ResolveAsked:
		c.onResolveAsked(e)
	case ForgetAsked:
		c.onForgetAsked(e)
	case SettleAsked:
		c.onSettleAsked(e)
	case EndAsked:
		c.onEndAsked(e)
	case RetryAsked:
		c.onRetryAsked(e)
	case ViewAsked:
		return c.onViewAsked(e)
	case BranchesAsked:
		c.onBranchesAsked(e)
	case PlanAsked:
		c.onPlanAsked(e)
	case Finished:
		c.onFinished(e)
	case Failed:
		c.onFailed(e)
	case LastDecided:
		c.onLastDecided(e)
	case LastSettled:
		c.onLastSettled(e)
	case Listed:
		c.onListed(e)
	case Kept:
		c.onKept(e)
	case Behind:
		c.onBehind(e)
	case Raised:
		c.onRaised(e)
	case AcceptAsked:
		c.onAcceptAsked(e)
	case ActAsked:
		c.onActAsked(e)
	case ActEnded:
		c.note(e.Request, e.ActEndRecord)
	case ActsAsked:
		return c.core.Read(e.Request, e)
	case Fitness:
		c.onFitness(e)
	case DiskChanged:
		c.disk = e
	case Said:
		c.onSaid(e)
	case LeaseAsked:
		c.onLeaseAsked(e)
	case LeaseEndAsked:
		c.onLeaseEndAsked(e)
	case WaitsAsked:
		c.onWaitsAsked(e)
	case Waits:
		c.onWaits(e)
	case LeasesHeard:
		for _, n := range e.Leases {
			c.hear(n)
		}
	default:
		panic(fmt.Sprintf("commit: unknown event %T", e))
	}
	return nil
}

// Answer implements Machine.
func (c *Machine) Answer(e replica.Event) {
	switch e := e.(type) {
	case OutcomeAsked:
		c.settle(e)
	case KeyAsked:
		c.answerKey(e)
	case ViewAsked:
		c.answerView(e)
	case ActsAsked:
		c.answerActs(e)
	default:
		panic(fmt.Sprintf("commit: %T is a read that asks for nothing", e))
	}
}

// Keep implements Machine.
func (c *Machine) Keep() {
	c.sweep()
	c.wakeCouncils()
	c.settleDue()
	c.endSilent()
	c.dropKeyClaims()
	c.watchWaits()
	for _, s := range c.scans {
		s.sightings.Date(c.core.Now())
	}
	c.scanDue()
	c.sweepEvidence()
	c.abortVanished()
	if len(c.ends) > 0 && !c.core.Now().Before(c.nextEnds) {
		c.takeEnds()
	}
	c.spend()
	if mark := c.mark(); mark.Sub(c.table.Meta().Watermark) > c.config.Rules.watermarkStep() {
		c.core.Propose(txn.Watermark{Time: mark.Truncate(time.Millisecond)})
	}
}

// Gather implements Machine.
func (c *Machine) Gather() {
	if len(c.ends) > 0 && (c.core.Pending() > 0 || c.leases.wanted > 0) { // they cost nothing in company
		c.takeEnds()
	}
	if c.leases.wanted > 0 {
		c.core.Propose(txn.LeaseRecord{Count: uint32(c.leases.wanted)})
		c.leases.wanted = 0
	}
}

// Refused implements Machine.
func (c *Machine) Refused(records []txn.Record, requests []uint64, err error) (again []txn.Record) {
	for _, request := range requests {
		c.reply(Reply{Request: request, Err: err})
	}
	c.leases.asked = slices.DeleteFunc(c.leases.asked,
		func(request uint64) bool { return slices.Contains(requests, request) })
	for _, r := range records {
		switch r := r.(type) {
		case txn.CommitRecord:
			c.giveUp(r.ID, err)
		case txn.AbortRecord:
			c.giveUp(r.ID, err)
		case txn.PreCommitRecord:
			c.retake(r.ID, err)
		case txn.PreAbortRecord:
			c.retake(r.ID, err)
		case txn.PromiseRecord:
			c.retake(r.ID, err)
		case txn.ProvenRecord:
			c.retake(r.ID, err)
		case txn.End:
			c.ends = append(c.ends, r.IDs...) // try again later
		case txn.HeuristicRecord:
			again = append(again, r) // likewise, and before any End of it: nobody would report it again
		case txn.ActEndRecord:
			again = append(again, r)
		case txn.QuarantineRecord:
			delete(c.behind, r.Resource) // the next look finds it again
		case txn.LeaseEndRecord:
			for _, n := range r.Leases {
				delete(c.leases.ending, n)
			}
		}
	}
	return again
}

// Apply implements Machine: the only place where decisions become true.
func (c *Machine) Apply(e zab.Entry) (told bool, err error) {
	changes, err := c.table.Apply(e.Zxid, e.Data)
	if err != nil {
		return false, err
	}
	for _, v := range changes.Verdicts {
		if c.youngest.Compare(v.ID) < 0 && !c.isAhead(v.ID, maxAhead) {
			c.youngest = v.ID
		}
		if v.First && c.core.Leading() && e.Zxid.Epoch == c.core.Epoch() {
			c.decided.count(v.Decision)
		}
		c.onVerdict(v)
	}
	for _, b := range changes.Broken {
		c.breach(b.ID, "a record, "+b.Why+",", b.Told, b.Known)
	}
	c.core.Spend(len(changes.Verdicts) + len(changes.Open) + len(changes.Finished) + len(e.Data)>>10)
	if c.core.Leading() {
		c.onQuarantines(changes)
		for _, w := range changes.Witnesses {
			c.relist(w.ID)
		}
		for _, id := range changes.Closed {
			c.relist(id)
		}
		for _, use := range changes.Keys {
			delete(c.keys.held, use.Key)
		}
		c.leases.granted = changes.Granted
		c.onLeasesEnded(changes.Ended)
		for _, x := range changes.Open {
			c.settled(x)
			if x.Ended {
				c.letGo(x.ID)
			}
			c.relist(x.ID)
		}
		for _, x := range changes.Finished {
			c.letGo(x.ID)
			c.evidenceDone(x)
			c.relist(x.ID)
		}
	}
	return len(changes.Verdicts)+len(changes.Open)+len(changes.Finished) > 0, nil
}

// Delivered implements Machine.
func (c *Machine) Delivered(requests []uint64) {
	for _, request := range requests {
		if len(c.leases.asked) > 0 && c.leases.asked[0] == request {
			c.leases.asked = c.leases.asked[1:]
			c.grant(request)
			continue
		}
		c.reply(Reply{Request: request, Zxid: c.core.Zxid()})
	}
}

// Load implements Machine.
func (c *Machine) Load() error {
	if c.config.Reload == nil {
		return errors.New("there is no store to read it from")
	}
	table, err := c.config.Reload()
	if err != nil {
		return err
	}
	c.table = table
	c.core.Note("%d transactions are open in the state of the snapshot", table.OpenCount())
	return nil
}

// Lead implements Machine.
func (c *Machine) Lead() {
	c.taking = true
	c.leases.clear()
	c.waits.Clear(uint64(c.core.Epoch()) << 32)
	for _, w := range c.table.Witnesses() {
		c.reopening = append(c.reopening, w.ID)
	}
	c.table.StartWalk()
	c.closeActs()
	c.takeOver()
}

// Resign implements Machine.
func (c *Machine) Resign(err error) {
	c.partings = append(c.partings, &parting{asked: c.asked, err: err})
	c.sayFarewell()
	c.clearLeadership()
}

// GoOn implements Machine.
func (c *Machine) GoOn() {
	c.sayFarewell()
	c.planOn()
	c.lookOn()
	if c.core.Leading() {
		c.takeOver()
		c.judgeListings()
		if c.sweeping {
			c.sweep()
		}
		c.wakeCouncils()
	}
}

// More implements Machine.
func (c *Machine) More() bool {
	return len(c.partings)+len(c.plans)+len(c.looks) > 0 || c.taking || c.sweeping || c.councilsDue() || c.judging()
}

func (c *Machine) reply(r Reply) {
	if err := c.core.Distrusted(); err != nil && r.Err == nil {
		r = Reply{Request: r.Request, Err: err}
	}
	c.core.Spend(1)
	c.fx.Reply = append(c.fx.Reply, r)
}

// retake begins anew with a transaction of which the log did not take a record: if it is open,
// from what the log has.
func (c *Machine) retake(id txn.ID, err error) {
	c.giveUp(id, err)
	if _, open := c.table.Witness(id); open && c.core.Leading() {
		c.hold(id)
	}
}

// mark is where the watermark may stand: a retention behind the clock of the leader and behind
// those of the clients, so that no single clock that runs ahead makes the cluster forget, and
// refuse, what is young. It is zero while nothing was decided: there is nothing to forget.
func (c *Machine) mark() time.Time {
	if c.youngest == (txn.ID{}) {
		return time.Time{}
	}
	now := c.core.Now()
	if youngest := c.youngest.Time(); youngest.Before(now) {
		now = youngest
	}
	return now.Add(-c.config.Rules.Retention)
}

// takeOver goes on with the beginning of a leadership: what is committed and not ended is
// finished by this node, once its client had the time to do it.
func (c *Machine) takeOver() {
	if !c.taking {
		return
	}
	for left := c.core.Piece(); left > 0 && len(c.reopening) > 0; left-- {
		c.core.Spend(1)
		if _, open := c.table.Witness(c.reopening[0]); open {
			c.hold(c.reopening[0])
		}
		c.reopening = c.reopening[1:]
	}
	if len(c.reopening) > 0 {
		return
	}
	c.taking = c.table.Walk(c.core.Piece(), func(x txn.Txn) {
		c.core.Spend(1)
		if x.Decision == txn.Commit && !x.Ended && c.live[x.ID] == nil {
			c.resume(x)
		}
	})
}

// Leases are those of the clients. They must not be changed.
func (c *Machine) Leases() txn.Leases { return c.table.Leases() }

// Counts returns how many first decisions this node has delivered since its start, and how many of
// them it made as the leader.
func (c *Machine) Counts() (committed, aborted uint64, made Decided) {
	return c.committed, c.aborted, c.decided
}

// Unfit returns why a resource must not take part; empty if it may.
func (c *Machine) Unfit(resource string) string {
	if c.table.Quarantined(resource) {
		return txn.Quarantined(resource)
	}
	return c.unfit[resource]
}

// Remembered is what the log remembers of databases, by resource. It must not be changed.
func (c *Machine) Remembered() []txn.Remembered { return c.table.Meta().Remembered }

// Rules are the numbers of a cluster, equal on all nodes by good custom: nothing
// that is safe or unsafe depends on them.
type Rules struct {
	// MaxTransaction is how long a transaction may take from its birth to its decision
	// before its prepared branches count as orphans. Default 60 s.
	MaxTransaction time.Duration
	// Grace is how long the client may take to finish the branches of a committed
	// transaction before the cluster does it. Default 5 s.
	Grace time.Duration
	// Scan is the interval at which the leader asks each resource what is prepared.
	// Default 5 s.
	Scan time.Duration
	// Retention is how long finished transactions are remembered. Default 7 days.
	Retention time.Duration
	// Lease is how long a client that has transactions may be silent before it counts as dead.
	// Default 5 s.
	Lease time.Duration
}

// WithDefaults returns the rules with what is not set as it is by default.
func (r Rules) WithDefaults() Rules {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&r.MaxTransaction, time.Minute)
	def(&r.Grace, 5*time.Second)
	def(&r.Scan, 5*time.Second)
	def(&r.Retention, 7*24*time.Hour)
	def(&r.Lease, 5*time.Second)
	return r
}

// watermarkStep is how far the watermark moves at a time, so that an hour is forgotten with
// one record, and little more than the retention is remembered.
func (r Rules) watermarkStep() time.Duration { return min(time.Hour, r.Retention/8) }
