// SPDX-License-Identifier: Apache-2.0

package api

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/txn"
)

// Limits of a request, beside those of what the log keeps (txn.MaxBranches and its neighbours).
const (
	MaxFinished = 4096 // branches in one FinishedRequest
	MaxDecided  = 1024 // transactions in one FinishedRequest
	MaxWaiting  = 256  // transactions in one WaitingRequest
)

// FieldError says which field of a request is wrong, and how. It wraps txn.ErrInvalid.
type FieldError struct {
	Field  string // as in the .proto, e.g. "branches[2].resource"
	Detail string // what is wrong and what is wanted
}

// Error names the field first.
func (e *FieldError) Error() string { return e.Field + ": " + e.Detail }

// Unwrap returns txn.ErrInvalid.
func (e *FieldError) Unwrap() error { return txn.ErrInvalid }

func invalid(field, format string, args ...any) error {
	return &FieldError{Field: field, Detail: fmt.Sprintf(format, args...)}
}

// ParseCommit validates a CommitRequest.
func ParseCommit(r *concordv1.CommitRequest) (txn.CommitRequest, error) {
	id, err := ParseID("gid", r.GetGid())
	if err != nil {
		return txn.CommitRequest{}, err
	}
	cluster, err := ParseCluster("cluster", r.GetCluster())
	if err != nil {
		return txn.CommitRequest{}, err
	}
	protocol, err := ParseProtocol("protocol", r.GetProtocol())
	if err != nil {
		return txn.CommitRequest{}, err
	}
	branches, err := ParseBranches("branches", r.GetBranches())
	if err != nil {
		return txn.CommitRequest{}, err
	}
	agents, err := ParseAgents("agents", r.GetAgents())
	if err != nil {
		return txn.CommitRequest{}, err
	}
	if err := ParseText("label", r.GetLabel(), txn.MaxLabel); err != nil {
		return txn.CommitRequest{}, err
	}
	c := txn.CommitRequest{ID: id, Cluster: cluster, Protocol: protocol, Branches: branches, Agents: agents,
		Label: r.GetLabel(), Key: r.GetKey(), Result: r.GetResult(), Trace: ValidTraceparent(r.GetTraceparent())}
	return c, cmp.Or(fitsProtocol(c), fitsKey(c))
}

// fitsProtocol refuses a commit request whose gid says that it is decided in another way, or that
// has what its protocol has no use for.
func fitsProtocol(c txn.CommitRequest) error {
	three := c.ID.Class() == txn.ThreePhase
	switch {
	case three && c.Protocol != txn.ThreePhaseCommit:
		return invalid("protocol", "is %v, and %v is of the class three_phase, which cannot be decided in any "+
			"other way",
			c.Protocol, c.ID)
	case !three && c.Protocol == txn.ThreePhaseCommit:
		return invalid("gid", "%v is of the class %v: the gid of a three_phase transaction ends with T", c.ID,
			c.ID.Class())
	case three && len(c.Branches) > 0:
		return invalid("branches", "are %d: in three phases agents hold all branches, and are asked for their votes",
			len(c.Branches))
	case !three && len(c.Agents) > 0:
		return invalid("agents", "are %d, but in two phases whoever asks has the votes already", len(c.Agents))
	}
	return nil
}

// CommitRequest is the inverse of ParseCommit.
func CommitRequest(c txn.CommitRequest) *concordv1.CommitRequest {
	return &concordv1.CommitRequest{
		Gid: c.ID.String(), Cluster: c.Cluster.String(), Protocol: c.Protocol.String(),
		Branches: BranchMessages(c.Branches), Label: c.Label,
		Agents: agentMessages(c.Agents), Key: c.Key, Result: c.Result, Traceparent: c.Trace,
	}
}

// ParseID validates a gid.
func ParseID(field, s string) (txn.ID, error) {
	if s == "" {
		return txn.ID{}, invalid(field, "is empty, want a transaction id of 26 characters")
	}
	id, err := txn.ParseID(s)
	if err != nil {
		return txn.ID{}, invalid(field, "%v", err)
	}
	if id.IsZero() {
		return txn.ID{}, invalid(field, "is zero, which names no transaction")
	}
	return id, nil
}

// ParseCluster validates a cluster id: 8 lower-case hex characters, not zero.
func ParseCluster(field, s string) (txn.ClusterID, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != 4 || strings.ToLower(s) != s {
		return 0, invalid(field, "%.20q is not a cluster id, want 8 hex characters as in \"concord status\"", s)
	}
	id := txn.ClusterID(uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3]))
	if id == 0 {
		return 0, invalid(field, "is zero: the cluster has not been formed yet")
	}
	return id, nil
}

// ParseProtocol validates a protocol; empty means two_phase.
func ParseProtocol(field, s string) (txn.Protocol, error) {
	switch s {
	case "", txn.TwoPhase.String():
		return txn.TwoPhase, nil
	case txn.ThreePhaseCommit.String():
		return txn.ThreePhaseCommit, nil
	}
	return 0, invalid(field, "%.20q is not a protocol that this version knows, want %s or %s", s, txn.TwoPhase,
		txn.ThreePhaseCommit)
}

// ParseDecision validates a decision: commit or abort.
func ParseDecision(field, s string) (txn.Decision, error) {
	return parseWord(field, s, txn.Commit, txn.Abort)
}

// ParseOutcome validates the outcome of a whole transaction.
func ParseOutcome(field, s string) (txn.Outcome, error) {
	return parseWord(field, s, txn.Unknown, txn.Committed, txn.Aborted, txn.Unrecorded, txn.Pending, txn.HeuristicMixed,
		txn.HeuristicHazard)
}

// ParseVote validates the vote of a branch.
func ParseVote(field, s string) (txn.Vote, error) {
	return parseWord(field, s, txn.VoteNo, txn.VoteYes, txn.VoteReadOnly)
}

// ParseFinish validates what an attempt to finish a branch found.
func ParseFinish(field, s string) (txn.Finish, error) {
	return parseWord(field, s, txn.Done, txn.AlreadyDone, txn.Contradicted, txn.Lost)
}

func parseWord[T fmt.Stringer](field, s string, words ...T) (T, error) {
	var names []string
	for _, w := range words {
		if w.String() == s {
			return w, nil
		}
		names = append(names, w.String())
	}
	var none T
	return none, invalid(field, "is %.30q, want %s", s, strings.Join(names, ", "))
}

// ParseBranches validates the branches of a commit request and sorts them by number.
func ParseBranches(field string, messages []*concordv1.Branch) ([]txn.Branch, error) {
	if len(messages) > txn.MaxBranches {
		return nil, invalid(field, "holds %d branches, at most %d are allowed", len(messages), txn.MaxBranches)
	}
	numbers := make(map[txn.BranchNo]bool, len(messages))
	resources := make(map[string]bool, len(messages))
	branches := make([]txn.Branch, 0, len(messages))
	for i, m := range messages {
		at := fmt.Sprintf("%s[%d]", field, i)
		b, err := parseBranch(at, m)
		if err != nil {
			return nil, err
		}
		if numbers[b.No] {
			return nil, invalid(at+".no", "branch %d is listed twice", b.No)
		}
		if resources[b.Resource] {
			return nil, invalid(at+".resource", "%q is listed twice: a transaction has one branch per resource",
				b.Resource)
		}
		numbers[b.No], resources[b.Resource] = true, true
		branches = append(branches, b)
	}
	slices.SortFunc(branches, func(a, b txn.Branch) int { return int(a.No) - int(b.No) })
	return branches, nil
}

func parseBranch(at string, m *concordv1.Branch) (txn.Branch, error) {
	no, err := ParseBranchNo(at+".no", m.GetNo())
	if err != nil {
		return txn.Branch{}, err
	}
	if m.GetResource() == "" {
		return txn.Branch{}, invalid(at+".resource", "is empty, want the name of a resource")
	}
	for _, t := range []struct {
		field, text string
		limit       int
	}{{"resource", m.GetResource(), txn.MaxResourceName}, {"evidence", m.GetEvidence(), txn.MaxEvidence},
		{"holder", m.GetHolder(), txn.MaxHolder}} {
		if err := ParseText(at+"."+t.field, t.text, t.limit); err != nil {
			return txn.Branch{}, err
		}
	}
	return txn.Branch{No: no, Resource: m.GetResource(), Evidence: m.GetEvidence(), Holder: m.GetHolder()}, nil
}

// ParseBranchNo validates a branch number: 0 to 255.
func ParseBranchNo(field string, no uint32) (txn.BranchNo, error) {
	if no >= txn.MaxBranches {
		return 0, invalid(field, "is %d, want 0 to %d", no, txn.MaxBranches-1)
	}
	return txn.BranchNo(no), nil
}

// BranchMessages turns branches into messages.
func BranchMessages(branches []txn.Branch) []*concordv1.Branch {
	messages := make([]*concordv1.Branch, 0, len(branches))
	for _, b := range branches {
		messages = append(messages, &concordv1.Branch{No: uint32(b.No), Resource: b.Resource, Evidence: b.Evidence,
			Holder: b.Holder})
	}
	return messages
}

// Finished is one valid FinishedBranch.
type Finished struct {
	ID     txn.ID
	No     txn.BranchNo
	Finish txn.Finish
}

// ParseFinished validates a FinishedRequest.
func ParseFinished(r *concordv1.FinishedRequest) ([]Finished, error) {
	if n := len(r.GetBranches()); n > MaxFinished {
		return nil, invalid("branches", "holds %d branches, at most %d are allowed", n, MaxFinished)
	}
	finished := make([]Finished, 0, len(r.GetBranches()))
	for i, m := range r.GetBranches() {
		at := fmt.Sprintf("branches[%d]", i)
		id, err := ParseID(at+".gid", m.GetGid())
		if err != nil {
			return nil, err
		}
		no, err := ParseBranchNo(at+".no", m.GetNo())
		if err != nil {
			return nil, err
		}
		finish, err := ParseFinish(at+".finish", m.GetFinish())
		if err != nil {
			return nil, err
		}
		finished = append(finished, Finished{ID: id, No: no, Finish: finish})
	}
	return finished, nil
}

// FinishedRequest is the inverse of ParseFinished.
func FinishedRequest(finished []Finished) *concordv1.FinishedRequest {
	r := &concordv1.FinishedRequest{Branches: make([]*concordv1.FinishedBranch, 0, len(finished))}
	for _, f := range finished {
		r.Branches = append(r.Branches, &concordv1.FinishedBranch{Gid: f.ID.String(), No: uint32(f.No),
			Finish: f.Finish.String()})
	}
	return r
}

// BranchName is the inverse of ParseBranchName.
func BranchName(x txn.XID) *concordv1.BranchName {
	return &concordv1.BranchName{Cluster: x.Cluster.String(), Gid: x.ID.String(), No: uint32(x.Branch)}
}

// ParseBranchName validates the name of a branch of any cluster, which stands in a BranchName or
// in a message that has its fields, too.
func ParseBranchName(field string, m interface {
	GetCluster() string
	GetGid() string
	GetNo() uint32
}) (x txn.XID, err error) {
	if x.Cluster, err = ParseCluster(field+".cluster", m.GetCluster()); err != nil {
		return x, err
	}
	if x.ID, err = ParseID(field+".gid", m.GetGid()); err != nil {
		return x, err
	}
	x.Branch, err = ParseBranchNo(field+".no", m.GetNo())
	return x, err
}
