// SPDX-License-Identifier: Apache-2.0

package recovery

import "github.com/concordtx/concord/txn"

// Fate is what became of a branch that was decided to commit, in a database that was set back.
type Fate uint8

const (
	// Missing: it was there, and is not. Somebody was told that it is committed.
	Missing Fate = iota
	// Uncertain: it may have ended before the high-water row was written, and its evidence have been
	// removed; or it is missing.
	Uncertain
	// PreparedAgain: the database has it prepared. The decision that the log keeps ends it.
	PreparedAgain
	// Present: it has left its evidence.
	Present
)

// String is a word for people.
func (f Fate) String() string {
	return [...]string{Missing: "missing", Uncertain: "unknown", PreparedAgain: "prepared-again", Present: "present"}[f]
}

// Reached is what a database that was set back shows.
type Reached struct {
	Cluster  txn.ClusterID
	Resource string
	Has      txn.HighWater // zero: it has no row
	// What it lists as prepared, and whose evidence it has.
	Prepared, Evidence map[txn.XID]bool
}

// Told is a branch of a transaction that was told committed, and its fate.
type Told struct {
	Txn    txn.Txn
	Branch txn.BranchNo
	Fate   Fate
}

// Fates tells the fates of the branches of a transaction, those that the row says nothing about. What was
// decided below its floor had ended when the row was written, so the database has it. What was decided above the row
// cannot have lost its evidence in any other way than with the data: evidence is removed only together
// with raising the row.
func (r Reached) Fates(x txn.Txn) (told []Told) {
	if x.Decision != txn.Commit || x.Decided.Less(r.Has.Floor) {
		return nil
	}
	for _, b := range x.Branches {
		if b.Resource != r.Resource {
			continue
		}
		xid, fate := txn.XID{Cluster: r.Cluster, ID: x.ID, Branch: b.No}, Missing
		switch {
		case r.Prepared[xid]:
			fate = PreparedAgain
		case r.Evidence[xid]:
			fate = Present
		case !r.Has.At.Less(x.Decided):
			fate = Uncertain
		}
		told = append(told, Told{Txn: x, Branch: b.No, Fate: fate})
	}
	return told
}
