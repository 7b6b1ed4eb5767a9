// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"errors"
	"fmt"
	"time"

	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

const (
	// maxEntryBytes bounds the records of one log entry; a turn that has more makes
	// several entries.
	maxEntryBytes = 1 << 20
	// MaxEntryRecords bounds them, too: each node folds an entry in one turn.
	MaxEntryRecords = 1024
	// maxUnderway entries may wait for a quorum. What arrives meanwhile shares the next one,
	// and its fsync on every node: the busier the leader, the less a decision costs.
	maxUnderway = 2
	// MaxWaiting bytes of transactions may wait for the next entry: when that is full, and the
	// log is still busy with those before, no new transactions are taken.
	MaxWaiting = maxEntryBytes
)

// Config is what a Core must know.
type Config struct {
	Node zab.NodeID
	// Members are those that the configuration names; they count until the log says who they are.
	Members []Member
	// Distrust is why this node stopped for good at an earlier time; empty: it did not.
	Distrust string
	// Boot is the durable counter of starts of this node.
	Boot uint32
	// Log has the numbers of the replicated log; zero means its defaults. Who takes part is
	// said above.
	Log zab.Config
	// NewCluster is the id to give to the cluster if it has none yet: random, not zero.
	NewCluster txn.ClusterID
	// TurnSteps is how many steps a turn may take before what is left waits for the next one.
	// 0: 1024.
	TurnSteps int
}

// Core is a node of a replicated log without clock, disk and network: the log, who its members
// are, whose states agree, and at the leader the records that are on their way. It carries a
// Machine, which gives the entries their meaning. One goroutine owns both.
//
// Invariants:
//  1. Only an established leader whose machine has all that earlier leaders committed proposes.
//  2. A request is answered exactly once, here or by the machine.
//  3. list is the latest list of members that this node knows of, and the log's set in force is
//     never later.
//  4. A turn takes a bounded number of steps, however much there is: see turn.go.
type Core struct {
	config  Config
	zab     *zab.Node
	machine Machine
	fx      Effects
	now     time.Time
	// peersNow is what the clock of another node shows, the one that is furthest ahead.
	peersNow time.Time

	role      zab.RoleChanged
	leading   bool     // established leader, whose machine has what it inherited
	rising    bool     // established, and the machine does not have it yet
	inherits  zab.Zxid // where that ends
	proposal  uint64
	level     txn.FeatureLevel // as last noticed
	digests   digestRing
	noting    map[uint64]bool      // nodes whose stores are on their way into the log
	heldAt    map[uint64]time.Time // when it was last noted what a node's store holds
	busy      zab.Zxid             // the last entry that tells of more than the cluster
	reads     map[uint64]Event     // requests that wait for a read index
	behind    []behind             // SeenAsked that wait for this node to catch up
	doubt     doubt                // whether a leader still leads, after a pause
	list      List                 // of the members, the latest that is known
	delivered zab.Zxid             // the last entry about them that was delivered
	asleep    bool                 // an empty store: it waits until it has met enough others
	met       map[zab.NodeID]bool  // while asleep
	speakers  []Speaker            // as last seen
	diverged  divergence
	handing   *handover // of leadership, nil if there is none

	// What is left for later turns:
	steps     int      // of this turn
	left      []Event  // that came and were not handled
	unsaid    zab.Zxid // applied, and the log was not told
	confirmed []uint64 // reads that can be answered
	failed    []uint64 // reads that cannot
	farewells []farewell

	// What only a leader has, dropped with its leadership:
	batch    []txn.Record // records for the next entry
	waiting  int          // bytes of what clients asked for in the batch, about
	proposed uint64       // records that were in a batch and are in the log, or on their way
	underway []ownEntry   // in order
	waiters  []ack        // for the delivery of the batch; not numbered yet
	acks     []ack        // for the delivery of records, in order
	forming  bool
	raising  bool // a FeatureRecord is on its way into the log
	changes  membersWork
}

// New makes a core from what a store kept. storage is what the replicated log is
// read from; machine holds the applied state.
func New(config Config, storage zab.Storage, machine Machine) (*Core, error) {
	if config.TurnSteps <= 0 {
		config.TurnSteps = defaultTurnSteps
	}
	state := machine.State()
	list, said := stateList(state)
	if !said {
		list.Members = ToMembers(FromMembers(config.Members))
	}
	log := config.Log
	log.ID, log.Members, log.MembersAt, log.Change, log.Boot = config.Node, ZabMembers(list.Members), list.At, changeOf,
		config.Boot
	z, err := zab.New(log, storage)
	if err != nil {
		return nil, err
	}
	c := &Core{config: config, zab: z, machine: machine, level: state.Level(), reads: map[uint64]Event{},
		list: list, delivered: list.At, met: map[zab.NodeID]bool{}}
	c.diverged = divergence{Why: config.Distrust, claims: map[zab.NodeID]StateSeen{}, stances: map[zab.NodeID]stance{}}
	c.asleep = Blank(storage, state) && !list.Observes(config.Node) && len(c.missing()) > 0
	c.digests.add(c.Zxid(), state.Digest())
	c.clearLeadership()
	c.followSet()
	machine.Join(c)
	return c, nil
}

func (c *Core) clearLeadership() {
	c.batch, c.waiters, c.acks, c.waiting, c.proposed, c.underway = nil, nil, nil, 0, 0, nil
	c.forming, c.raising = false, false
	c.noting, c.heldAt = map[uint64]bool{}, map[uint64]time.Time{}
	c.changes = membersWork{looked: map[zab.NodeID]zab.Zxid{}}
}

func (c *Core) handle(e Event) error {
	switch e := e.(type) {
	case Tick:
		return c.onTick(e)
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
	case SeenAsked:
		c.onSeenAsked(e)
	case MembersSeen:
		c.onMembersSeen(e)
	case ReplaceAsked:
		c.onReplaceAsked(e)
	default:
		return c.machine.Step(e)
	}
	return nil
}

func (c *Core) onTick(e Tick) error {
	c.noticePause(e.Now)
	if err := c.machine.Step(e); err != nil {
		return err
	}
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
}

// keepUp does what a leader does by the clock.
func (c *Core) keepUp() {
	if !c.leading || c.Distrusted() != nil {
		return
	}
	if c.State().Cluster() == 0 {
		if !c.forming {
			c.forming = true
			c.Propose(txn.Form{Cluster: c.config.NewCluster})
		}
		return
	}
	c.keepMembers()
	c.machine.Keep()
}

// propose turns the records that wait into log entries.
func (c *Core) propose() error {
	if c.handing != nil {
		return c.proceedHandover()
	}
	if !c.leading || len(c.underway) >= maxUnderway {
		return nil
	}
	if err := c.proposeChange(); err != nil || !c.leading {
		return err
	}
	c.machine.Gather()
	if len(c.batch) == 0 {
		return nil
	}
	c.numberWaiters()
	for c.leading && len(c.batch) > 0 && len(c.underway) < maxUnderway {
		data, n := encodeSome(c.batch)
		records := c.batch[:n]
		c.batch = c.batch[n:]
		c.waiting = max(0, c.waiting-len(data))
		if len(c.batch) == 0 {
			c.batch, c.waiting = nil, 0
		}
		c.proposal++
		if accepted, err := c.stepProposed(data, records, n); err != nil || !accepted {
			return err
		}
	}
	return nil
}

// encodeSome encodes the first n records, as many as one entry may hold but at least one.
func encodeSome(records []txn.Record) (data []byte, n int) {
	for weight := 0; n < len(records) && len(data) < maxEntryBytes && weight < MaxEntryRecords; n++ {
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

// stepProposed reports whether the log took an entry of records, of which the next n are those of
// the batch. A record that some member may not be able to read ends this node instead of that one: in the log it
// would be there for good.
func (c *Core) stepProposed(data []byte, records []txn.Record, n int) (accepted bool, err error) {
	for _, r := range records {
		if txn.LevelOf(r) > c.State().Level() {
			panic(fmt.Sprintf("replica: a %T is proposed, which is of feature level %d, and the cluster is at level %d",
				r, txn.LevelOf(r), c.State().Level()))
		}
	}
	effects := c.zab.Step(zab.Proposed{ID: c.proposal, Data: data})
	for _, e := range effects {
		switch e := e.(type) {
		case zab.Accepted:
			accepted = true
			c.proposed += uint64(n)
			c.underway = append(c.underway, ownEntry{zxid: e.Zxid, upto: c.proposed})
		case zab.Refused:
			c.refuse(records, n, e.Err)
		}
	}
	return accepted, c.carryOut(effects)
}

// refuse has everybody answered who waits for records that the log did not take. Nothing
// was appended, so asking again is safe.
func (c *Core) refuse(records []txn.Record, n int, err error) {
	switch {
	case errors.Is(err, zab.ErrBusy):
		err = ErrBusy
	case errors.Is(err, zab.ErrMembers):
		err = txn.Unavailablef("%v: ask again in a moment", err)
	default:
		err = c.NotLeader()
	}
	for _, r := range records {
		switch r := r.(type) {
		case txn.MemberRecord:
			if r.Store != (txn.StoreID{}) { // that a disk was replaced, this leader does not note
				delete(c.noting, r.Node)
			}
		case txn.Form:
			c.forming = false
		case txn.FeatureRecord:
			c.raising = false
		case txn.MembersRecord:
			c.changeRefused(r, err)
		}
	}
	again := c.machine.Refused(records, c.refuseWaiters(n, err), err)
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
			c.Note("%s", e.Text)
		default:
			panic(fmt.Sprintf("replica: unknown effect %T", e))
		}
	}
	c.followSet()
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

// deliver has the machine fold one entry of the log.
func (c *Core) deliver(e zab.Entry) error {
	stores := c.State().Stores()
	told, err := c.machine.Apply(e)
	if err != nil {
		return err
	}
	c.digests.add(e.Zxid, c.State().Digest())
	c.noticeLevel(c.State().Level())
	c.onMembersDelivered()
	c.compareStores(stores, c.State().Stores())
	if told {
		c.busy = e.Zxid
	}
	if c.leading {
		c.entryDelivered(e.Zxid)
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
		c.Note("node %d no longer leads: %s", c.config.Node, e.Reason)
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
		c.Note("node %d leads in epoch %d", c.config.Node, e.Epoch)
		c.rise()
	}
	c.followHandover(e)
}

// rise begins to lead when the machine has all that earlier leaders committed: what it does not
// have yet it could neither answer for nor finish.
func (c *Core) rise() {
	if c.rising && !c.Zxid().Less(c.inherits) {
		c.rising, c.leading = false, true
		c.machine.Lead()
	}
}

// ready answers a request with an error unless this node may decide.
func (c *Core) ready(request uint64) bool {
	err := c.Ready()
	if err != nil {
		c.reply(Reply{Request: request, Err: err})
	}
	return err == nil
}

func (c *Core) reply(r Reply) {
	if err := c.Distrusted(); err != nil && r.Err == nil {
		r = Reply{Request: r.Request, Err: err}
	}
	c.steps++
	c.fx.Reply = append(c.fx.Reply, r)
}

// Note has a line logged.
func (c *Core) Note(format string, args ...any) {
	c.fx.Notes = append(c.fx.Notes, Note{Text: fmt.Sprintf(format, args...)})
}

// Alarm has a line logged that somebody has to look at.
func (c *Core) Alarm(format string, args ...any) {
	c.fx.Notes = append(c.fx.Notes, Note{Alarm: true, Text: fmt.Sprintf(format, args...)})
}
