// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/coordinator/commit"
	"github.com/concordtx/concord/security"
	"github.com/concordtx/concord/security/access"
	"github.com/concordtx/concord/txn"
)

// The states of a transaction that people see. The first three are "in doubt" in the
// sense of List: not finished everywhere.
const (
	stateInDoubt    = "in-doubt"   // branches are prepared, the log has no decision
	stateCommitting = "committing" // decided, branches are left
	stateAborting   = "aborting"
	stateCommitted  = "committed"
	stateAborted    = "aborted"
	stateUnrecorded = "unrecorded" // no two databases will commit it, one alone may have
	stateHeuristic  = "heuristic"  // somebody has to look at it
)

func (h *handlers) Get(ctx context.Context, r *concordv1.GetRequest) (*concordv1.GetResponse, error) {
	id, err := api.ParseID("gid", r.GetGid())
	if err != nil {
		return nil, err
	}
	a, err := access.Of(ctx).Access()
	if err != nil {
		return nil, err
	}
	v, err := h.node.View(ctx, id)
	if err != nil {
		return nil, err
	}
	m := transaction(h.node.Status().Cluster, id, v)
	if m == nil {
		return nil, notKnown(id, v)
	}
	if m = shown(a, m); m == nil {
		return nil, notKnown(id, &commit.View{})
	}
	if a.All() || a.Has(security.Viewer) {
		addActs(m, id, v.Acts)
	}
	h.examine(ctx, id, v.Known, m, a.All() || a.Has(security.Operator))
	return &concordv1.GetResponse{Transaction: m, Zxid: h.zxid()}, nil
}

// examine adds what the databases say now of what is not finished. What others wait for with which statement is for
// operators.
func (h *handlers) examine(ctx context.Context, id txn.ID, decided bool, m *concordv1.Transaction, operator bool) {
	var unfinished []txn.Branch
	for _, b := range m.GetBranches() {
		if b.GetState() == "prepared" {
			unfinished = append(unfinished, txn.Branch{No: txn.BranchNo(b.GetNo()), Resource: b.GetResource()})
		}
	}
	if len(unfinished) == 0 {
		return
	}
	found := h.node.Examine(ctx, id, decided, unfinished)
	m.Whole, m.Expected, m.Missing = found.Whole, numbersOf(found.Expected), numbersOf(found.Missing)
	for _, b := range m.GetBranches() {
		seen, asked := found.Branches[txn.BranchNo(b.GetNo())]
		if !asked || b.GetState() != "prepared" {
			continue
		}
		switch {
		case seen.Err != nil:
			b.Seen, b.Unseen = "unknown", seen.Err.Error()
		case seen.Prepared:
			b.Seen = "prepared"
		case seen.Committed:
			b.Seen = "committed"
		default:
			b.Seen = "gone"
		}
		for _, s := range seen.Blocked {
			if operator {
				b.Blocked = append(b.Blocked, &concordv1.BlockedSession{Session: s.Session,
					WaitedMs: s.For.Milliseconds(), Statement: s.Statement})
			}
		}
	}
}

func numbersOf(branches []txn.BranchNo) (numbers []uint32) {
	for _, no := range branches {
		numbers = append(numbers, uint32(no))
	}
	return numbers
}

// transaction is what a view knows of a transaction; nil: nothing.
func transaction(cluster txn.ClusterID, id txn.ID, v *commit.View) *concordv1.Transaction {
	for _, m := range unfinished(cluster, v) {
		if m.GetGid() == id.String() {
			return m
		}
	}
	if !v.Known {
		return nil
	}
	return finishedMessage(v.Txn)
}

// notKnown says what is not known of a transaction, and what cannot be known now.
func notKnown(id txn.ID, v *commit.View) error {
	if len(v.Foreign) > 0 {
		return txn.NotFoundf("transaction %v does not belong to this cluster: a resource lists %v, of cluster %v; "+
			"\"concord recover %v\" says what to do",
			id, v.Foreign[0], v.Foreign[0].Cluster, id)
	}
	branches, next := "no resource lists a prepared branch of it", "compare the gid with \"concord tx ls\""
	if len(v.Unlisted) > 0 {
		branches = "whether a branch of it is prepared is not known of all resources: " + strings.Join(v.Unlisted, "; ")
		next = "run \"concord resource check\""
	}
	if v.TooOld {
		return txn.TooOldf("transaction %v is older than what the cluster remembers, and %s: look into the "+
			"databases", id, branches)
	}
	return txn.NotFoundf("transaction %v is not known: no decision, and %s; %s", id, branches, next)
}

const (
	listDefault = 100
	listMax     = 10_000
	// listScan finished transactions are looked at for one List; a rare one further back
	// is found by asking on from "next".
	listScan = 100_000
)

func (h *handlers) List(ctx context.Context, r *concordv1.ListRequest) (*concordv1.ListResponse, error) {
	f, err := parseFilter(r, time.Now())
	if err != nil {
		return nil, err
	}
	a, err := access.Of(ctx).Access()
	if err != nil {
		return nil, err
	}
	v, err := h.node.View(ctx, txn.ID{})
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	var found []*concordv1.Transaction
	for _, m := range unfinished(h.node.Status().Cluster, v) {
		seen[m.GetGid()] = true
		if m = shown(a, m); m != nil && f.matches(m) {
			found = append(found, m)
		}
	}
	next := ""
	if f.finishedToo() {
		looked, matched := 0, 0
		err = h.node.EachFinished(f.after, func(x txn.Txn) bool {
			looked++
			if m := shown(a, finishedMessage(x)); m != nil && !seen[m.GetGid()] && f.matches(m) {
				found = append(found, m)
				matched++
			}
			if looked == listScan {
				next = x.ID.String()
			}
			return matched <= f.limit && looked < listScan
		})
		if err != nil {
			return nil, err
		}
	}
	slices.SortFunc(found, func(a, b *concordv1.Transaction) int { return strings.Compare(b.GetGid(), a.GetGid()) })
	if next != "" { // what is not finished and older belongs to a later page
		found = slices.DeleteFunc(found, func(m *concordv1.Transaction) bool { return m.GetGid() < next })
	}
	if len(found) > f.limit {
		found = found[:f.limit]
		next = found[f.limit-1].GetGid()
	}
	return &concordv1.ListResponse{Transactions: found, Next: next, Zxid: h.zxid(), Warnings: v.Unlisted}, nil
}

type filter struct {
	state, resource string
	bornBefore      time.Time // zero: any
	after           txn.ID    // zero: from the newest
	limit           int
}

func parseFilter(r *concordv1.ListRequest, now time.Time) (filter, error) {
	f := filter{state: r.GetState(), resource: r.GetResource(), limit: int(r.GetLimit())}
	if !slices.Contains([]string{"", stateInDoubt, stateCommitting, stateAborting, stateCommitted, stateAborted,
		stateUnrecorded, stateHeuristic}, f.state) {
		return f, txn.Invalidf("state: %.20q is not one of in-doubt, committing, aborting, committed, aborted, "+
			"unrecorded, heuristic", f.state)
	}
	if f.limit == 0 {
		f.limit = listDefault
	}
	f.limit = min(f.limit, listMax)
	if ms := r.GetOlderThanMs(); ms > 0 {
		f.bornBefore = now.Add(-time.Duration(ms) * time.Millisecond)
	}
	if r.GetAfter() != "" {
		id, err := api.ParseID("after", r.GetAfter())
		if err != nil {
			return f, err
		}
		f.after = id
	}
	return f, nil
}

func (f filter) finishedToo() bool {
	return !slices.Contains([]string{stateInDoubt, stateCommitting, stateAborting, stateHeuristic}, f.state)
}

func (f filter) matches(m *concordv1.Transaction) bool {
	state := m.GetState()
	doubt := f.state == stateInDoubt && (state == stateCommitting || state == stateAborting)
	return (f.state == "" || f.state == state || doubt) &&
		(f.bornBefore.IsZero() || time.UnixMilli(m.GetStartedMs()).Before(f.bornBefore)) &&
		(f.after.IsZero() || m.GetGid() < f.after.String()) &&
		(f.resource == "" || slices.ContainsFunc(m.GetBranches(),
			func(b *concordv1.Branch) bool { return b.GetResource() == f.resource }))
}

// unfinished returns everything in a view that is not finished everywhere or that
// somebody has to look at.
func unfinished(cluster txn.ClusterID, v *commit.View) []*concordv1.Transaction {
	byID := map[txn.ID]*concordv1.Transaction{}
	for _, x := range v.Open {
		m := txnMessage(x)
		if x.Alarming() {
			m.State = stateHeuristic
		} else {
			m.State = stateCommitting
		}
		for i, b := range x.Branches {
			xid := txn.XID{Cluster: cluster, ID: x.ID, Branch: b.No}
			state, open := v.Branches[xid]
			if m.Branches[i].Error = state.Err; open {
				addTried(m.Branches[i], state.Tried)
			}
			switch {
			case m.Branches[i].State != "": // heuristic
			case open:
				m.Branches[i].State = "prepared"
			default:
				m.Branches[i].State = stateCommitted
			}
		}
		byID[x.ID] = m
	}
	for _, o := range v.Councils {
		byID[o.ID] = councilMessage(o)
	}
	for _, x := range slices.SortedFunc(maps.Keys(v.InDoubt), txn.XID.Compare) {
		addListed(byID, x, v)
	}
	out := make([]*concordv1.Transaction, 0, len(byID))
	for _, m := range byID {
		out = append(out, m)
	}
	return out
}

// councilMessage is a transaction that its members decide, and have not.
func councilMessage(o commit.CouncilView) *concordv1.Transaction {
	m := &concordv1.Transaction{Gid: o.ID.String(), State: stateInDoubt, Protocol: txn.ThreePhaseCommit.String(),
		StartedMs: o.ID.Time().UnixMilli(),
		Outcome:   txn.Pending.String(), Label: o.Label, Branches: api.BranchMessages(o.Branches),
		Reason: "its members decide it: " + partyNames(o.Members)}
	if len(o.Missing) > 0 {
		m.Reason += "; the last election did not hear of " + strings.Join(o.Missing, ", ")
	}
	for _, b := range m.GetBranches() {
		b.State = "prepared"
	}
	return m
}

func partyNames(members []txn.Party) string {
	names := make([]string, len(members))
	for i, m := range members {
		names[i] = m.String()
	}
	return strings.Join(names, ", ")
}

// addListed adds a prepared branch that is not part of phase two: its transaction has
// no decision, was aborted, or had ended before.
func addListed(byID map[txn.ID]*concordv1.Transaction, x txn.XID, v *commit.View) {
	m, ok := byID[x.ID]
	if !ok {
		m = &concordv1.Transaction{Gid: x.ID.String(), State: stateInDoubt, Protocol: protocolOf(x.ID, txn.TwoPhase),
			StartedMs: x.ID.Time().UnixMilli(), Outcome: txn.Pending.String(), LastResource: v.InDoubt[x].Last}
		switch v.InDoubt[x].Decision {
		case txn.Commit:
			m.State, m.Outcome = stateCommitting, txn.Committed.String()
		case txn.Abort: // it has a prepared branch, so no database committed it alone
			m.State, m.Outcome = stateAborting, txn.Aborted.String()
		}
		byID[x.ID] = m
	}
	i := slices.IndexFunc(m.GetBranches(), func(b *concordv1.Branch) bool { return b.GetNo() == uint32(x.Branch) })
	if i < 0 {
		i = len(m.GetBranches())
		m.Branches = append(m.Branches, &concordv1.Branch{No: uint32(x.Branch), Resource: v.InDoubt[x].Resource})
	}
	m.Branches[i].State, m.Branches[i].Error = "prepared", v.InDoubt[x].Err
	addTried(m.Branches[i], v.InDoubt[x].Tried)
}

// addTried adds how far the cluster is with a branch.
func addTried(b *concordv1.Branch, t commit.Tried) {
	b.Attempts = uint32(t.Attempts)
	if !t.Due.IsZero() {
		b.NextAttemptMs = t.Due.UnixMilli()
	}
	if !t.Failed.IsZero() {
		b.ErrorMs = t.Failed.UnixMilli()
	}
}

// protocolOf is the protocol of a transaction as people know it.
func protocolOf(id txn.ID, p txn.Protocol) string {
	if id.Class() == txn.LastResource {
		return id.Class().String()
	}
	return p.String()
}

// finishedMessage is a transaction with nothing left to do.
func finishedMessage(x txn.Txn) *concordv1.Transaction {
	m := txnMessage(x)
	switch {
	case x.Decision == txn.Commit:
		m.State = stateCommitted
	case x.Outcome() == txn.Unrecorded:
		m.State = stateUnrecorded
	default:
		m.State = stateAborted
	}
	for _, b := range m.GetBranches() {
		if b.GetState() == "" {
			b.State = m.State
		}
	}
	return m
}

// txnMessage fills what does not depend on how far a transaction is. Branches with a
// heuristic outcome have it as their state.
func txnMessage(x txn.Txn) *concordv1.Transaction {
	m := &concordv1.Transaction{Gid: x.ID.String(), Protocol: protocolOf(x.ID, x.Protocol),
		StartedMs: x.ID.Time().UnixMilli(), LastResource: x.Last,
		Branches: api.BranchMessages(x.Branches), Reason: x.Reason, Label: x.Label, Zxid: x.Decided.String(),
		Outcome: x.Outcome().String(), DecidedBy: x.By.String()}
	for _, f := range x.Forgets {
		m.Forgets = append(m.Forgets, &concordv1.Forget{Who: f.Who, Why: f.Why})
	}
	for _, h := range x.Heuristics {
		m.Heuristics = append(m.Heuristics,
			&concordv1.Heuristic{No: uint32(h.Branch), Outcome: h.Outcome.String(), By: h.By.String(), Who: h.Who,
				Why: h.Why, Forgotten: h.Forgotten})
		for _, b := range m.GetBranches() {
			if b.GetNo() == uint32(h.Branch) {
				b.State = h.Outcome.String()
			}
		}
	}
	return m
}
