// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strconv"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/txn"
)

// The headers, of HTTP or as metadata of gRPC, that go with a call in a transaction and with its answer.
const (
	PropagationHeader   = "concord-transaction"
	ParticipationHeader = "concord-participation"
)

// MaxPropagated bounds what either header may have.
const MaxPropagated = 64 << 10

// CallName names a call of another service.
type CallName uint64

// NewCallName returns a name that nobody can guess.
func NewCallName() CallName {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails: see its documentation
	return CallName(binary.BigEndian.Uint64(b[:]))
}

// String returns 16 hex characters.
func (n CallName) String() string { return fmt.Sprintf("%016x", uint64(n)) }

// Propagation goes with a call of another service.
type Propagation struct {
	Cluster    txn.ClusterID
	ID         txn.ID
	Deadline   time.Time // by the cluster's clock
	Capability txn.Capability
	Call       CallName
	First      txn.BranchNo // of Branches numbers that branches may have
	Branches   int
	Path       []string // instances that it came through, who began it first
}

// MaxPath is how many services a transaction may come through to one that joins it.
const MaxPath = 16

// Caller returns the instance that makes the call; empty if its version does not say.
func (p Propagation) Caller() string {
	if len(p.Path) == 0 {
		return ""
	}
	return p.Path[len(p.Path)-1]
}

// Participation comes with the answer.
type Participation struct {
	Call     CallName
	Instance string
	Addr     string // empty: where the call went
	Branches []OpenedBranch
	Failed   string
	Resource string // to blame
	Passing  bool   // it may well succeed when all is done again
}

// OpenedBranch is a branch that has not voted.
type OpenedBranch struct {
	No       txn.BranchNo
	Resource string
	Driver   string
	OnlyRead bool
}

// JoinedVote is the vote of a branch, and of a No why.
type JoinedVote struct {
	No       txn.BranchNo
	Vote     txn.Vote
	Branch   txn.Branch // of a Yes
	Reason   string     // of a No, as all that follows
	Resource string     // whose fault it is
	Torn     bool       // a part of the branch may be committed
	Passing  bool       // it may well be a Yes when all is done again
}

// Text returns what a header has: a message as JSON of one line, and of ASCII characters only.
func Text(m proto.Message) (string, error) {
	b, err := protojson.Marshal(m)
	if err != nil {
		return "", fmt.Errorf("api: %w", err)
	}
	var text bytes.Buffer
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		switch {
		case r < utf8.RuneSelf:
			text.WriteByte(b[0])
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&text, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&text, `\u%04x`, r)
		}
		b = b[n:]
	}
	if text.Len() > MaxPropagated {
		return "", invalid("header", "has %d bytes, at most %d are sent", text.Len(), MaxPropagated)
	}
	return text.String(), nil
}

func parseHeader(header, text string, m proto.Message) error {
	if len(text) > MaxPropagated {
		return invalid(header, "has %d bytes, at most %d are read", len(text), MaxPropagated)
	}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal([]byte(text), m); err != nil {
		return invalid(header, "is not JSON of this message")
	}
	return nil
}

// Message is the inverse of ParsePropagation, before Text.
func (p Propagation) Message() *concordv1.Propagation {
	return &concordv1.Propagation{Cluster: p.Cluster.String(), Gid: p.ID.String(), DeadlineMs: p.Deadline.UnixMilli(),
		Capability: p.Capability[:], Call: p.Call.String(), FirstBranch: uint32(p.First), Branches: uint32(p.Branches),
		Path: p.Path}
}

// ParsePropagation validates the header of a call.
func ParsePropagation(text string) (p Propagation, err error) {
	var m concordv1.Propagation
	if err = parseHeader(PropagationHeader, text, &m); err != nil {
		return p, err
	}
	if p.Cluster, err = ParseCluster("cluster", m.GetCluster()); err != nil {
		return p, err
	}
	if p.ID, err = ParseID("gid", m.GetGid()); err != nil {
		return p, err
	}
	if len(m.GetCapability()) != len(p.Capability) {
		return p, invalid("capability", "has %d bytes, want %d", len(m.GetCapability()), len(p.Capability))
	}
	p.Capability = txn.Capability(m.GetCapability())
	if p.Call, err = parseCall("call", m.GetCall()); err != nil {
		return p, err
	}
	if first, n := m.GetFirstBranch(), m.GetBranches(); first >= txn.MaxBranches || n > txn.MaxBranches-first {
		return p, invalid("branches", "%d from %d on: the last number is %d", n, first, txn.MaxBranches-1)
	}
	if n := len(m.GetPath()); n > MaxPath {
		return p, invalid("path", "has %d services, at most %d may hand a transaction on", n, MaxPath)
	}
	for _, instance := range m.GetPath() {
		if err = parseInstance("path", instance); err != nil {
			return p, err
		}
	}
	p.Path = m.GetPath()
	p.First, p.Branches = txn.BranchNo(m.GetFirstBranch()), int(m.GetBranches())
	p.Deadline = time.UnixMilli(m.GetDeadlineMs())
	return p, nil
}

// Message is the inverse of ParseParticipation, before Text.
func (p Participation) Message() *concordv1.Participation {
	m := &concordv1.Participation{Call: p.Call.String(), Instance: p.Instance, Addr: p.Addr, Failed: p.Failed,
		Resource: p.Resource, Transient: p.Passing}
	for _, b := range p.Branches {
		m.Branches = append(m.Branches, &concordv1.OpenedBranch{No: uint32(b.No), Resource: b.Resource,
			Driver: b.Driver, OnlyRead: b.OnlyRead})
	}
	return m
}

// ParseParticipation validates the header of an answer.
func ParseParticipation(text string) (p Participation, err error) {
	var m concordv1.Participation
	if err = parseHeader(ParticipationHeader, text, &m); err != nil {
		return p, err
	}
	if p.Call, err = parseCall("call", m.GetCall()); err != nil {
		return p, err
	}
	if err = parseInstance("instance", m.GetInstance()); err != nil {
		return p, err
	}
	if m.GetAddr() != "" && !Dialable(m.GetAddr()) {
		return p, invalid("addr", "%.80q is not host:port", m.GetAddr())
	}
	if err = ParseText("failed", m.GetFailed(), txn.MaxReason); err != nil {
		return p, err
	}
	if err = ParseText("resource", m.GetResource(), txn.MaxResourceName); err != nil {
		return p, err
	}
	p.Instance, p.Addr, p.Failed = m.GetInstance(), m.GetAddr(), m.GetFailed()
	p.Resource, p.Passing = m.GetResource(), m.GetTransient()
	for i, b := range m.GetBranches() {
		field := fmt.Sprintf("branches[%d]", i)
		no, err := ParseBranchNo(field+".no", b.GetNo())
		if err != nil {
			return p, err
		}
		if err := ParseText(field+".driver", b.GetDriver(), txn.MaxResourceName); err != nil {
			return p, err
		}
		if b.GetResource() == "" {
			return p, invalid(field+".resource", "is empty")
		}
		if err := ParseText(field+".resource", b.GetResource(), txn.MaxResourceName); err != nil {
			return p, err
		}
		p.Branches = append(p.Branches, OpenedBranch{No: no, Resource: b.GetResource(),
			Driver: b.GetDriver(), OnlyRead: b.GetOnlyRead()})
	}
	return p, nil
}

func parseCall(field, s string) (CallName, error) {
	n, err := strconv.ParseUint(s, 16, 64)
	if err != nil || CallName(n).String() != s {
		return 0, invalid(field, "%.40q names no call, want 16 hex characters", s)
	}
	return CallName(n), nil
}

// ParseHeard validates the exclusive or of names of calls.
func ParseHeard(field, s string) (CallName, error) { return parseCall(field, s) }

func parseInstance(field, s string) error {
	if b, err := hex.DecodeString(s); err != nil || len(b) != 16 {
		return invalid(field, "%.40q names no process, want 32 hex characters", s)
	}
	return nil
}

// VoteMessages is the inverse of ParseVotes.
func VoteMessages(votes []JoinedVote) (m []*concordv1.JoinedVote) {
	for _, v := range votes {
		vote := &concordv1.JoinedVote{No: uint32(v.No), Vote: v.Vote.String(), Reason: v.Reason, Resource: v.Resource,
			Torn: v.Torn, Transient: v.Passing}
		if v.Vote == txn.VoteYes {
			vote.Branch = BranchMessages([]txn.Branch{v.Branch})[0]
		}
		m = append(m, vote)
	}
	return m
}

// ParseVotes validates what a service has answered when it was asked for its votes.
func ParseVotes(ms []*concordv1.JoinedVote) (votes []JoinedVote, err error) {
	for i, m := range ms {
		field := fmt.Sprintf("votes[%d]", i)
		v := JoinedVote{Reason: m.GetReason(), Resource: m.GetResource(), Torn: m.GetTorn(), Passing: m.GetTransient()}
		if v.No, err = ParseBranchNo(field+".no", m.GetNo()); err != nil {
			return nil, err
		}
		if v.Vote, err = ParseVote(field+".vote", m.GetVote()); err != nil {
			return nil, err
		}
		if v.Vote == txn.VoteYes {
			branches, err := ParseBranches(field+".branch", []*concordv1.Branch{m.GetBranch()})
			if err != nil {
				return nil, err
			}
			if v.Branch = branches[0]; v.Branch.No != v.No {
				return nil, invalid(field+".branch", "is number %d, but the vote is for %d", v.Branch.No, v.No)
			}
		}
		votes = append(votes, v)
	}
	return votes, nil
}

// ParseNumbers validates numbers of branches.
func ParseNumbers(field string, ms []uint32) (nos []txn.BranchNo, err error) {
	if len(ms) > txn.MaxBranches {
		return nil, invalid(field, "are %d, and a transaction has at most %d branches", len(ms), txn.MaxBranches)
	}
	for _, m := range ms {
		no, err := ParseBranchNo(field, m)
		if err != nil {
			return nil, err
		}
		nos = append(nos, no)
	}
	return nos, nil
}

// Numbers is the inverse of ParseNumbers.
func Numbers(nos []txn.BranchNo) (ms []uint32) {
	for _, no := range nos {
		ms = append(ms, uint32(no))
	}
	return ms
}
