// SPDX-License-Identifier: Apache-2.0

package txn

import (
	"encoding/binary"
	"slices"
	"time"
)

// ActKind is what a person can do to a cluster, beside beginning transactions.
type ActKind uint8

// Each is one command. ActLead is done by the next leader: the one before it has nothing to say any more.
const (
	ActCommit ActKind = iota + 1
	ActAbort
	ActForget
	ActSettleCommit
	ActSettleAbort
	ActAbandon
	ActRecover
	ActAccept
	ActAddMember
	ActRemoveMember
	ActReplaceMember
	ActLead
)

var actNames = [...]string{ActCommit: "tx resolve --commit", ActAbort: "tx resolve --abort", ActForget: "tx forget",
	ActSettleCommit: "tx settle --commit", ActSettleAbort: "tx settle --abort", ActAbandon: "tx settle --abandon",
	ActRecover: "recover --apply", ActAccept: "resource accept", ActAddMember: "member add",
	ActRemoveMember: "member remove", ActReplaceMember: "member replace", ActLead: "lead"}

// String is the command.
func (k ActKind) String() string { return name(actNames[:], uint8(k)) }

// ActOutcome is how an act ended.
type ActOutcome uint8

// ActBegun: it is under way. ActDone and ActRefused: it was done, or nothing was. ActUnknown: it was not seen to
// the end, and may have been done.
const (
	ActBegun ActOutcome = iota
	ActDone
	ActRefused
	ActUnknown
)

var actOutcomeNames = [...]string{ActBegun: "begun", ActDone: "done", ActRefused: "refused", ActUnknown: "unknown"}

// String returns begun, done, refused or unknown.
func (o ActOutcome) String() string { return name(actOutcomeNames[:], uint8(o)) }

// MaxActs are kept; the oldest go. MaxSays bounds, in bytes, what is kept of how one ended.
const (
	MaxActs = 10_000
	MaxSays = 1024
)

// ActRecord says that a person begins to do something. It is in the log before that is done.
type ActRecord struct {
	Key  uint64    // drawn at random: its end names it
	Time time.Time // by the clock of the leader
	Kind ActKind
	// Subject is who it is by a certificate or a token, empty where nobody is asked for one; Who by his own word.
	Subject, Who string
	Why          string

	// What it is about, as far as its kind has that:
	ID       ID
	Branch   BranchNo
	Resource string
	Node     uint64

	From Caller // zero before LevelCaller
}

// Caller is from where somebody has called.
type Caller struct {
	Roles string // that he had; empty where nobody is asked who he is
	Addr  string // as the node saw it that he called
	Node  uint64 // which one that was
}

// ActEndRecord says how an act ended.
type ActEndRecord struct {
	Key     uint64
	Outcome ActOutcome
	Says    string // why it was refused, or what came of it; for people
}

// Act is one entry of the audit.
type Act struct {
	No uint64 // acts of a cluster are counted from 1 on
	ActRecord
	Outcome ActOutcome
	Says    string
}

// HasBranch reports whether an act is about one branch of a transaction.
func (a ActRecord) HasBranch() bool {
	return a.Kind == ActSettleCommit || a.Kind == ActSettleAbort || a.Kind == ActAbandon
}

// Acts returns those that are kept, the oldest first. They must not be changed.
func (t *Table) Acts() []*Act { return t.acts }

// act folds an ActRecord. Readers may hold the old list.
func (t *Table) act(r ActRecord, c *Changes) {
	a := &Act{No: 1, ActRecord: r}
	if n := len(t.acts); n > 0 {
		a.No = t.acts[n-1].No + 1
	}
	t.acts = append(slices.Clip(t.acts), a)
	t.dropActs(len(t.acts)-MaxActs, c)
	c.Acts = append(c.Acts, *a)
}

// endAct folds an ActEndRecord. An act ends once.
func (t *Table) endAct(r ActEndRecord, c *Changes) {
	i := slices.IndexFunc(t.acts, func(a *Act) bool { return a.Key == r.Key && a.Outcome == ActBegun })
	if i < 0 {
		return
	}
	ended := *t.acts[i]
	ended.Outcome, ended.Says = r.Outcome, r.Says
	t.acts = slices.Clone(t.acts)
	t.acts[i] = &ended
	c.Acts = append(c.Acts, ended)
}

// passActs drops what is older than the watermark, but for the last one, so that numbers go on.
func (t *Table) passActs(c *Changes) {
	n := 0
	for n < len(t.acts)-1 && t.acts[n].Time.Before(t.watermark) {
		n++
	}
	t.dropActs(n, c)
}

func (t *Table) dropActs(n int, c *Changes) {
	if n > 0 {
		t.acts = slices.Clone(t.acts[n:])
		c.ActsFrom = t.acts[0].No
	}
}

func (r ActRecord) kind() recordKind {
	if r.From != (Caller{}) {
		return kindActFrom
	}
	return kindAct
}
func (ActEndRecord) kind() recordKind { return kindActEnd }

func (r ActRecord) append(b []byte) []byte { return r.From.append(r.appendWithout(b)) }

// appendWithout appends an act without its caller.
func (r ActRecord) appendWithout(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, r.Key)
	b = append(appendTime(b, r.Time), byte(r.Kind))
	b = appendText(appendText(appendText(b, r.Subject), r.Who), r.Why)
	b = append(append(b, r.ID[:]...), byte(r.Branch))
	return binary.BigEndian.AppendUint64(appendText(b, r.Resource), r.Node)
}

// append appends nothing for nobody.
func (c Caller) append(b []byte) []byte {
	if c == (Caller{}) {
		return b
	}
	return binary.BigEndian.AppendUint64(appendText(appendText(b, c.Roles), c.Addr), c.Node)
}

func (r ActEndRecord) append(b []byte) []byte {
	return appendText(append(binary.BigEndian.AppendUint64(b, r.Key), byte(r.Outcome)), r.Says)
}

func (d *decoder) act() ActRecord {
	return ActRecord{Key: d.uint64(), Time: d.time(), Kind: d.actKind(), Subject: d.text(), Who: d.text(),
		Why: d.text(), ID: d.id(), Branch: BranchNo(d.byte()), Resource: d.text(), Node: d.uint64()}
}

func (d *decoder) actFrom() ActRecord {
	r := d.act()
	r.From = d.caller()
	return r
}

func (d *decoder) caller() Caller {
	c := Caller{Roles: d.text(), Addr: d.text(), Node: d.uint64()}
	d.err = d.err || c == (Caller{})
	return c
}

func (d *decoder) actEnd() ActEndRecord {
	r := ActEndRecord{Key: d.uint64(), Outcome: d.actOutcome(), Says: d.text()}
	d.err = d.err || r.Outcome == ActBegun
	return r
}

func (d *decoder) actKind() ActKind {
	k := ActKind(d.byte())
	d.err = d.err || k < ActCommit || k > ActLead
	return k
}

func (d *decoder) actOutcome() ActOutcome {
	o := ActOutcome(d.byte())
	d.err = d.err || o > ActUnknown
	return o
}

// AppendBinary appends the stored form of an act.
func (a Act) AppendBinary(b []byte) ([]byte, error) {
	b = binary.AppendUvarint(append(b, recordsVersion), a.No)
	return a.From.append(appendText(append(a.appendWithout(b), byte(a.Outcome)), a.Says)), nil
}

// UnmarshalBinary is the inverse of AppendBinary. The error is ErrBadTxn.
func (a *Act) UnmarshalBinary(b []byte) error {
	d := decoder{b: b}
	if d.byte() != recordsVersion {
		return ErrBadTxn
	}
	*a = Act{No: d.uvarint(), ActRecord: d.act(), Outcome: d.actOutcome(), Says: d.text()}
	if !d.err && len(d.b) > 0 {
		a.From = d.caller()
	}
	if d.err || len(d.b) > 0 || a.No == 0 {
		return ErrBadTxn
	}
	return nil
}
