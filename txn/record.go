// SPDX-License-Identifier: Apache-2.0

package txn

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/concordtx/concord/protocol/zab"
)

// Record is one fact of the replicated log. An entry of the log holds one or more.
type Record interface {
	kind() recordKind
	append(b []byte) []byte
}

type recordKind byte

const (
	kindForm recordKind = iota + 1
	kindCommit
	kindAbort
	kindEnd
	kindHeuristic
	kindForget
	kindWatermark
	kindMember
	kindHolds
	kindMembers
	kindLease
	kindLeaseEnd
	kindFeature
	kindPreCommit
	kindPreAbort
	kindPromise
	kindProven
	kindKeyedCommit
	kindAgent
	kindHighWater
	kindQuarantine
	kindAccept
	kindAct
	kindActEnd
	kindLastCommit
	kindActFrom
)

// Form is the first record of a cluster: it gives the cluster its id.
type Form struct{ Cluster ClusterID }

// CommitRecord is the decision to commit. It holds the branches that voted Yes and
// so everything that somebody else needs to finish the transaction.
type CommitRecord struct {
	ID       ID
	Protocol Protocol
	By       Source // a client, or an operator who resolved it
	Branches []Branch
	// Reason says which operator decided and why.
	Reason string
	// Label is what the application said the transaction is about.
	Label string
	// Key, unless empty, is the idempotency key: if another transaction is committed under it this one
	// is aborted, and else Result is kept with it. They are there from LevelKeys on.
	Key    string
	Result []byte
	// Last is the resource that has decided it, by its marker; empty unless the class of the gid is LastResource.
	// From LevelLastResource on. Such a record tells what has happened: the fold takes it even where it would refuse
	// another one.
	Last string
}

// AbortRecord is the decision to abort, also called a tombstone: presumed abort needs
// no record, but a gid that somebody asked about gets one, so that a late commit
// request finds it.
type AbortRecord struct {
	ID     ID
	By     Source
	Reason string
	// Seen says that a prepared branch of the transaction was seen, or that whoever began it
	// said that it had several: so no database has committed it alone. A record without
	// it may be followed by one with it.
	Seen bool
}

// End says that every branch of these committed transactions has been finished.
type End struct{ IDs []ID }

// HeuristicRecord says that a branch did not end as it was decided, or that nobody
// can tell how it ended.
type HeuristicRecord struct {
	ID      ID
	Branch  BranchNo
	Outcome Outcome // HeuristicCommit, HeuristicRollback or HeuristicHazard
	By      Source
	Who     string // the resource or the operator
	Why     string
}

// ForgetRecord is an operator's word that the heuristic outcomes of a transaction were
// dealt with.
type ForgetRecord struct {
	ID  ID
	Who string
	Why string
}

// MemberRecord says which store a node of the cluster has: the first one counts, so that
// a node that lost its disk, and with it what it has promised, is told from the one that
// it was. With a zero Store the next one counts: an operator replaced the disk.
type MemberRecord struct {
	Node  uint64
	Store StoreID
	Who   string // the operator who replaced the disk
	Why   string
}

// HoldsRecord says that the store of a node has the log up to Upto on its disk, all of it
// delivered. A store that has less one day was set back, and has forgotten what it promised.
type HoldsRecord struct {
	Node  uint64
	Store StoreID
	Upto  zab.Zxid
}

// StoreID is the random id of a node's store.
type StoreID [16]byte

// Watermark says that finished transactions born before Time may be forgotten. A
// request that names an older one is refused.
type Watermark struct{ Time time.Time }

// ErrBadRecord says that bytes are not records of a version that this program knows.
var ErrBadRecord = errors.New("log entry holds no records that this version of concord understands: run the version " +
	"that wrote it, or replace this node's store")

// recordsVersion is the first byte of every encoded list of records.
const recordsVersion = 1

// EncodeRecords appends the encoding of records to b: a version byte, then each
// record as a kind byte and its fields. Integers are varints, texts and lists are
// preceded by their length.
func EncodeRecords(b []byte, records ...Record) []byte {
	b = append(b, recordsVersion)
	for _, r := range records {
		b = AppendRecord(b, r)
	}
	return b
}

// AppendRecord adds one more record to what EncodeRecords returned.
func AppendRecord(b []byte, r Record) []byte {
	return r.append(append(b, byte(r.kind())))
}

// DecodeRecords is the inverse of EncodeRecords. It refuses anything that
// EncodeRecords would not have written and never allocates more than a small multiple
// of the input. The error wraps ErrBadRecord.
func DecodeRecords(b []byte) ([]Record, error) {
	if len(b) == 0 || b[0] != recordsVersion {
		return nil, ErrBadRecord
	}
	d := decoder{b: b[1:]}
	var records []Record
	for len(d.b) > 0 {
		r := d.record()
		if _, members := r.(MembersRecord); d.err || members && len(records) > 0 {
			return nil, fmt.Errorf("record %d: %w", len(records), ErrBadRecord)
		}
		records = append(records, r)
	}
	return records, nil
}

// CheckRecords reports, by its error, whether DecodeRecords would refuse b.
func CheckRecords(b []byte) error {
	_, err := DecodeRecords(b)
	return err
}

func (Form) kind() recordKind { return kindForm }
func (r CommitRecord) kind() recordKind {
	switch {
	case r.Last != "":
		return kindLastCommit
	case r.Key != "":
		return kindKeyedCommit
	}
	return kindCommit
}
func (AbortRecord) kind() recordKind     { return kindAbort }
func (End) kind() recordKind             { return kindEnd }
func (HeuristicRecord) kind() recordKind { return kindHeuristic }
func (ForgetRecord) kind() recordKind    { return kindForget }
func (Watermark) kind() recordKind       { return kindWatermark }
func (MemberRecord) kind() recordKind    { return kindMember }
func (HoldsRecord) kind() recordKind     { return kindHolds }
func (FeatureRecord) kind() recordKind   { return kindFeature }
func (LeaseRecord) kind() recordKind     { return kindLease }
func (LeaseEndRecord) kind() recordKind  { return kindLeaseEnd }

func (r Form) append(b []byte) []byte { return binary.BigEndian.AppendUint32(b, uint32(r.Cluster)) }

func (r CommitRecord) append(b []byte) []byte {
	b = append(b, r.ID[:]...)
	b = append(b, byte(r.Protocol), byte(r.By))
	b = appendBranches(b, r.Branches)
	b = appendText(b, r.Reason)
	b = appendText(b, r.Label)
	switch r.kind() {
	case kindLastCommit:
		return r.appendLast(b)
	case kindKeyedCommit:
		return r.appendKeyed(b)
	}
	return b
}

func (r AbortRecord) append(b []byte) []byte {
	b = append(b, r.ID[:]...)
	b = append(b, byte(r.By))
	b = appendText(b, r.Reason)
	return appendBool(b, r.Seen)
}

func (r End) append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(r.IDs)))
	for _, id := range r.IDs {
		b = append(b, id[:]...)
	}
	return b
}

func (r HeuristicRecord) append(b []byte) []byte {
	b = append(b, r.ID[:]...)
	b = append(b, byte(r.Branch), byte(r.Outcome), byte(r.By))
	b = appendText(b, r.Who)
	return appendText(b, r.Why)
}

func (r ForgetRecord) append(b []byte) []byte {
	b = append(b, r.ID[:]...)
	b = appendText(b, r.Who)
	return appendText(b, r.Why)
}

func (r Watermark) append(b []byte) []byte {
	return binary.AppendUvarint(b, uint64(r.Time.UnixMilli()))
}

func (r MemberRecord) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, r.Node)
	b = append(b, r.Store[:]...)
	b = appendText(b, r.Who)
	return appendText(b, r.Why)
}

func (r HoldsRecord) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, r.Node)
	b = append(b, r.Store[:]...)
	return r.Upto.Append(b)
}

func (r FeatureRecord) append(b []byte) []byte {
	return binary.AppendUvarint(b, uint64(r.Level))
}

func (r LeaseRecord) append(b []byte) []byte { return binary.AppendUvarint(b, uint64(r.Count)) }

func (r LeaseEndRecord) append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(r.Leases)))
	for _, n := range r.Leases {
		b = binary.AppendUvarint(b, uint64(n))
	}
	return b
}

func appendText(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

func appendBranches(b []byte, branches []Branch) []byte {
	b = binary.AppendUvarint(b, uint64(len(branches)))
	for _, br := range branches {
		b = append(b, byte(br.No))
		b = appendText(b, br.Resource)
		b = appendText(b, br.Evidence)
		b = appendText(b, br.Holder)
	}
	return b
}

// decoder reads fields from b. After a field that is not there err is set and every
// further field is zero.
type decoder struct {
	b   []byte
	err bool
}

func (d *decoder) record() Record {
	switch recordKind(d.byte()) {
	case kindForm:
		if b := d.bytes(4); b != nil {
			return Form{Cluster: ClusterID(binary.BigEndian.Uint32(b))}
		}
		return Form{}
	case kindCommit:
		return d.commit()
	case kindKeyedCommit:
		return d.keyed(d.commit())
	case kindLastCommit:
		return d.last(d.commit())
	case kindAbort:
		return AbortRecord{ID: d.id(), By: d.source(), Reason: d.text(), Seen: d.bool()}
	case kindEnd:
		n := d.length(len(ID{}))
		ids := make([]ID, 0, n)
		for range n {
			ids = append(ids, d.id())
		}
		return End{IDs: ids}
	case kindHeuristic:
		return HeuristicRecord{ID: d.id(), Branch: BranchNo(d.byte()), Outcome: d.outcome(), By: d.source(),
			Who: d.text(), Why: d.text()}
	case kindForget:
		return ForgetRecord{ID: d.id(), Who: d.text(), Why: d.text()}
	case kindMember:
		r := MemberRecord{Node: d.uint64()}
		copy(r.Store[:], d.bytes(len(r.Store)))
		r.Who, r.Why = d.text(), d.text()
		return r
	case kindHolds:
		r := HoldsRecord{}
		if b := d.bytes(8 + len(r.Store) + 12); b != nil {
			r.Node = binary.BigEndian.Uint64(b)
			b = b[8+copy(r.Store[:], b[8:]):]
			r.Upto = zab.ZxidAt(b)
		}
		return r
	case kindMembers:
		return MembersRecord{Members: d.members(), Who: d.text(), Why: d.text(), Key: d.text()}
	case kindFeature:
		return FeatureRecord{Level: d.level()}
	case kindLease:
		return LeaseRecord{Count: d.uint32()}
	case kindLeaseEnd:
		n := d.length(1)
		ended := make([]Lease, 0, n)
		for range n {
			ended = append(ended, Lease(d.uint32()))
		}
		return LeaseEndRecord{Leases: ended}
	case kindPreCommit:
		return PreCommitRecord{ID: d.id(), Election: d.election(), Members: d.parties(), Branches: d.branches(),
			Label: d.text()}
	case kindPreAbort:
		return PreAbortRecord{ID: d.id(), Election: d.election()}
	case kindPromise:
		return PromiseRecord{ID: d.id(), Election: d.election()}
	case kindProven:
		return ProvenRecord{ID: d.id(), Decision: d.decision(), Reason: d.text()}
	case kindAgent:
		return d.agent()
	case kindWatermark:
		return Watermark{Time: d.time()}
	case kindHighWater:
		return HighWaterRecord{Resource: d.text(), HighWater: d.highWater()}
	case kindQuarantine:
		return QuarantineRecord{Resource: d.text(), Has: d.highWater(), Time: d.time()}
	case kindAccept:
		return AcceptRecord{Resource: d.text(), Who: d.text(), Why: d.text(), Time: d.time()}
	case kindAct:
		return d.act()
	case kindActFrom:
		return d.actFrom()
	case kindActEnd:
		return d.actEnd()
	}
	d.err = true
	return nil
}

func (d *decoder) commit() CommitRecord {
	return CommitRecord{ID: d.id(), Protocol: d.protocol(), By: d.source(), Branches: d.branches(), Reason: d.text(),
		Label: d.text()}
}

func (d *decoder) bytes(n int) []byte {
	if d.err || n > len(d.b) {
		d.err = true
		return nil
	}
	b := d.b[:n]
	d.b = d.b[n:]
	return b
}

func (d *decoder) byte() byte {
	if b := d.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) uint64() uint64 {
	if b := d.bytes(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if d.err || n <= 0 || n > 1 && d.b[n-1] == 0 || v > 1<<62 { // a longer form than needed is not ours
		d.err = true
		return 0
	}
	d.b = d.b[n:]
	return v
}

func appendZxid(b []byte, z zab.Zxid) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(b, uint64(z.Epoch)), z.Counter)
}

func (d *decoder) zxid() zab.Zxid {
	return zab.Zxid{Epoch: zab.Epoch(d.uint32()), Counter: d.uvarint()}
}

func (d *decoder) uint32() uint32 {
	v := d.uvarint()
	if v > math.MaxUint32 {
		d.err = true
		return 0
	}
	return uint32(v)
}

// length reads the length of a list whose items take at least size bytes each.
func (d *decoder) length(size int) int {
	n := d.uvarint()
	if d.err || n > uint64(len(d.b)/size) {
		d.err = true
		return 0
	}
	return int(n)
}

func (d *decoder) text() string { return string(d.bytes(d.length(1))) }

func (d *decoder) id() (id ID) {
	copy(id[:], d.bytes(len(id)))
	return id
}

// level refuses one that this program does not know: what it allows could not be read here.
func (d *decoder) level() FeatureLevel {
	v := d.uvarint()
	if v < uint64(LevelBase) || v > uint64(Newest) {
		d.err = true
	}
	return FeatureLevel(v)
}

func (d *decoder) protocol() Protocol {
	p := Protocol(d.byte())
	if p > ThreePhaseCommit {
		d.err = true
	}
	return p
}

func (d *decoder) source() Source {
	s := Source(d.byte())
	if s > FromOperator {
		d.err = true
	}
	return s
}

func (d *decoder) outcome() Outcome {
	o := Outcome(d.byte())
	if o > HeuristicHazard {
		d.err = true
	}
	return o
}

func (d *decoder) bool() bool {
	v := d.byte()
	if v > 1 {
		d.err = true
	}
	return v == 1
}

func (d *decoder) branches() []Branch {
	n := d.length(4)
	branches := make([]Branch, 0, n)
	for range n {
		branches = append(branches, Branch{No: BranchNo(d.byte()), Resource: d.text(), Evidence: d.text(),
			Holder: d.text()})
	}
	return branches
}
