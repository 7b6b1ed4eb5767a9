// SPDX-License-Identifier: Apache-2.0

package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/coordinator"
	"github.com/concordtx/concord/coordinator/commit"
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/security/access"
	"github.com/concordtx/concord/txn"
)

func (h *handlers) Resolve(ctx context.Context, r *concordv1.ResolveRequest) (*concordv1.ResolveResponse, error) {
	id, err := api.ParseID("gid", r.GetGid())
	if err != nil {
		return nil, err
	}
	d, err := api.ParseDecision("decision", r.GetDecision())
	if err != nil {
		return nil, err
	}
	kind := txn.ActAbort
	if d == txn.Commit {
		kind = txn.ActCommit
	}
	act, who, err := h.parseAct(ctx, kind, r)
	if err != nil {
		return nil, err
	}
	if len(r.GetResources()) > txn.MaxBranches {
		return nil, txn.Invalidf("resources: %d of them: a transaction has at most %d branches",
			len(r.GetResources()), txn.MaxBranches)
	}
	last, err := api.ParseLastResource("last_resource", r.GetLastResource())
	if err != nil {
		return nil, err
	}
	var a commit.Reply
	act.ID = id
	err = h.node.Act(ctx, act, func() (says string, err error) {
		a, err = h.node.Resolve(ctx, txn.Resolution{ID: id, Decision: d, Who: who, Why: r.GetReason(),
			Resources: r.GetResources(), Force: r.GetForce(), Last: last})
		return "", err
	})
	if err != nil {
		return nil, err
	}
	return &concordv1.ResolveResponse{Decision: a.Txn.Decision.String(), Zxid: a.Zxid.String()}, nil
}

func (h *handlers) Forget(ctx context.Context, r *concordv1.ForgetRequest) (*concordv1.ForgetResponse, error) {
	id, err := api.ParseID("gid", r.GetGid())
	if err != nil {
		return nil, err
	}
	act, who, err := h.parseAct(ctx, txn.ActForget, r)
	if err != nil {
		return nil, err
	}
	act.ID = id
	err = h.node.Act(ctx, act, func() (string, error) { return "", h.node.Forget(ctx, id, who, r.GetReason()) })
	return &concordv1.ForgetResponse{Zxid: h.zxid()}, err
}

func (h *handlers) Settle(ctx context.Context, r *concordv1.SettleRequest) (*concordv1.SettleResponse, error) {
	id, err := api.ParseID("gid", r.GetGid())
	if err != nil {
		return nil, err
	}
	no, err := api.ParseBranchNo("no", r.GetNo())
	if err != nil {
		return nil, err
	}
	action, known := settlements[r.GetAction()]
	if !known {
		return nil, txn.Invalidf("action: %.20q is not abandon, abort or commit, the only actions that this version "+
			"knows", r.GetAction())
	}
	act, who, err := h.parseAct(ctx, action.act, r)
	if err = errors.Join(err, api.ParseText("resource", r.GetResource(), txn.MaxResourceName)); err != nil {
		return nil, err
	}
	var a coordinator.Settled
	act.ID, act.Branch, act.Resource = id, no, r.GetResource()
	err = h.node.Act(ctx, act, func() (says string, err error) {
		a, err = h.node.Settle(ctx, txn.Settlement{ID: id, Branch: no, Decision: action.decision,
			Resource: r.GetResource(), Who: who, Why: r.GetReason()})
		if a.Resource != "" {
			says = fmt.Sprintf("%v at %s", a.Finish, a.Resource)
		}
		return says, err
	})
	m := &concordv1.SettleResponse{Zxid: h.zxid(), Resource: a.Resource}
	if a.Resource != "" {
		m.Result = a.Finish.String()
	}
	return m, err
}

// settlements are the actions of a SettleRequest.
var settlements = map[string]struct {
	decision txn.Decision
	act      txn.ActKind
}{
	settleAbandon: {txn.Undecided, txn.ActAbandon},
	"commit":      {txn.Commit, txn.ActSettleCommit},
	"abort":       {txn.Abort, txn.ActSettleAbort},
}

const settleAbandon = "abandon"

func (h *handlers) ReplaceMember(ctx context.Context,
	r *concordv1.ReplaceMemberRequest) (*concordv1.ReplaceMemberResponse, error) {
	act, who, err := h.parseAct(ctx, txn.ActReplaceMember, r)
	if err != nil {
		return nil, err
	}
	act.Node = r.GetNode()
	err = h.node.Act(ctx, act, func() (string, error) {
		return "", h.node.Replace(ctx, zab.NodeID(r.GetNode()), who, r.GetReason())
	})
	return &concordv1.ReplaceMemberResponse{Zxid: h.zxid()}, err
}

func (h *handlers) AddMember(ctx context.Context, r *concordv1.AddMemberRequest) (*concordv1.AddMemberResponse, error) {
	m := replica.Member{ID: zab.NodeID(r.GetNode()), Observer: r.GetRole() == "observer", Peer: r.GetPeer(),
		API: r.GetApi()}
	act, who, err := h.parseAct(ctx, txn.ActAddMember, r)
	if err = errors.Join(err, api.ParseText("key", r.GetKey(), maxKey)); err != nil {
		return nil, err
	}
	switch {
	case m.ID == 0:
		return nil, txn.Invalidf("node: is missing or 0: ids start at 1")
	case r.GetRole() != "voter" && r.GetRole() != "observer":
		return nil, txn.Invalidf("role: %.20q is neither voter nor observer", r.GetRole())
	case m.Peer == m.API:
		return nil, txn.Invalidf("peer, api: both are %.40q: give two addresses", m.Peer)
	}
	if err := errors.Join(parseAddress("peer", m.Peer), parseAddress("api", m.API)); err != nil {
		return nil, err
	}
	act.Node = r.GetNode()
	err = h.node.Act(ctx, act, func() (string, error) {
		return "", h.node.AddMember(ctx, m, r.GetKey(), who, r.GetReason())
	})
	return &concordv1.AddMemberResponse{Zxid: h.zxid()}, err
}

// maxKey and maxAddress bound what names a request and a place.
const (
	maxKey     = 64
	maxAddress = 200
)

func parseAddress(field, addr string) error {
	if !api.Dialable(addr) {
		return txn.Invalidf("%s: %.40q is not host:port", field, addr)
	}
	return api.ParseText(field, addr, maxAddress)
}

func (h *handlers) RemoveMember(ctx context.Context,
	r *concordv1.RemoveMemberRequest) (*concordv1.RemoveMemberResponse, error) {
	act, who, err := h.parseAct(ctx, txn.ActRemoveMember, r)
	if err = errors.Join(err, api.ParseText("key", r.GetKey(), maxKey)); err != nil {
		return nil, err
	}
	act.Node = r.GetNode()
	err = h.node.Act(ctx, act, func() (string, error) {
		return "", h.node.RemoveMember(ctx, zab.NodeID(r.GetNode()), r.GetKey(), who, r.GetReason())
	})
	return &concordv1.RemoveMemberResponse{Zxid: h.zxid()}, err
}

func (h *handlers) TransferLeadership(ctx context.Context,
	r *concordv1.TransferLeadershipRequest) (*concordv1.TransferLeadershipResponse, error) {
	act, who, err := h.parseAct(ctx, txn.ActLead, r)
	if err != nil {
		return nil, err
	}
	act.Node = r.GetNode()
	err = h.node.Act(ctx, act, func() (string, error) {
		return "", h.node.Lead(ctx, zab.NodeID(r.GetNode()), who, r.GetReason())
	})
	return &concordv1.TransferLeadershipResponse{Zxid: h.zxid()}, err
}

// signed is a request of a person who says who he is and why.
type signed interface {
	GetWho() string
	GetReason() string
}

// parseAct reads who acts and why, for the audit, and returns who that is for other records, where both are kept as
// well: by the certificate or the token, and by his own word.
func (h *handlers) parseAct(ctx context.Context, kind txn.ActKind, r signed) (act txn.ActRecord, who string,
	err error) {
	if r.GetReason() == "" {
		return act, "", txn.Invalidf("reason: say why, it is kept with the transaction")
	}
	act, err = h.actOf(ctx, kind, r)
	return act, access.Of(ctx).Who(r.GetWho()), err
}

// actOf is parseAct for what needs no reason.
func (h *handlers) actOf(ctx context.Context, kind txn.ActKind, r signed) (txn.ActRecord, error) {
	c := access.Of(ctx)
	return txn.ActRecord{Kind: kind, Subject: c.Subject(), Who: r.GetWho(), Why: r.GetReason(),
			From: c.From(uint64(h.node.Status().Node))},
		errors.Join(api.ParseText("who", r.GetWho(), txn.MaxResourceName), api.ParseText("reason", r.GetReason(),
			txn.MaxReason))
}

func (h *handlers) Retry(ctx context.Context, r *concordv1.RetryRequest) (*concordv1.RetryResponse, error) {
	id, err := api.ParseID("gid", r.GetGid())
	if err != nil {
		return nil, err
	}
	var no *txn.BranchNo
	if r.No != nil {
		branch, err := api.ParseBranchNo("no", r.GetNo())
		if err != nil {
			return nil, err
		}
		no = &branch
	}
	n, err := h.node.Retry(ctx, id, no)
	return &concordv1.RetryResponse{Branches: uint32(n), Zxid: h.zxid()}, err
}

func (h *handlers) Audit(ctx context.Context, r *concordv1.AuditRequest) (*concordv1.AuditResponse, error) {
	var id txn.ID
	err := api.ParseText("who", r.GetWho(), txn.MaxResourceName)
	if r.GetGid() != "" && err == nil {
		id, err = api.ParseID("gid", r.GetGid())
	}
	if err != nil {
		return nil, err
	}
	acts, err := h.node.Acts(ctx)
	if err != nil {
		return nil, err
	}
	limit := min(int(cmp.Or(r.GetLimit(), listDefault)), listMax)
	m := &concordv1.AuditResponse{Zxid: h.zxid()}
	for _, a := range slices.Backward(acts) {
		if r.GetBefore() > 0 && a.No >= r.GetBefore() || a.Time.UnixMilli() < r.GetSinceMs() ||
			r.GetWho() != "" && r.GetWho() != a.Subject && r.GetWho() != a.Who || !id.IsZero() && a.ID != id {
			continue
		}
		if len(m.Acts) == limit {
			m.Next = m.Acts[limit-1].GetNo()
			break
		}
		m.Acts = append(m.Acts, actMessage(a))
	}
	return m, nil
}

// addActs adds what people did about a transaction to what is known of it, and when they did what its records say.
func addActs(m *concordv1.Transaction, id txn.ID, acts []*txn.Act) {
	for _, a := range acts {
		if a.ID != id {
			continue
		}
		m.Acts = append(m.Acts, actMessage(a))
		if a.Outcome != txn.ActDone {
			continue
		}
		at := a.Time.UnixMilli()
		switch a.Kind {
		case txn.ActCommit, txn.ActAbort:
			if m.GetDecidedBy() == txn.FromOperator.String() && m.GetDecidedMs() == 0 {
				m.DecidedMs = at
			}
		case txn.ActForget:
			i := slices.IndexFunc(m.GetForgets(),
				func(f *concordv1.Forget) bool { return f.GetTimeMs() == 0 && f.GetWhy() == a.Why })
			if i >= 0 {
				m.Forgets[i].TimeMs = at
			}
		case txn.ActAbandon:
			for _, h := range m.GetHeuristics() {
				if h.GetNo() == uint32(a.Branch) && h.GetBy() == txn.FromOperator.String() {
					h.TimeMs = at
				}
			}
		default: // of the others no record of a transaction tells
		}
	}
}

func actMessage(a *txn.Act) *concordv1.Act {
	m := &concordv1.Act{No: a.No, TimeMs: a.Time.UnixMilli(), Subject: a.Subject, Who: a.Who, Command: a.Kind.String(),
		Reason: a.Why, Resource: a.Resource, Node: a.Node, Outcome: a.Outcome.String(), Says: a.Says,
		Roles: a.From.Roles, Address: a.From.Addr, Called: a.From.Node}
	if !a.ID.IsZero() {
		m.Gid = a.ID.String()
	}
	if a.HasBranch() {
		m.Branch = proto.Uint32(uint32(a.Branch))
	}
	return m
}

func (h *handlers) AcceptResource(ctx context.Context,
	r *concordv1.AcceptResourceRequest) (*concordv1.AcceptResourceResponse, error) {
	act, who, err := h.parseAct(ctx, txn.ActAccept, r)
	if err = errors.Join(err, api.ParseText("name", r.GetName(), txn.MaxResourceName)); err != nil {
		return nil, err
	}
	act.Resource = r.GetName()
	err = h.node.Act(ctx, act, func() (string, error) {
		return "", h.node.Accept(ctx, r.GetName(), who, r.GetReason())
	})
	return &concordv1.AcceptResourceResponse{Zxid: h.zxid()}, err
}
