// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/recovery"
	"github.com/concordtx/concord/txn"
)

// Member is one node of the cluster, as configured on every node.
type Member struct {
	ID       zab.NodeID
	Observer bool
	Peer     string // host:port for the other nodes
	API      string // host:port for clients
}

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
	return r
}

const (
	// maxEntryBytes bounds the records of one log entry; a turn that has more makes
	// several entries.
	maxEntryBytes = 1 << 20
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
	// maxTasks branches per resource may be with the recovery workers.
	maxTasks = 64
	// evidenceInterval is how often evidence that is not needed any more is removed: rarely, so
	// that many branches share a round trip and a sync of their database.
	evidenceInterval = 5 * time.Second
)

// watermarkStep is how far the watermark moves at a time, so that an hour is forgotten with
// one record, and little more than the retention is remembered.
func (r Rules) watermarkStep() time.Duration { return min(time.Hour, r.Retention/8) }

// CoreConfig is what a Core must know.
type CoreConfig struct {
	Node    zab.NodeID
	Members []Member
	// Boot is the durable counter of starts of this node.
	Boot uint32
	// Log has the numbers of the replicated log; zero means its defaults. Who takes part is
	// said above.
	Log zab.Config
	// NewCluster is the id to give to the cluster if it has none yet: random, not zero.
	NewCluster txn.ClusterID
	Resources  []string
	Rules      Rules
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
type Core struct {
	config CoreConfig
	zab    *zab.Node
	table  *txn.Table
	fx     Effects
	now    time.Time

	role     zab.RoleChanged
	leading  bool // established leader
	proposal uint64
	// committed, aborted count first decisions since the start of this node.
	committed, aborted uint64
	youngest           txn.ID // that was decided since the start of this node
	digests            digestRing
	noting             map[uint64]bool      // nodes whose stores are on their way into the log
	heldAt             map[uint64]time.Time // when it was last noted what a node's store holds
	busy               zab.Zxid             // the last entry that tells of a transaction
	diskFull           string               // why this node takes no new transactions; empty: it does
	reads              map[uint64]Event     // ViewAsked and OutcomeAsked that wait for a read index
	behind             []behind             // SeenAsked that wait for this node to catch up
	doubt              doubt                // whether a leader still leads, after a pause

	// What only a leader has, dropped with its leadership:
	batch     []txn.Record          // records for the next entry
	waiting   int                   // bytes of transactions in the batch, about
	underway  int                   // own entries that are not delivered yet
	batchAcks []uint64              // requests that wait for the delivery of the batch
	acks      map[zab.Zxid][]uint64 // requests that wait for the delivery of an entry
	live      map[txn.ID]*live      // transactions that somebody waits for, or that are committed and not ended
	tasks     map[txn.XID]Task      // with the recovery workers
	load      map[string]int        // how many of them by resource
	nextSweep time.Time
	ends      []txn.ID
	nextEnds  time.Time
	evidence  map[string][]txn.XID // of finished branches, by resource
	nextEvid  time.Time
	forming   bool
	scans     map[string]*scan
	unfit     map[string]string
}

// scan is what the leader knows of one resource's prepared branches.
type scan struct {
	due       time.Time
	running   bool
	at        time.Time // of the last answer
	err       error
	listing   map[txn.XID]adapters.Prepared // less what was finished since
	sightings recovery.Sightings
	reported  map[txn.XID]string
}

// NewCore makes a core from what a store kept. storage is what the replicated log is
// read from; table holds the applied state.
func NewCore(config CoreConfig, storage zab.Storage, table *txn.Table) (*Core, error) {
	config.Rules = config.Rules.withDefaults()
	members := make([]zab.Member, len(config.Members))
	for i, m := range config.Members {
		members[i] = zab.Member{ID: m.ID, Observer: m.Observer}
	}
	log := config.Log
	log.ID, log.Members, log.Boot = config.Node, members, config.Boot
	z, err := zab.New(log, storage)
	if err != nil {
		return nil, err
	}
	c := &Core{config: config, zab: z, table: table, unfit: map[string]string{}, reads: map[uint64]Event{}}
	c.clearLeadership()
	return c, nil
}

func (c *Core) clearLeadership() {
	c.batch, c.batchAcks, c.waiting, c.underway = nil, nil, 0, 0
	c.acks = map[zab.Zxid][]uint64{}
	c.live, c.tasks, c.load = map[txn.ID]*live{}, map[txn.XID]Task{}, map[string]int{}
	c.ends, c.evidence, c.forming = nil, map[string][]txn.XID{}, false
	c.noting, c.heldAt = map[uint64]bool{}, map[uint64]time.Time{}
	c.scans = map[string]*scan{}
	for _, r := range c.config.Resources {
		c.scans[r] = &scan{reported: map[txn.XID]string{}}
	}
}

// Step handles one turn: some events, in order. Records that they give rise to share
// log entries.
func (c *Core) Step(events ...Event) (*Effects, error) {
	c.fx = Effects{Send: c.fx.Send[:0], Write: c.fx.Write[:0], Reply: c.fx.Reply[:0],
		Finish: c.fx.Finish[:0], Scan: c.fx.Scan[:0], Notes: c.fx.Notes[:0]}
	for _, e := range events {
		if err := c.handle(e); err != nil {
			return nil, err
		}
	}
	if err := c.propose(); err != nil {
		return nil, err
	}
	return &c.fx, nil
}

func (c *Core) handle(e Event) error {
	switch e := e.(type) {
	case Tick:
		c.noticePause(e.Now)
		c.now = e.Now
		c.refuseSeen()
		if err := c.stepLog(zab.Tick{}); err != nil {
			return err
		}
		c.keepUp()
		return c.probe()
	case Peer:
		return c.onPeer(e.Event)
	case CommitAsked:
		c.onCommitAsked(e)
	case OutcomeAsked:
		return c.read(e.Request, e)
	case ResolveAsked:
		c.onResolveAsked(e)
	case ForgetAsked:
		c.onForgetAsked(e)
	case ViewAsked:
		return c.onViewAsked(e)
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
	case Unfit:
		c.onUnfit(e)
	case MembersSeen:
		c.onMembersSeen(e)
	case ReplaceAsked:
		c.onReplaceAsked(e)
	case DiskChanged:
		c.onDiskChanged(e)
	default:
		panic(fmt.Sprintf("coordinator: unknown event %T", e))
	}
	return nil
}

// keepUp does what a leader does by the clock.
func (c *Core) keepUp() {
	if !c.leading {
		return
	}
	if c.table.Cluster() == 0 {
		if !c.forming {
			c.forming = true
			c.batch = append(c.batch, txn.Form{Cluster: c.config.NewCluster})
		}
		return
	}
	c.sweep()
	for _, s := range c.scans {
		s.sightings.Date(c.now)
	}
	c.scanDue()
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
	if !c.leading || len(c.batch) == 0 || c.underway >= maxUnderway {
		return nil
	}
	if len(c.ends) > 0 { // they cost nothing in company
		c.takeEnds()
	}
	batch, acks := c.batch, c.batchAcks
	c.batch, c.batchAcks, c.waiting = nil, nil, 0
	for len(batch) > 0 {
		data, n := encodeSome(batch)
		batch = batch[n:]
		c.proposal++
		var last []uint64
		if len(batch) == 0 {
			last = acks
		}
		if err := c.stepProposed(data, last); err != nil {
			return err
		}
	}
	return nil
}

// encodeSome encodes the first n records, as many as one entry may hold but at least one.
func encodeSome(records []txn.Record) (data []byte, n int) {
	for n < len(records) && len(data) < maxEntryBytes {
		if n == 0 {
			data = txn.EncodeRecords(make([]byte, 0, 256), records[0])
		} else {
			data = txn.AppendRecord(data, records[n])
		}
		n++
	}
	return data, n
}

func (c *Core) stepProposed(data []byte, acks []uint64) error {
	id := c.proposal
	effects := c.zab.Step(zab.Proposed{ID: id, Data: data})
	for _, e := range effects {
		switch e := e.(type) {
		case zab.Accepted:
			c.underway++
			if len(acks) > 0 {
				c.acks[e.Zxid] = acks
			}
		case zab.Refused:
			c.refuse(data, acks, e.Err)
		}
	}
	return c.carryOut(effects)
}

// refuse answers everybody who waits for records that the log did not take. Nothing
// was appended, so asking again is safe.
func (c *Core) refuse(data []byte, acks []uint64, err error) {
	if errors.Is(err, zab.ErrBusy) {
		err = errBusy
	} else {
		err = c.notLeader(c.role.Leader)
	}
	records, decodeErr := txn.DecodeRecords(data)
	if decodeErr != nil {
		panic(fmt.Sprintf("coordinator: own records do not decode: %v", decodeErr))
	}
	for _, r := range records {
		switch r := r.(type) {
		case txn.CommitRecord:
			c.giveUp(r.ID, err)
		case txn.AbortRecord:
			c.giveUp(r.ID, err)
		case txn.End:
			c.ends = append(c.ends, r.IDs...) // try again later
		case txn.HeuristicRecord:
			c.batch = append(c.batch, r) // likewise, and before any End of it: nobody would report it again
		case txn.MemberRecord:
			if r.Who == "" {
				delete(c.noting, r.Node)
			}
		case txn.Form:
			c.forming = false
		}
	}
	for _, request := range acks {
		c.reply(Reply{Request: request, Err: err})
	}
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
	if !applied.IsZero() {
		c.answerSeen()
		return c.stepLog(zab.Applied{Upto: applied})
	}
	return nil
}

// deliver folds one entry of the log: the only place where decisions become true.
func (c *Core) deliver(e zab.Entry) error {
	stores := c.table.Meta().Stores
	changes, err := c.table.Apply(txn.Position{Epoch: uint32(e.Zxid.Epoch), Counter: e.Zxid.Counter}, e.Data)
	if err != nil {
		return err
	}
	c.digests.add(e.Zxid, changes.Meta.Digest)
	c.compareStores(stores, changes.Meta.Stores)
	if len(changes.Verdicts)+len(changes.Open)+len(changes.Finished) > 0 {
		c.busy = e.Zxid
	}
	for _, v := range changes.Verdicts {
		if compareID(c.youngest, v.ID) < 0 {
			c.youngest = v.ID
		}
		c.onVerdict(v)
	}
	if c.leading {
		if e.Zxid.Epoch == c.role.Epoch {
			c.underway--
		}
		for _, request := range c.acks[e.Zxid] {
			c.reply(Reply{Request: request, Zxid: e.Zxid})
		}
		delete(c.acks, e.Zxid)
		for _, x := range changes.Open {
			if x.Ended {
				delete(c.live, x.ID)
			}
		}
		for _, x := range changes.Finished {
			delete(c.live, x.ID)
			c.evidenceDone(x)
		}
	}
	return nil
}

func (c *Core) onRoleChanged(e zab.RoleChanged) {
	was := c.leading
	c.role = e
	c.leading = e.Role == zab.Leading && e.Established
	switch {
	case was && !c.leading:
		c.note("node %d leads no more: %s", c.config.Node, e.Reason)
		c.failWaiting(c.notLeader(e.Leader))
		c.clearLeadership()
	case !was && c.leading:
		c.note("node %d leads in epoch %d", c.config.Node, e.Epoch)
		c.takeOver()
	}
}

// takeOver starts a leadership: what is committed and not ended is finished by this
// node, once its client had the time to do it.
func (c *Core) takeOver() {
	for _, x := range c.table.Open() {
		if x.Decision == txn.Commit && !x.Ended {
			c.resume(x)
		}
	}
}

func (c *Core) failWaiting(err error) {
	var requests []uint64
	for _, waiting := range c.acks {
		requests = append(requests, waiting...)
	}
	for _, l := range c.live {
		requests = append(requests, l.requests...)
	}
	for request := range c.reads {
		requests = append(requests, request)
	}
	clear(c.reads)
	requests = append(requests, c.batchAcks...)
	slices.Sort(requests)
	for _, request := range requests {
		c.reply(Reply{Request: request, Err: err})
	}
}

func (c *Core) reply(r Reply) { c.fx.Reply = append(c.fx.Reply, r) }

func (c *Core) note(format string, args ...any) {
	c.fx.Notes = append(c.fx.Notes, Note{Text: fmt.Sprintf(format, args...)})
}

func (c *Core) alarm(format string, args ...any) {
	c.fx.Notes = append(c.fx.Notes, Note{Alarm: true, Text: fmt.Sprintf(format, args...)})
}

func compareID(a, b txn.ID) int { return bytes.Compare(a[:], b[:]) }
