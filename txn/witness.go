// SPDX-License-Identifier: Apache-2.0

package txn

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"slices"

	"github.com/concordtx/concord/internal/mutant"
	"github.com/concordtx/concord/protocol/zab"
)

// A three-phase transaction is decided by its members: the agents that hold its branches, and the
// cluster as one more of them, the witness. Here is what the log keeps for the witness. The
// rules that members follow, and why they are right, are in package threepc.

// JournalID is the random id of an agent's journal, made with it. Votes and promises belong to a
// journal: a new journal is a new party.
type JournalID [16]byte

// String returns 32 hex characters.
func (j JournalID) String() string { return hex.EncodeToString(j[:]) }

// ParseJournalID parses what String prints and nothing else.
func ParseJournalID(s string) (JournalID, bool) {
	var j JournalID
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(j) || hex.EncodeToString(b) != s {
		return j, false
	}
	copy(j[:], b)
	return j, true
}

// PartyID names a member of a three-phase transaction: an agent with its journal, or, as zero, the
// witness.
type PartyID struct {
	Agent   string
	Journal JournalID
}

// IsWitness reports whether this is the cluster.
func (p PartyID) IsWitness() bool { return p == PartyID{} }

// Compare orders members, the witness first. It returns -1, 0 or 1.
func (p PartyID) Compare(o PartyID) int {
	return cmp.Or(cmp.Compare(p.Agent, o.Agent), bytes.Compare(p.Journal[:], o.Journal[:]))
}

// String returns the name of the agent, or "the cluster".
func (p PartyID) String() string {
	if p.IsWitness() {
		return "the cluster"
	}
	return p.Agent
}

// Party is a member of a three-phase transaction and where it is found: host:port, empty for the
// witness.
type Party struct {
	PartyID
	Addr string
}

// Election numbers an attempt to decide a three-phase transaction: the ballot of Paxos. The zero
// value is none and comes before all others.
type Election struct {
	N  uint32
	By PartyID // the candidate
}

// FirstElection is the one of the normal run: the witness's, and the only one in which a commit
// can come up.
var FirstElection = Election{N: 1}

// Compare orders elections by N, then by the candidate. It returns -1, 0 or 1.
func (e Election) Compare(o Election) int { return cmp.Or(cmp.Compare(e.N, o.N), e.By.Compare(o.By)) }

// Less reports whether e comes before o.
func (e Election) Less(o Election) bool { return e.Compare(o) < 0 }

// PreCommitRecord says that the witness accepted to commit in an election. That of the first
// election opens the gid: every agent that was asked has voted Yes or ReadOnly. From
// LevelThreePhase on.
type PreCommitRecord struct {
	ID       ID
	Election Election
	// Members are those who voted Yes, and the witness; Branches are theirs. Both, and Label, are
	// those of the first election and empty in later ones.
	Members  []Party
	Branches []Branch
	Label    string
}

// PreAbortRecord says that the witness accepted to abort in an election. From LevelThreePhase on.
type PreAbortRecord struct {
	ID       ID
	Election Election
}

// PromiseRecord says that the witness takes part in nothing below an election any more. From
// LevelThreePhase on.
type PromiseRecord struct {
	ID       ID
	Election Election
}

// ProvenRecord is a decision that a quorum of the members has accepted, or that one of them
// told: unlike a CommitRecord or an AbortRecord it decides an open gid. From LevelThreePhase on.
type ProvenRecord struct {
	ID       ID
	Decision Decision // Commit or Abort
	Reason   string   // who accepted it or told it, for people
}

// Witness is what the cluster has promised and accepted for an open gid: one with a
// PreCommitRecord and without a decision. It is no Txn, since everybody takes what Get returns for
// decided.
type Witness struct {
	ID       ID
	Members  []Party  // never changed
	Branches []Branch // never changed
	Label    string
	Opened   zab.Zxid
	// Accepted is what was accepted in LastAttempt: Commit or Abort.
	Accepted    Decision
	LastAttempt Election
	LastElected Election // what was promised; never below LastAttempt
}

// Witness returns what the cluster has promised and accepted for a gid, if it is open. The result
// shares memory with the table and must not be changed.
func (t *Table) Witness(id ID) (Witness, bool) {
	w, ok := t.witnesses[id]
	return w, ok
}

// WitnessCount returns how many gids are open.
func (t *Table) WitnessCount() int { return len(t.witnesses) }

// Witnesses returns all open gids, oldest first.
func (t *Table) Witnesses() []Witness {
	all := make([]Witness, 0, len(t.witnesses))
	for _, w := range t.witnesses {
		all = append(all, w)
	}
	slices.SortFunc(all, func(a, b Witness) int { return slices.Compare(a.ID[:], b.ID[:]) })
	return all
}

// preCommit opens a gid, or takes what the witness has accepted for one that is open.
func (t *Table) preCommit(r PreCommitRecord, at zab.Zxid, c *Changes) *held {
	_, open := t.witnesses[r.ID]
	if open || r.Election != FirstElection {
		t.attempt(r.ID, r.Election, Commit, c)
		return nil
	}
	if _, decided := t.Get(r.ID); decided || t.TooOld(r.ID) {
		c.Verdicts = append(c.Verdicts, t.standing(r.ID))
		return nil
	}
	if why := t.refusal(r.ID, FromClient); why != "" {
		return t.decide(Txn{ID: r.ID, Decision: Abort, By: FromCluster, Reason: why, Seen: true, Decided: at,
			Ended: true}, c)
	}
	t.witnesses[r.ID] = Witness{ID: r.ID, Members: r.Members, Branches: r.Branches, Label: r.Label, Opened: at,
		Accepted: Commit, LastAttempt: r.Election, LastElected: r.Election}
	c.touch(r.ID)
	c.Verdicts = append(c.Verdicts, Verdict{ID: r.ID, Open: true, First: true})
	return nil
}

// attempt takes the first attempt of an election, unless a later one was promised.
func (t *Table) attempt(id ID, e Election, d Decision, c *Changes) {
	w, open := t.witnesses[id]
	if open && !e.Less(w.LastElected) && w.LastAttempt.Less(e) {
		w.Accepted, w.LastAttempt, w.LastElected = d, e, e
		t.witnesses[id] = w
		c.touch(id)
	}
	c.Verdicts = append(c.Verdicts, t.standing(id))
}

func (t *Table) promise(r PromiseRecord, c *Changes) {
	w, open := t.witnesses[r.ID]
	if open && w.LastElected.Less(r.Election) {
		w.LastElected = r.Election
		t.witnesses[r.ID] = w
		c.touch(r.ID)
	}
	c.Verdicts = append(c.Verdicts, t.standing(r.ID))
}

// prove takes a decision of the members. One that contradicts what is known, or a commit that
// nobody was asked for, cannot be, unless it is so old that it was forgotten.
func (t *Table) prove(r ProvenRecord, at zab.Zxid, c *Changes) *held {
	w, open := t.witnesses[r.ID]
	x := Txn{ID: r.ID, Decision: r.Decision, Protocol: ThreePhaseCommit, By: FromCluster, Reason: r.Reason,
		Label: w.Label, Seen: true, Decided: at, Ended: true}
	switch old, decided := t.Get(r.ID); {
	case decided && old.Decision != r.Decision:
		c.Broken = append(c.Broken, Breach{ID: r.ID, Told: r.Decision, Known: old.Decision, Why: r.Reason})
		c.Verdicts = append(c.Verdicts, t.standing(r.ID))
		return nil
	case !decided && !open && r.Decision == Commit && !t.TooOld(r.ID):
		c.Broken = append(c.Broken, Breach{ID: r.ID, Told: Commit, Why: r.Reason})
		c.Verdicts = append(c.Verdicts, t.standing(r.ID))
		return nil
	case open && !decided:
		delete(t.witnesses, r.ID)
		c.touch(r.ID)
		if r.Decision == Commit {
			x.Branches, x.Ended = w.Branches, len(w.Branches) == 0
		}
		c.Verdicts = append(c.Verdicts, Verdict{ID: x.ID, Decision: x.Decision, By: x.By, Reason: x.Reason,
			First: true})
		return t.hold(x) // however old it is
	}
	return t.decide(x, c)
}

// standing is the verdict on a record that decides nothing.
func (t *Table) standing(id ID) Verdict {
	if x, decided := t.Get(id); decided {
		return Verdict{ID: id, Decision: x.Decision, By: x.By, Reason: x.Reason}
	}
	if _, open := t.witnesses[id]; open {
		return Verdict{ID: id, Open: true}
	}
	v := Verdict{ID: id}
	if t.TooOld(id) {
		v.Decision, v.TooOld, v.Reason = Abort, true, t.tooOld()
	}
	return v
}

// Breach is a decision that cannot be: somebody is broken, and a person has to look.
type Breach struct {
	ID    ID
	Told  Decision
	Known Decision // Undecided: the cluster knows nothing of it
	Why   string   // who told it
}

func (c *Changes) touch(id ID) {
	if !slices.Contains(c.touched, id) {
		c.touched = append(c.touched, id)
	}
}

// fileWitnesses says where the open gids are that a fold touched.
func (t *Table) fileWitnesses(c *Changes) {
	for _, id := range c.touched {
		if w, open := t.witnesses[id]; open {
			c.Witnesses = append(c.Witnesses, w)
		} else {
			c.Closed = append(c.Closed, id)
		}
	}
	c.touched = nil
}

// passWitnesses is what a watermark does to open gids: nothing. Somebody may hold a commit of
// each of them.
func (t *Table) passWitnesses(c *Changes) {
	if !mutant.PurgeOpenGids {
		return
	}
	for id := range t.witnesses {
		if t.TooOld(id) {
			delete(t.witnesses, id)
			c.touch(id)
		}
	}
}

// AppendBinary appends the stored form of an open gid.
func (w Witness) AppendBinary(b []byte) ([]byte, error) {
	b = append(b, recordsVersion)
	b = append(b, w.ID[:]...)
	b = appendParties(b, w.Members)
	b = appendBranches(b, w.Branches)
	b = appendText(b, w.Label)
	b = appendZxid(b, w.Opened)
	b = append(b, byte(w.Accepted))
	b = appendElection(b, w.LastAttempt)
	return appendElection(b, w.LastElected), nil
}

// UnmarshalBinary is the inverse of AppendBinary. The error is ErrBadTxn.
func (w *Witness) UnmarshalBinary(b []byte) error {
	d := decoder{b: b}
	if d.byte() != recordsVersion {
		return ErrBadTxn
	}
	*w = Witness{ID: d.id(), Members: d.parties(), Branches: d.branches(), Label: d.text(),
		Opened: d.zxid(), Accepted: d.decision(),
		LastAttempt: d.election(), LastElected: d.election()}
	if d.err || len(d.b) > 0 || w.LastElected.Less(w.LastAttempt) {
		return ErrBadTxn
	}
	return nil
}

func (PreCommitRecord) kind() recordKind { return kindPreCommit }
func (PreAbortRecord) kind() recordKind  { return kindPreAbort }
func (PromiseRecord) kind() recordKind   { return kindPromise }
func (ProvenRecord) kind() recordKind    { return kindProven }

func (r PreCommitRecord) append(b []byte) []byte {
	b = append(b, r.ID[:]...)
	b = appendElection(b, r.Election)
	b = appendParties(b, r.Members)
	b = appendBranches(b, r.Branches)
	return appendText(b, r.Label)
}

func (r PreAbortRecord) append(b []byte) []byte {
	return appendElection(append(b, r.ID[:]...), r.Election)
}

func (r PromiseRecord) append(b []byte) []byte {
	return appendElection(append(b, r.ID[:]...), r.Election)
}

func (r ProvenRecord) append(b []byte) []byte {
	b = append(b, r.ID[:]...)
	b = append(b, byte(r.Decision))
	return appendText(b, r.Reason)
}

func appendElection(b []byte, e Election) []byte {
	return appendPartyID(binary.AppendUvarint(b, uint64(e.N)), e.By)
}

func appendPartyID(b []byte, p PartyID) []byte {
	return append(appendText(b, p.Agent), p.Journal[:]...)
}

func appendParties(b []byte, parties []Party) []byte {
	b = binary.AppendUvarint(b, uint64(len(parties)))
	for _, p := range parties {
		b = appendText(appendPartyID(b, p.PartyID), p.Addr)
	}
	return b
}

func (d *decoder) election() Election { return Election{N: d.uint32(), By: d.partyID()} }

func (d *decoder) partyID() PartyID {
	p := PartyID{Agent: d.text()}
	copy(p.Journal[:], d.bytes(len(p.Journal)))
	return p
}

func (d *decoder) parties() (parties []Party) {
	for range d.length(18) {
		parties = append(parties, Party{PartyID: d.partyID(), Addr: d.text()})
	}
	return parties
}

// decision refuses none.
func (d *decoder) decision() Decision {
	v := Decision(d.byte())
	if v == Undecided || v > Abort {
		d.err = true
	}
	return v
}
