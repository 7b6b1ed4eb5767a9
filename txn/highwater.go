// SPDX-License-Identifier: Apache-2.0

package txn

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/concordtx/concord/protocol/zab"
)

// HighWater is a row that the cluster keeps in a database and raises now and then: how far the log had
// come. It goes wherever the data go, so a database that shows less than the log remembers was set
// back: restored from a backup, or replaced by a copy that was behind.
//
// Invariants:
//  1. It is written in the database, and durable there, before it is in the log.
//  2. Whatever ended in the log up to At had ended in the database before the row was written.
//  3. Evidence is removed from a database together with raising the row, never before it.
type HighWater struct {
	At zab.Zxid
	// Floor is where the oldest transaction was decided that had an unfinished branch in the database
	// then; At if there was none. What was decided before it had ended.
	Floor zab.Zxid
}

// IsZero reports whether there is none.
func (h HighWater) IsZero() bool { return h == HighWater{} }

// Less reports whether h is behind o.
func (h HighWater) Less(o HighWater) bool { return h.At.Less(o.At) }

// highWaterPrefix begins the text of a high-water row, and that of no gid.
const highWaterPrefix = "w"

// RowText is how a zxid stands in a database, in a column for gids: texts are ordered as the
// zxids are.
func RowText(z zab.Zxid) string {
	return fmt.Sprintf("%s%08x%016x", highWaterPrefix, z.Epoch, z.Counter)
}

// ParseRowText is the inverse of RowText.
func ParseRowText(s string) (zab.Zxid, error) {
	rest, ok := strings.CutPrefix(s, highWaterPrefix)
	if ok && len(rest) == 24 {
		epoch, err1 := strconv.ParseUint(rest[:8], 16, 32)
		counter, err2 := strconv.ParseUint(rest[8:], 16, 62)
		if z := (zab.Zxid{Epoch: zab.Epoch(epoch), Counter: counter}); err1 == nil && err2 == nil && RowText(z) == s {
			return z, nil
		}
	}
	return zab.Zxid{}, fmt.Errorf("%q is not a high-water row that this version writes: run the newest version of "+
		"concord on all nodes, or delete the row if a person wrote it", s)
}

// HighWaterRecord says that a database has a high-water row. From LevelHighWater on, as the two below.
type HighWaterRecord struct {
	Resource string
	HighWater
}

// QuarantineRecord says that a database was found behind what the log remembers of it. From then on
// the cluster ends no branch there, and takes no new transaction with it.
type QuarantineRecord struct {
	Resource string
	Has      HighWater // zero: it has no row
	Time     time.Time // by the clock of the leader, for people
}

// AcceptRecord is an operator's word that the cluster may go on with a database as it is.
type AcceptRecord struct {
	Resource string
	Who, Why string
	Time     time.Time // by the clock of the leader, for people
}

// Remembered is what the log remembers of the database of one resource.
type Remembered struct {
	Resource  string
	HighWater // that the database has at least, unless it was set back
	// Quarantine is there while the database waits for an operator. It is never changed.
	Quarantine *Quarantine
	// Accepted is the last quarantine that an operator ended. It is never changed.
	Accepted *Accepted
}

// Quarantine says since when a database is known to be behind, and what it has.
type Quarantine struct {
	Has   HighWater // zero: it has no row
	Since time.Time
}

// Accepted is a quarantine that ended.
type Accepted struct {
	Quarantine
	Lost HighWater // what the log remembered then
	Who  string
	Why  string
	Time time.Time
}

func (HighWaterRecord) kind() recordKind  { return kindHighWater }
func (QuarantineRecord) kind() recordKind { return kindQuarantine }
func (AcceptRecord) kind() recordKind     { return kindAccept }

func (r HighWaterRecord) append(b []byte) []byte {
	return appendHighWater(appendText(b, r.Resource), r.HighWater)
}

func (r QuarantineRecord) append(b []byte) []byte {
	return appendTime(appendHighWater(appendText(b, r.Resource), r.Has), r.Time)
}

func (r AcceptRecord) append(b []byte) []byte {
	return appendTime(appendText(appendText(appendText(b, r.Resource), r.Who), r.Why), r.Time)
}

func appendHighWater(b []byte, h HighWater) []byte {
	return appendZxid(appendZxid(b, h.At), h.Floor)
}

// appendTime takes what is before 1970, as by a clock that was never set, for 1970.
func appendTime(b []byte, t time.Time) []byte {
	return binary.AppendUvarint(b, uint64(max(0, t.UnixMilli())))
}

func (d *decoder) highWater() (h HighWater) {
	h.At, h.Floor = d.zxid(), d.zxid()
	return h
}

func (d *decoder) time() time.Time { return time.UnixMilli(int64(d.uvarint())) }

// Remembered returns what the log remembers of a resource's database; the zero value if nothing.
func (t *Table) Remembered(resource string) Remembered {
	if i, found := t.rememberedAt(resource); found {
		return t.remembered[i]
	}
	return Remembered{Resource: resource}
}

func (t *Table) rememberedAt(resource string) (int, bool) {
	return slices.BinarySearchFunc(t.remembered, resource,
		func(r Remembered, name string) int { return cmp.Compare(r.Resource, name) })
}

// remember replaces what is known of a resource. Readers may hold the old list.
func (t *Table) remember(r Remembered) {
	list := slices.Clone(t.remembered)
	i, found := t.rememberedAt(r.Resource)
	if !found {
		list = slices.Insert(list, i, r)
	}
	list[i] = r
	t.remembered = list
}

// raise folds a HighWaterRecord. What was raised before the database was found behind, and told after that,
// says nothing about the database as it is.
func (t *Table) raise(r HighWaterRecord) {
	if known := t.Remembered(r.Resource); known.Quarantine == nil && known.Less(r.HighWater) {
		known.HighWater = r.HighWater
		t.remember(known)
	}
}

func (t *Table) quarantine(r QuarantineRecord) bool {
	known := t.Remembered(r.Resource)
	if known.Quarantine != nil || !r.Has.Less(known.HighWater) {
		return false
	}
	known.Quarantine = &Quarantine{Has: r.Has, Since: r.Time}
	t.remember(known)
	return true
}

// accept folds an AcceptRecord: from now on the log remembers what the database has.
func (t *Table) accept(r AcceptRecord) bool {
	known := t.Remembered(r.Resource)
	if known.Quarantine == nil {
		return false
	}
	t.remember(Remembered{Resource: r.Resource, HighWater: known.Quarantine.Has,
		Accepted: &Accepted{Quarantine: *known.Quarantine, Lost: known.HighWater, Who: r.Who, Why: r.Why,
			Time: r.Time}})
	return true
}

// quarantinedAmong says why a transaction with these branches is not committed, whoever voted Yes; empty if it
// may be. What was prepared before its database was set back may be gone. An operator has looked.
func (t *Table) quarantinedAmong(branches []Branch, by Source) string {
	for _, b := range branches {
		if by != FromOperator && t.Quarantined(b.Resource) {
			return Quarantined(b.Resource)
		}
	}
	return ""
}

// Quarantined reports whether the database of a resource is behind what the log remembers of it.
func (t *Table) Quarantined(resource string) bool {
	if len(t.remembered) == 0 {
		return false
	}
	i, found := t.rememberedAt(resource)
	return found && t.remembered[i].Quarantine != nil
}

// Quarantined says in words why nothing is done with a resource.
func Quarantined(resource string) string {
	return fmt.Sprintf("resource %q is quarantined: its database is behind what the log remembers of it; see "+
		"\"concord resource report %[2]s\", then \"concord resource accept %[2]s --reason TEXT\"", resource, resource)
}

// AppendRemembered appends the stored form of what is remembered of all resources.
func AppendRemembered(b []byte, list []Remembered) []byte {
	b = append(b, recordsVersion)
	b = binary.AppendUvarint(b, uint64(len(list)))
	for _, r := range list {
		b = appendHighWater(appendText(b, r.Resource), r.HighWater)
		b = appendBool(b, r.Quarantine != nil)
		if q := r.Quarantine; q != nil {
			b = appendTime(appendHighWater(b, q.Has), q.Since)
		}
		b = appendBool(b, r.Accepted != nil)
		if a := r.Accepted; a != nil {
			b = appendHighWater(appendTime(appendHighWater(b, a.Has), a.Since), a.Lost)
			b = appendTime(appendText(appendText(b, a.Who), a.Why), a.Time)
		}
	}
	return b
}

// DecodeRemembered is the inverse of AppendRemembered. The error is ErrBadTxn.
func DecodeRemembered(b []byte) ([]Remembered, error) {
	d := decoder{b: b}
	if d.byte() != recordsVersion {
		return nil, ErrBadTxn
	}
	const least = 1 + 4 + 2
	n := d.length(least)
	list := make([]Remembered, 0, n)
	for range n {
		r := Remembered{Resource: d.text(), HighWater: d.highWater()}
		if d.bool() {
			r.Quarantine = &Quarantine{Has: d.highWater(), Since: d.time()}
		}
		if d.bool() {
			r.Accepted = &Accepted{Quarantine: Quarantine{Has: d.highWater(), Since: d.time()}, Lost: d.highWater(),
				Who: d.text(), Why: d.text(), Time: d.time()}
		}
		if len(list) > 0 && list[len(list)-1].Resource >= r.Resource {
			return nil, ErrBadTxn
		}
		list = append(list, r)
	}
	if d.err || len(d.b) > 0 {
		return nil, ErrBadTxn
	}
	return list, nil
}
