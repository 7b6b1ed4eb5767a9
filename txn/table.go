// SPDX-License-Identifier: Apache-2.0

package txn

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/concordtx/concord/internal/mutant"
	"github.com/concordtx/concord/protocol/zab"
)

// Archive is where a Table keeps what it folded, and looks up finished transactions,
// which it does not hold in memory.
type Archive interface {
	// Keep takes the changes of one fold. It must not wait for a disk.
	Keep(c Changes)
	// Finished returns a finished transaction, as the changes so far say.
	Finished(id ID) (Txn, bool)
	// KeyUse returns the latest use of an idempotency key, as the changes so far say. It may
	// return one that is older than the watermark, or not.
	KeyUse(key string) (KeyUse, bool)
}

// Table is the state machine of the cluster: the fold of all delivered records.
//
// Invariants:
//  1. The first decision of a gid wins, for ever: Decision of a Txn never changes.
//  2. open holds exactly the transactions that are not finished; the archive holds
//     the finished ones born since the watermark. Between two folds queue holds what
//     open holds.
//  3. A gid is in witnesses or has a decision or neither, and no watermark removes it there.
//  4. The same records in the same order give the same table, digest and changes.
//
// A Table has one owner; it is not safe for concurrent use.
type Table struct {
	ClusterState
	archive   Archive
	watermark time.Time
	leases    Leases
	// remembered is by resource. It is replaced as a whole, never changed.
	remembered []Remembered
	// acts are the last MaxActs of people, the oldest first. It is replaced as a whole, never changed.
	acts      []*Act
	open      map[ID]*held
	witnesses map[ID]Witness // of the gids that members decide, and have not
	queue     openQueue
	unended   int // of what is open: those that have not ended
	alarming  int // and those with an alarm
}

// Meta is the part of a Table that is not transactions.
type Meta struct {
	Cluster   ClusterID
	Watermark time.Time
	Zxid      zab.Zxid
	Digest    Digest
	// Stores are the stores of the nodes, by node. It is replaced as a whole, never changed.
	Stores []MemberStore
	// Level is what every member knows; zero stands for LevelBase.
	Level  FeatureLevel
	Leases Leases
	// Members are those of the cluster; nil before the log said so. What it points to is never
	// changed.
	Members *Members
	Agents  Agents // from LevelAgents on
	// Remembered is what the log remembers of databases, by resource. It is replaced as a whole,
	// never changed.
	Remembered []Remembered
	// Acts are those of people, from LevelAudit on, the oldest first. It is replaced as a whole, never changed.
	Acts []*Act
}

// NewTable makes a table from what a store kept: the zero Meta and nothing open for a
// new one.
func NewTable(m Meta, open []Txn, a Archive, witnesses ...Witness) *Table {
	t := &Table{ClusterState: NewClusterState(m), archive: a, watermark: m.Watermark, leases: m.Leases,
		remembered: m.Remembered, acts: m.Acts, open: make(map[ID]*held, len(open)),
		witnesses: make(map[ID]Witness, len(witnesses))}
	for _, w := range witnesses {
		t.witnesses[w.ID] = w
	}
	for _, x := range open {
		if mutant.ForgetDecisions {
			break
		}
		h := &held{Txn: x}
		t.open[x.ID] = h
		t.keep(h)
	}
	return t
}

// Meta returns the part of the table that is not transactions.
func (t *Table) Meta() Meta {
	return Meta{Cluster: t.cluster, Watermark: t.watermark, Zxid: t.zxid, Digest: t.digest, Stores: t.stores,
		Level: t.level, Leases: t.leases, Members: t.members, Agents: t.agents, Remembered: t.remembered,
		Acts: t.acts}
}

// TooOld reports whether a transaction without record is so old that its record may
// have been forgotten: nothing may be presumed of it.
func (t *Table) TooOld(id ID) bool { return id.Time().Before(t.watermark) }

// Get returns what is known of a transaction. The result shares memory with the
// table and must not be changed.
func (t *Table) Get(id ID) (Txn, bool) {
	if x, ok := t.open[id]; ok {
		return x.Txn, true
	}
	if t.TooOld(id) {
		return Txn{}, false
	}
	return t.archive.Finished(id)
}

// Open returns the transactions that are not finished, oldest first. It takes as long as there
// are many; Walk does not.
func (t *Table) Open() []Txn {
	open := make([]Txn, 0, len(t.open))
	for _, x := range t.open {
		open = append(open, x.Txn)
	}
	slices.SortFunc(open, func(a, b Txn) int { return slices.Compare(a.ID[:], b.ID[:]) })
	return open
}

// EachOpen visits the transactions that are not finished, in no order.
func (t *Table) EachOpen(visit func(Txn)) {
	for _, x := range t.open {
		visit(x.Txn)
	}
}

// OpenCount returns how many transactions are not finished.
func (t *Table) OpenCount() int { return len(t.open) }

// Counts returns how many transactions have not ended, and how many have an alarm.
func (t *Table) Counts() (unended, alarming int) { return t.unended, t.alarming }

// Verdict is what a table answers to a CommitRecord or AbortRecord.
type Verdict struct {
	ID       ID
	Decision Decision
	By       Source
	Reason   string
	First    bool // this record made the decision
	TooOld   bool // refused: older than what is kept
	Open     bool // the members decide: see Witness. There is no decision yet
}

// Changes is what one fold changed. A transaction
// is in at most one of Open and Finished; being in one removes it from the other.
type Changes struct {
	Open     []Txn
	Finished []Txn
	// PurgeBefore, if not zero: finished transactions with smaller ids are to be removed,
	// before Finished is stored.
	PurgeBefore ID
	Verdicts    []Verdict
	// Witnesses are the open gids as they are now, of those that changed; Closed are open no more.
	Witnesses []Witness
	Closed    []ID
	// Keys are the idempotency keys that were used. Those of transactions that PurgeBefore purges
	// are to be forgotten, at some time.
	Keys []KeyUse
	// Voted says that a later life of an agent is known than before.
	Voted bool
	// Broken are to be alarmed.
	Broken  []Breach
	Granted []Lease // in the order in which LeaseRecord asks for them
	Ended   []Lease // now
	// Quarantined and Accepted are resources that are so now.
	Quarantined []string
	Accepted    []string
	// Acts are new, or ended. Those before ActsFrom, if that is not 0, are to be removed.
	Acts     []Act
	ActsFrom uint64
	Meta     Meta

	touched []ID // open gids, while the fold is under way
}

// Apply folds one log entry. An error means that the entry is not ours or damaged;
// the table must not be used any further then.
func (t *Table) Apply(at zab.Zxid, data []byte) (Changes, error) {
	records, err := DecodeRecords(data)
	if err != nil {
		return Changes{}, fmt.Errorf("apply %v: %w", at, err)
	}
	t.Roll(at, data)
	var c Changes
	var touched []*held
	for _, r := range records {
		switch r := r.(type) {
		case CommitRecord:
			x := Txn{ID: r.ID, Decision: Commit, Seen: len(r.Branches) > 0, Protocol: r.Protocol, By: r.By,
				Branches: r.Branches, Reason: r.Reason, Label: r.Label, Last: r.Last, Decided: at,
				Ended: len(r.Branches) == 0}
			why := cmp.Or(t.refusal(r.ID, r.By), t.quarantinedAmong(r.Branches, r.By), t.keyUsed(r, &c))
			if why != "" && r.Last == "" {
				x = Txn{ID: r.ID, Decision: Abort, By: FromCluster, Reason: why, Seen: len(r.Branches) > 0, Decided: at,
					Ended: true}
			}
			touched = append(touched, t.decide(x, &c))
			if v := c.Verdicts[len(c.Verdicts)-1]; r.Key != "" && v.First && v.Decision == Commit {
				c.Keys = append(c.Keys, KeyUse{Key: r.Key, ID: r.ID, Result: r.Result})
			}
		case AbortRecord:
			touched = append(touched, t.decide(Txn{ID: r.ID, Decision: Abort, By: r.By, Reason: r.Reason, Seen: r.Seen,
				Decided: at, Ended: true}, &c))
		case PreCommitRecord:
			touched = append(touched, t.preCommit(r, at, &c))
		case PreAbortRecord:
			t.attempt(r.ID, r.Election, Abort, &c)
		case PromiseRecord:
			t.promise(r, &c)
		case ProvenRecord:
			touched = append(touched, t.prove(r, at, &c))
		case End:
			for _, id := range r.IDs {
				touched = append(touched, t.end(id))
			}
		case HeuristicRecord:
			touched = append(touched, t.heuristic(r))
		case ForgetRecord:
			touched = append(touched, t.forget(r))
		case HighWaterRecord:
			t.raise(r)
		case QuarantineRecord:
			if t.quarantine(r) {
				c.Quarantined = append(c.Quarantined, r.Resource)
			}
		case AcceptRecord:
			if t.accept(r) {
				c.Accepted = append(c.Accepted, r.Resource)
			}
		case ActRecord:
			t.act(r, &c)
		case ActEndRecord:
			t.endAct(r, &c)
		case LeaseRecord:
			t.grant(r, &c)
		case LeaseEndRecord:
			t.endLeases(r, &c)
		case Watermark:
			if r.Time.After(t.watermark) {
				t.watermark = r.Time
				c.PurgeBefore = FirstID(r.Time)
				t.passWitnesses(&c)
				t.passActs(&c)
				if mutant.PurgeUnfinished {
					for _, x := range t.open {
						if t.TooOld(x.ID) {
							t.drop(x)
						}
					}
				}
			}
		case AgentRecord:
			c.Voted = c.Voted || t.agents.News(r)
			t.Fold(at, r)
		default:
			t.Fold(at, r)
		}
	}
	t.file(touched, &c)
	t.fileWitnesses(&c)
	c.Meta = t.Meta()
	t.archive.Keep(c)
	return c, nil
}

// decide records a first decision, unless the gid is open, and gives the verdict in any case. Of a
// later one only this is kept: that a branch was seen.
func (t *Table) decide(x Txn, c *Changes) *held {
	if old, ok := t.Get(x.ID); ok && !mutant.LastDecisionWins {
		c.Verdicts = append(c.Verdicts, Verdict{ID: x.ID, Decision: old.Decision, By: old.By, Reason: old.Reason})
		if old.Decision != Abort || old.Seen || !x.Seen {
			return nil
		}
		old.Seen = true
		return t.hold(old)
	}
	if _, open := t.witnesses[x.ID]; open {
		if !mutant.TombstoneOverPreCommit {
			c.Verdicts = append(c.Verdicts, Verdict{ID: x.ID, Open: true}) // its members decide
			return nil
		}
		delete(t.witnesses, x.ID)
		c.touch(x.ID)
	}
	if t.TooOld(x.ID) {
		c.Verdicts = append(c.Verdicts, t.standing(x.ID))
		return nil
	}
	c.Verdicts = append(c.Verdicts, Verdict{ID: x.ID, Decision: x.Decision, By: x.By, Reason: x.Reason, First: true})
	return t.hold(x)
}

func (t *Table) tooOld() string {
	return "the transaction is older than what the cluster remembers: " + t.watermark.UTC().Format(time.RFC3339)
}

func (t *Table) end(id ID) *held {
	x, ok := t.open[id]
	if !ok || x.Ended {
		return nil
	}
	x.Ended = true
	return x
}

// heuristic adds a report, and brings a finished transaction back into memory for it.
func (t *Table) heuristic(r HeuristicRecord) *held {
	x, ok := t.Get(r.ID)
	if !ok {
		return nil
	}
	for _, h := range x.Heuristics {
		if h.Branch == r.Branch && (h.Outcome == r.Outcome || !h.Forgotten) {
			return nil // reported again, for example by a second leader, who may be able to tell less
		}
	}
	// A new slice: readers may hold the old one.
	x.Heuristics = append(slices.Clip(x.Heuristics),
		Heuristic{Branch: r.Branch, Outcome: r.Outcome, By: r.By, Who: r.Who, Why: r.Why})
	return t.hold(x)
}

// hold puts a changed transaction among the open ones for the rest of this fold, so that a second
// record of the same entry finds it; file moves it on.
func (t *Table) hold(x Txn) *held {
	if open, ok := t.open[x.ID]; ok {
		open.Txn = x
		return open
	}
	h := &held{Txn: x}
	t.open[x.ID] = h
	return h
}

func (t *Table) forget(r ForgetRecord) *held {
	x, ok := t.open[r.ID]
	if !ok {
		return nil
	}
	heuristics := slices.Clone(x.Heuristics)
	for i := range heuristics {
		heuristics[i].Forgotten = true
	}
	x.Heuristics = heuristics
	x.Forgets = append(slices.Clip(x.Forgets), Forget{Who: r.Who, Why: r.Why})
	return x
}

// file sorts what a fold touched into open and finished. One that was touched
// twice may be listed twice as open: storing it again changes nothing.
func (t *Table) file(touched []*held, c *Changes) {
	for _, x := range touched {
		switch {
		case x == nil || t.open[x.ID] != x: // untouched, or filed as finished already
		case x.Finished():
			t.drop(x)
			c.Finished = append(c.Finished, x.Txn)
		default:
			t.keep(x)
			c.Open = append(c.Open, x.Txn)
		}
	}
}
