// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

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

func (r Rules) withDefaults() Rules {
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

const (
	// maxEntryBytes bounds the records of one log entry; a turn that has more makes
	// several entries.
	maxEntryBytes = 1 << 20
	// maxEntryRecords bounds them, too: each node folds an entry in one turn.
	maxEntryRecords = 1024
	// maxUnderway entries may wait for a quorum. What arrives meanwhile shares the next one,
	// and its fsync on every node: the busier the leader, the less a decision costs.
	maxUnderway = 2
	// maxWaiting bytes of transactions may wait for the next entry: when that is full, and the
	// log is still busy with those before, no new transactions are taken.
	maxWaiting = maxEntryBytes
	// endInterval is how long an End record may wait for company.
	endInterval = 100 * time.Millisecond
	// sweepInterval is how often unfinished branches are looked through.
	sweepInterval = 250 * time.Millisecond
	retryMin      = time.Second
	retryMax      = 30 * time.Second
	// maxTasks branches per resource may be with the recovery workers for the first time, and
	// maxRetries again: what nobody can finish must not keep the others waiting.
	maxTasks   = 64
	maxRetries = 16
	// evidenceInterval is how often evidence that is not needed any more is removed: rarely, so
	// that many branches share a round trip and a sync of their database.
	evidenceInterval = 5 * time.Second
)

// watermarkStep is how far the watermark moves at a time, so that an hour is forgotten with
// one record, and little more than the retention is remembered.
func (r Rules) watermarkStep() time.Duration { return min(time.Hour, r.Retention/8) }

// CoreConfig is what a Core must know.
type CoreConfig struct {
	Node zab.NodeID
	// Members are those that the configuration names; they count until the log says who they are.
	Members []replica.Member
	// Distrust is why this node stopped for good at an earlier time; empty: it did not.
	Distrust string
	// Boot is the durable counter of starts of this node.
	Boot uint32
	// Log has the numbers of the replicated log; zero means its defaults. Who takes part is
	// said above.
	Log zab.Config
	// NewCluster is the id to give to the cluster if it has none yet: random, not zero.
	NewCluster txn.ClusterID
	Resources  []string
	// Validate returns an error if nobody could ever finish a branch by what its record says:
	// adapters.Resource.Validate of its resource. nil: every record will do.
	Validate func(txn.Branch) error
	Rules    Rules
	// TurnSteps is how many steps a turn may take before what is left waits for the next one.
	// 0: 1024.
	TurnSteps int
	// Reload makes the table anew from the store, after a snapshot was installed there.
	Reload func() (*txn.Table, error)
}

// Core is a coordinator without clock, disk and network: the replicated log, the
// table that folds it, and at the leader the live requests and the unfinished
// branches. One goroutine owns it.
//
// Invariants:
//  1. A decision is told only after its record was delivered.
//  2. Only an established leader proposes, answers "no record" or finishes branches.
//  3. A request is answered exactly once.
//  4. list is the latest list of members that this node knows of, and the log's set in force is
//     never later.
//  5. A turn takes a bounded number of steps, however much there is: see turn.go.
type Core struct {
	config CoreConfig
	zab    *zab.Node
	table  *txn.Table
	fx     Effects
	now    time.Time
	// peersNow is what the clock of another node shows, the one that is furthest ahead.
	peersNow time.Time

	role     zab.RoleChanged
	leading  bool     // established leader, whose table has what it inherited
	rising   bool     // established, and the table does not have it yet
	inherits zab.Zxid // where that ends
	proposal uint64
	// committed, aborted count first decisions since the start of this node.
	committed, aborted uint64
	decided            Decided          // of them, those that this node made as the leader
	youngest           txn.ID           // that was decided since the start of this node
	level              txn.FeatureLevel // as last noticed
	digests            digestRing
	noting             map[uint64]bool      // nodes whose stores are on their way into the log
	heldAt             map[uint64]time.Time // when it was last noted what a node's store holds
	busy               zab.Zxid             // the last entry that tells of a transaction
	disk               DiskChanged          // as it was last told
	reads              map[uint64]Event     // ViewAsked and OutcomeAsked that wait for a read index
	behind             []behind             // SeenAsked that wait for this node to catch up
	doubt              doubt                // whether a leader still leads, after a pause
	list               replica.List         // of the members, the latest that is known
	delivered          zab.Zxid             // the last entry about them that was delivered
	asleep             bool                 // an empty store: it waits until it has met enough others
	met                map[zab.NodeID]bool  // while asleep
	speakers           []replica.Speaker    // as last seen
	diverged           divergence
	handing            *handover // of leadership, nil if there is none

	// What is left for later turns:
	steps     int      // of this turn
	left      []Event  // that came and were not handled
	unsaid    zab.Zxid // applied, and the log was not told
	confirmed []uint64 // reads that can be answered
	failed    []uint64 // reads that cannot
	plans     []*planning
	looks     []*look
	farewells []*farewell

	// What only a leader has, dropped with its leadership:
	batch     []txn.Record     // records for the next entry
	waiting   int              // bytes of transactions in the batch, about
	proposed  uint64           // records that were in a batch and are in the log, or on their way
	underway  []ownEntry       // in order
	waiters   waiters          // for the delivery of the batch
	acks      []ack            // for the delivery of records, in order
	grants    []ack            // for a lease that a record grants, in order
	live      map[txn.ID]*live // transactions that somebody waits for, or that are committed and not ended
	asked     askedList        // those that somebody waits for
	taking    bool             // the take-over has not come by all that is open
	due       map[string]*due  // branches of live, by resource
	tasks     map[txn.XID]Task // with the recovery workers
	load      map[slot]int     // how many of them by resource
	nextSweep time.Time
	sweeping  bool // there is more of it
	ends      []txn.ID
	nextEnds  time.Time
	evidence  map[string][]txn.XID // that nobody needs any more, by resource
	nextEvid  time.Time
	forming   bool
	raising   bool // a FeatureRecord is on its way into the log
	changes   membersWork
	scans     map[string]*scan
	listed    map[txn.ID][]*listedBranch // in all listings
	lingering map[txn.ID]int             // how many of them linger, if any does
	unfit     map[string]string          // resources that must not take part, and why
	down      map[string]bool            // resources that this node finds down
	leases    leaseBook
}

// NewCore makes a core from what a store kept. storage is what the replicated log is
// read from; table holds the applied state.
func NewCore(config CoreConfig, storage zab.Storage, table *txn.Table) (*Core, error) {
	config.Rules = config.Rules.withDefaults()
	if config.TurnSteps <= 0 {
		config.TurnSteps = defaultTurnSteps
	}
	list, said := tableList(table)
	if !said {
		list.Members = replica.ToMembers(replica.FromMembers(config.Members))
	}
	log := config.Log
	log.ID, log.Members, log.MembersAt, log.Change, log.Boot = config.Node, replica.ZabMembers(list.Members), list.At, changeOf, config.Boot
	z, err := zab.New(log, storage)
	if err != nil {
		return nil, err
	}
	c := &Core{config: config, zab: z, table: table, level: table.Level(), unfit: map[string]string{}, down: map[string]bool{}, reads: map[uint64]Event{},
		list: list, delivered: list.At, met: map[zab.NodeID]bool{}}
	c.diverged = divergence{Why: config.Distrust, claims: map[zab.NodeID]StateSeen{}, stances: map[zab.NodeID]stance{}}
	c.asleep = blank(storage, table) && !list.Observes(config.Node) && len(c.missing()) > 0
	c.digests.add(c.zxid(), table.Meta().Digest)
	c.clearLeadership()
	return c, nil
}

func (c *Core) clearLeadership() {
	c.batch, c.waiters, c.acks, c.grants, c.waiting, c.proposed, c.underway = nil, waiters{}, nil, nil, 0, 0, nil
	c.asked, c.taking, c.due, c.sweeping = askedList{}, false, map[string]*due{}, false
	c.leases.clear()
	c.live, c.tasks, c.load = map[txn.ID]*live{}, map[txn.XID]Task{}, map[slot]int{}
	c.ends, c.evidence, c.forming, c.raising = nil, map[string][]txn.XID{}, false, false
	c.noting, c.heldAt = map[uint64]bool{}, map[uint64]time.Time{}
	c.changes = membersWork{looked: map[zab.NodeID]zab.Zxid{}}
	c.scans, c.listed, c.lingering = map[string]*scan{}, map[txn.ID][]*listedBranch{}, map[txn.ID]int{}
	for _, r := range c.config.Resources {
		c.scans[r] = &scan{resource: r, listing: newListing(time.Time{}, nil)}
		c.due[r] = &due{}
	}
}

func (c *Core) handle(e Event) error {
	switch e := e.(type) {
	case Tick:
		c.noticePause(e.Now)
		c.passLeaseTime(e.Now)
		c.now, c.peersNow = e.Now, e.Peers
		c.refuseSeen()
		if c.asleep {
			return nil
		}
		if err := c.stepLog(zab.Tick{}); err != nil {
			return err
		}
		c.keepUp()
		return c.probe()
	case Peer:
		if c.asleep {
			return nil
		}
		return c.onPeer(e.Event)
	case PeerMet:
		return c.onPeerMet(e)
	case StateSeen:
		c.onStateSeen(e)
	case AddAsked:
		c.onAddAsked(e)
	case RemoveAsked:
		c.onRemoveAsked(e)
	case LeadAsked:
		c.onLeadAsked(e)
	case CommitAsked:
		c.onCommitAsked(e)
	case OutcomeAsked:
		return c.read(e.Request, e)
	case ResolveAsked:
		c.onResolveAsked(e)
	case ForgetAsked:
		c.onForgetAsked(e)
	case SettleAsked:
		c.onSettleAsked(e)
	case ViewAsked:
		return c.onViewAsked(e)
	case BranchesAsked:
		c.onBranchesAsked(e)
	case SeenAsked:
		c.onSeenAsked(e)
	case PlanAsked:
		c.onPlanAsked(e)
	case Finished:
		c.onFinished(e)
	case Failed:
		c.onFailed(e)
	case Listed:
		c.onListed(e)
	case Kept:
		c.onKept(e)
	case Fitness:
		c.onFitness(e)
	case MembersSeen:
		c.onMembersSeen(e)
	case ReplaceAsked:
		c.onReplaceAsked(e)
	case DiskChanged:
		c.onDiskChanged(e)
	case LeaseAsked:
		c.onLeaseAsked(e)
	case LeaseEndAsked:
		c.onLeaseEndAsked(e)
	case LeasesHeard:
		for _, n := range e.Leases {
			c.hear(n)
		}
	default:
		panic(fmt.Sprintf("coordinator: unknown event %T", e))
	}
	return nil
}

// keepUp does what a leader does by the clock.
func (c *Core) keepUp() {
	if !c.leading || c.distrusted() != nil {
		return
	}
	if c.table.Cluster() == 0 {
		if !c.forming {
			c.forming = true
			c.batch = append(c.batch, txn.Form{Cluster: c.config.NewCluster})
		}
		return
	}
	c.keepMembers()
	c.sweep()
	c.endSilent()
	for _, s := range c.scans {
		s.sightings.Date(c.now)
	}
	c.scanDue()
	c.sweepEvidence()
	if len(c.ends) > 0 && !c.now.Before(c.nextEnds) {
		c.takeEnds()
	}
	if c.now.After(c.nextEvid) {
		c.fx.Forget = c.evidence
		c.evidence, c.nextEvid = map[string][]txn.XID{}, c.now.Add(evidenceInterval)
	}
	if mark := c.mark(); mark.Sub(c.table.Meta().Watermark) > c.config.Rules.watermarkStep() {
		c.batch = append(c.batch, txn.Watermark{Time: mark.Truncate(time.Millisecond)})
	}
}

// mark is where the watermark may stand: a retention behind the clock of the leader and behind
// those of the clients, so that no single clock that runs ahead makes the cluster forget, and
// refuse, what is young. It is zero while nothing was decided: there is nothing to forget.
func (c *Core) mark() time.Time {
	if c.youngest == (txn.ID{}) {
		return time.Time{}
	}
	now := c.now
	if youngest := c.youngest.Time(); youngest.Before(now) {
		now = youngest
	}
	return now.Add(-c.config.Rules.Retention)
}

// propose turns the records that wait into log entries.
func (c *Core) propose() error {
	if c.handing != nil {
		return c.proceedHandover()
	}
	if !c.leading || len(c.underway) >= maxUnderway {
		return nil
	}
	if err := c.proposeChange(); err != nil || !c.leading || len(c.batch)+len(c.waiters.leases) == 0 {
		return err
	}
	if len(c.ends) > 0 { // they cost nothing in company
		c.takeEnds()
	}
	if n := len(c.waiters.leases); n > 0 {
		c.batch = append(c.batch, txn.LeaseRecord{Count: uint32(n)})
	}
	c.numberWaiters()
	for c.leading && len(c.batch) > 0 && len(c.underway) < maxUnderway {
		data, n := encodeSome(c.batch)
		c.batch = c.batch[n:]
		c.waiting = max(0, c.waiting-len(data))
		if len(c.batch) == 0 {
			c.batch, c.waiting = nil, 0
		}
		c.proposal++
		if accepted, err := c.stepProposed(data, n); err != nil || !accepted {
			return err
		}
	}
	return nil
}

// encodeSome encodes the first n records, as many as one entry may hold but at least one.
func encodeSome(records []txn.Record) (data []byte, n int) {
	for weight := 0; n < len(records) && len(data) < maxEntryBytes && weight < maxEntryRecords; n++ {
		weight++
		if end, ok := records[n].(txn.End); ok {
			weight += len(end.IDs)
		}
		if n == 0 {
			data = txn.EncodeRecords(make([]byte, 0, 256), records[0])
		} else {
			data = txn.AppendRecord(data, records[n])
		}
	}
	return data, n
}

// stepProposed reports whether the log took an entry with the next n records of the batch.
func (c *Core) stepProposed(data []byte, n int) (accepted bool, err error) {
	effects := c.zab.Step(zab.Proposed{ID: c.proposal, Data: data})
	for _, e := range effects {
		switch e := e.(type) {
		case zab.Accepted:
			accepted = true
			c.proposed += uint64(n)
			c.underway = append(c.underway, ownEntry{zxid: e.Zxid, upto: c.proposed})
		case zab.Refused:
			c.refuse(data, n, e.Err)
		}
	}
	return accepted, c.carryOut(effects)
}

// refuse answers everybody who waits for records that the log did not take. Nothing
// was appended, so asking again is safe.
func (c *Core) refuse(data []byte, n int, err error) {
	switch {
	case errors.Is(err, zab.ErrBusy):
		err = errBusy
	case errors.Is(err, zab.ErrMembers):
		err = unavailablef("%v: ask again in a moment", err)
	default:
		err = c.notLeader(c.role.Leader)
	}
	records, decodeErr := txn.DecodeRecords(data)
	if decodeErr != nil {
		panic(fmt.Sprintf("coordinator: own records do not decode: %v", decodeErr))
	}
	c.refuseWaiters(n, err)
	var again []txn.Record
	for _, r := range records {
		switch r := r.(type) {
		case txn.CommitRecord:
			c.giveUp(r.ID, err)
		case txn.AbortRecord:
			c.giveUp(r.ID, err)
		case txn.End:
			c.ends = append(c.ends, r.IDs...) // try again later
		case txn.HeuristicRecord:
			again = append(again, r) // likewise, and before any End of it: nobody would report it again
		case txn.MemberRecord:
			if r.Store != (txn.StoreID{}) { // that a disk was replaced, this leader does not note
				delete(c.noting, r.Node)
			}
		case txn.Form:
			c.forming = false
		case txn.FeatureRecord:
			c.raising = false
		case txn.LeaseEndRecord:
			for _, n := range r.Leases {
				delete(c.leases.ending, n)
			}
		case txn.MembersRecord:
			c.changeRefused(r, err)
		}
	}
	c.batch = append(again, c.batch...)
	c.proposed += uint64(n - len(again))
}

// stepLog hands one event to the replicated log and carries out its effects.
func (c *Core) stepLog(e zab.Event) error { return c.carryOut(c.zab.Step(e)) }

func (c *Core) carryOut(effects []zab.Effect) error {
	var applied zab.Zxid
	for _, e := range effects {
		switch e := e.(type) {
		case zab.Send:
			c.fx.Send = append(c.fx.Send, e.Message)
		case zab.Write:
			c.fx.Write = append(c.fx.Write, e)
		case zab.Deliver:
			for _, entry := range e.Entries {
				if err := c.deliver(entry); err != nil {
					return err
				}
				applied = entry.Zxid
			}
		case zab.Restored:
			if err := c.restore(e.Snapshot.Zxid); err != nil {
				return err
			}
		case zab.SendSnapshot:
			c.fx.SendSnapshot = append(c.fx.SendSnapshot, e)
		case zab.FetchSnapshot:
			c.fx.FetchSnapshot = e
		case zab.RoleChanged:
			c.onRoleChanged(e)
		case zab.ReadReady:
			c.onReadReady(e.ID)
		case zab.ReadFailed:
			c.onReadFailed(e.ID)
		case zab.TransferEnded:
			c.onTransferEnded(e)
		case zab.Dropped:
			// onRoleChanged answers everybody who waits.
		case zab.Accepted, zab.Refused:
			// stepProposed has seen to them.
		case zab.Note:
			c.note("%s", e.Text)
		default:
			panic(fmt.Sprintf("coordinator: unknown effect %T", e))
		}
	}
	if applied.IsZero() {
		return nil
	}
	c.compareClaims()
	if c.diverged.Why != "" {
		return nil
	}
	if c.steps >= c.config.TurnSteps {
		c.unsaid = applied // there may be more behind it
		return nil
	}
	return c.stepLog(zab.Applied{Upto: applied})
}

// deliver folds one entry of the log: the only place where decisions become true.
func (c *Core) deliver(e zab.Entry) error {
	stores := c.table.Meta().Stores
	changes, err := c.table.Apply(txn.Position{Epoch: uint32(e.Zxid.Epoch), Counter: e.Zxid.Counter}, e.Data)
	if err != nil {
		return err
	}
	c.digests.add(e.Zxid, changes.Meta.Digest)
	c.noticeLevel(changes.Meta.Level)
	c.onMembersDelivered()
	c.compareStores(stores, changes.Meta.Stores)
	if len(changes.Verdicts)+len(changes.Open)+len(changes.Finished) > 0 {
		c.busy = e.Zxid
	}
	for _, v := range changes.Verdicts {
		if compareID(c.youngest, v.ID) < 0 && !c.isAhead(v.ID, maxAhead) {
			c.youngest = v.ID
		}
		if v.First && c.leading && e.Zxid.Epoch == c.role.Epoch {
			c.decided.count(v.Decision)
		}
		c.onVerdict(v)
	}
	c.steps += len(changes.Verdicts) + len(changes.Open) + len(changes.Finished) + len(e.Data)>>10
	if c.leading {
		c.entryDelivered(e.Zxid, changes.Granted)
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
	c.rise()
	return nil
}

func (c *Core) onRoleChanged(e zab.RoleChanged) {
	was := c.leading || c.rising
	c.role = e
	is := e.Role == zab.Leading && e.Established
	switch {
	case was && !is:
		c.note("node %d leads no more: %s", c.config.Node, e.Reason)
		next := e.Leader
		if c.handing != nil {
			next = c.handing.to
		}
		if c.leading {
			c.failWaiting(c.notLeader(next))
		}
		c.leading, c.rising = false, false
		c.clearLeadership()
	case !was && is:
		c.rising, c.inherits = true, c.zab.Status().Commit
		c.note("node %d leads in epoch %d", c.config.Node, e.Epoch)
		c.rise()
	}
	c.followHandover(e)
}

// rise begins to lead when the table has all that earlier leaders committed: what it does not
// have yet it could neither answer for nor finish.
func (c *Core) rise() {
	if c.rising && !c.zxid().Less(c.inherits) {
		c.rising, c.leading, c.taking = false, true, true
		c.leases.clear()
		c.table.StartWalk()
		c.takeOver()
	}
}

// takeOver goes on with the beginning of a leadership: what is committed and not ended is
// finished by this node, once its client had the time to do it.
func (c *Core) takeOver() {
	if !c.taking {
		return
	}
	c.taking = c.table.Walk(c.piece(), func(x txn.Txn) {
		c.steps++
		if x.Decision == txn.Commit && !x.Ended && c.live[x.ID] == nil {
			c.resume(x)
		}
	})
}

func (c *Core) reply(r Reply) {
	if err := c.distrusted(); err != nil && r.Err == nil {
		r = Reply{Request: r.Request, Err: err}
	}
	c.steps++
	c.fx.Reply = append(c.fx.Reply, r)
}

func (c *Core) note(format string, args ...any) {
	c.fx.Notes = append(c.fx.Notes, Note{Text: fmt.Sprintf(format, args...)})
}

func (c *Core) alarm(format string, args ...any) {
	c.fx.Notes = append(c.fx.Notes, Note{Alarm: true, Text: fmt.Sprintf(format, args...)})
}

func compareID(a, b txn.ID) int { return bytes.Compare(a[:], b[:]) }
