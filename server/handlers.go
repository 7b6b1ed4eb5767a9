// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/api/concord/v1/concordv1connect"
	"github.com/concordtx/concord/api/member"
	"github.com/concordtx/concord/coordinator"
	"github.com/concordtx/concord/coordinator/commit"
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/recovery"
	"github.com/concordtx/concord/security"
	"github.com/concordtx/concord/security/access"
	"github.com/concordtx/concord/txn"
)

// handlers implements the service: it validates a request, asks the node and
// translates the answer.
//
// What an answer calls its zxid may be newer than what it was made from, never older: whoever
// shows it to another node sees nothing older there.
type handlers struct {
	node    Node
	relay   *relay
	metrics *metrics
	log     *slog.Logger
	holders holders
	limits  access.Limits
	watches atomic.Int64
}

var _ concordv1connect.CoordinatorServiceHandler = (*handlers)(nil)

func (h *handlers) Commit(ctx context.Context, r *concordv1.CommitRequest) (*concordv1.CommitResponse, error) {
	c, err := h.parseCommit(ctx, r)
	if err != nil {
		return nil, err
	}
	a, err := h.node.Commit(ctx, c)
	if err != nil {
		return nil, err
	}
	return commitResponse(a), nil
}

func (h *handlers) parseCommit(ctx context.Context, r *concordv1.CommitRequest) (txn.CommitRequest, error) {
	c, err := api.ParseCommit(r)
	if err == nil {
		err = sameCluster(h.node.Status(), r.GetCluster())
	}
	if err == nil {
		err = mayCommit(ctx, c)
	}
	return c, err
}

// sameCluster refuses a request about another cluster's transactions, before its client would
// wait for a position that this cluster may never reach. A node that has just started may not
// know its cluster; the loop judges when it does.
func sameCluster(s *coordinator.Snapshot, named string) error {
	if named == "" {
		return nil
	}
	id, err := api.ParseCluster("cluster", named)
	switch {
	case err != nil:
		return err
	case s.Cluster == 0 && s.Leader == s.Node: // its first leader is about to form it
		return &txn.NotLeaderError{}
	case s.Cluster == 0:
		return nil
	}
	return commit.SameCluster(s.Cluster, id)
}

func commitResponse(r commit.Reply) *concordv1.CommitResponse {
	return &concordv1.CommitResponse{Decision: r.Txn.Decision.String(), Reason: r.Txn.Reason, Zxid: r.Zxid.String()}
}

func (h *handlers) Finished(ctx context.Context, r *concordv1.FinishedRequest) (*concordv1.FinishedResponse, error) {
	finished, err := api.ParseFinished(r)
	if err != nil {
		return nil, err
	}
	decided, err := api.ParseDecided(r)
	if err != nil {
		return nil, err
	}
	if err := h.ofLeader(); err != nil {
		return nil, err
	}
	a, err := access.Of(ctx).Access()
	if err != nil {
		return nil, err
	}
	granted, all := a.Resources(security.Application, security.AgentRole)
	reporter := commit.Reporter{Limited: !all, Resources: granted}
	if a.Has(security.Application) { // nobody else decides in a last resource
		for _, d := range decided {
			h.node.LastDecided(d, reporter)
		}
	}
	for _, f := range finished {
		h.node.Finished(f.ID, f.No, f.Finish, reporter)
	}
	return &concordv1.FinishedResponse{}, nil
}

func (h *handlers) Deliver(ctx context.Context, r *concordv1.DeliverRequest) (*concordv1.DeliverResponse, error) {
	_, envelopes, err := member.Parse(r)
	if err != nil {
		return nil, err
	}
	if err := member.From(access.Of(ctx), envelopes); err != nil {
		return nil, err
	}
	if err := sameCluster(h.node.Status(), r.GetCluster()); err != nil {
		return nil, err
	}
	if err := h.ofLeader(); err != nil {
		return nil, err
	}
	h.node.Deliver(envelopes)
	return &concordv1.DeliverResponse{}, nil
}

// ofLeader returns an error unless this node leads: for calls that the loop does not refuse
// itself, or not before they have asked all databases.
func (h *handlers) ofLeader() error {
	s := h.node.Status()
	switch {
	case s.CutOff(time.Now()) > 0:
		return &txn.NotLeaderError{}
	case s.Leader != s.Node:
		return &txn.NotLeaderError{Leader: uint64(s.Leader), API: h.node.APIAddress(uint64(s.Leader))}
	}
	return nil
}

func (h *handlers) Outcome(ctx context.Context, r *concordv1.OutcomeRequest) (*concordv1.OutcomeResponse, error) {
	id, err := api.ParseID("gid", r.GetGid())
	if err != nil {
		return nil, err
	}
	q := txn.Inquiry{ID: id, Several: r.GetSeveral()}
	if r.GetCluster() != "" {
		if q.Cluster, err = api.ParseCluster("cluster", r.GetCluster()); err != nil {
			return nil, err
		}
	}
	if q.Last, err = api.ParseLastResource("last_resource", r.GetLastResource()); err != nil {
		return nil, err
	}
	if err := h.mayEnd(ctx, id); err != nil {
		return nil, err
	}
	if q.Last != "" { // it may be asked to write something
		if err := access.Of(ctx).OnAll([]string{q.Last}, security.Application); err != nil {
			return nil, err
		}
	}
	a, err := h.node.Outcome(ctx, q)
	if errors.Is(err, txn.ErrTooOld) {
		return &concordv1.OutcomeResponse{Outcome: txn.Unknown.String(), Reason: err.Error()}, nil
	}
	if err != nil {
		return nil, err
	}
	return &concordv1.OutcomeResponse{Outcome: a.Txn.Outcome().String(), Reason: a.Txn.Reason,
		Zxid: a.Zxid.String(), Finished: a.Txn.Ended}, nil
}

func (h *handlers) KeyUse(ctx context.Context, r *concordv1.KeyUseRequest) (*concordv1.KeyUseResponse, error) {
	if err := api.ParseKey("key", r.GetKey()); err != nil {
		return nil, err
	}
	a, err := h.node.KeyUse(ctx, r.GetKey())
	if err != nil {
		return nil, err
	}
	m := &concordv1.KeyUseResponse{Zxid: a.Zxid.String()}
	if a.Key != nil {
		if err := mayReplay(ctx, a.Txn); err != nil {
			return nil, err
		}
		m.Gid, m.Result = a.Key.ID.String(), a.Key.Result
	}
	return m, nil
}

func (h *handlers) Resolve(ctx context.Context, r *concordv1.ResolveRequest) (*concordv1.ResolveResponse, error) {
	id, err := api.ParseID("gid", r.GetGid())
	if err != nil {
		return nil, err
	}
	d, err := api.ParseDecision("decision", r.GetDecision())
	if err != nil {
		return nil, err
	}
	who, err := parseOperator(ctx, r.GetWho(), r.GetReason())
	if err != nil {
		return nil, err
	}
	if len(r.GetResources()) > txn.MaxBranches {
		return nil, fmt.Errorf("resources: %d of them: a transaction has at most %d branches: %w",
			len(r.GetResources()), txn.MaxBranches, txn.ErrInvalid)
	}
	last, err := api.ParseLastResource("last_resource", r.GetLastResource())
	if err != nil {
		return nil, err
	}
	a, err := h.node.Resolve(ctx, txn.Resolution{ID: id, Decision: d, Who: who, Why: r.GetReason(),
		Resources: r.GetResources(), Force: r.GetForce(), Last: last})
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
	who, err := parseOperator(ctx, r.GetWho(), r.GetReason())
	if err != nil {
		return nil, err
	}
	err = h.node.Forget(ctx, id, who, r.GetReason())
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
	decision, known := settlements[r.GetAction()]
	if !known {
		return nil, fmt.Errorf("action: %.20q is not abandon, abort or commit, the only actions that this version "+
			"knows: %w", r.GetAction(), txn.ErrInvalid)
	}
	who, err := parseOperator(ctx, r.GetWho(), r.GetReason())
	if err = errors.Join(err, api.ParseText("resource", r.GetResource(), txn.MaxResourceName)); err != nil {
		return nil, err
	}
	if err := h.ofLeader(); err != nil {
		return nil, err
	}
	a, err := h.node.Settle(ctx, txn.Settlement{ID: id, Branch: no, Decision: decision, Resource: r.GetResource(),
		Who: who, Why: r.GetReason()})
	m := &concordv1.SettleResponse{Zxid: h.zxid(), Resource: a.Resource}
	if a.Resource != "" {
		m.Result = a.Finish.String()
	}
	return m, err
}

// settlements are the actions of a SettleRequest.
var settlements = map[string]txn.Decision{settleAbandon: txn.Undecided, "commit": txn.Commit, "abort": txn.Abort}

const settleAbandon = "abandon"

func (h *handlers) ReplaceMember(ctx context.Context,
	r *concordv1.ReplaceMemberRequest) (*concordv1.ReplaceMemberResponse, error) {
	who, err := parseOperator(ctx, r.GetWho(), r.GetReason())
	if err != nil {
		return nil, err
	}
	err = h.node.Replace(ctx, zab.NodeID(r.GetNode()), who, r.GetReason())
	return &concordv1.ReplaceMemberResponse{Zxid: h.zxid()}, err
}

func (h *handlers) AddMember(ctx context.Context, r *concordv1.AddMemberRequest) (*concordv1.AddMemberResponse, error) {
	m := replica.Member{ID: zab.NodeID(r.GetNode()), Observer: r.GetRole() == "observer", Peer: r.GetPeer(),
		API: r.GetApi()}
	who, err := parseOperator(ctx, r.GetWho(), r.GetReason())
	if err = errors.Join(err, api.ParseText("key", r.GetKey(), maxKey)); err != nil {
		return nil, err
	}
	switch {
	case m.ID == 0:
		return nil, fmt.Errorf("node: is missing or 0: ids start at 1: %w", txn.ErrInvalid)
	case r.GetRole() != "voter" && r.GetRole() != "observer":
		return nil, fmt.Errorf("role: %.20q is neither voter nor observer: %w", r.GetRole(), txn.ErrInvalid)
	case m.Peer == m.API:
		return nil, fmt.Errorf("peer, api: both are %.40q: give two addresses: %w", m.Peer, txn.ErrInvalid)
	}
	if err := errors.Join(parseAddress("peer", m.Peer), parseAddress("api", m.API)); err != nil {
		return nil, err
	}
	err = h.node.AddMember(ctx, m, r.GetKey(), who, r.GetReason())
	return &concordv1.AddMemberResponse{Zxid: h.zxid()}, err
}

// maxKey and maxAddress bound what names a request and a place.
const (
	maxKey     = 64
	maxAddress = 200
)

func parseAddress(field, addr string) error {
	if !api.Dialable(addr) {
		return fmt.Errorf("%s: %.40q is not host:port: %w", field, addr, txn.ErrInvalid)
	}
	return api.ParseText(field, addr, maxAddress)
}

func (h *handlers) RemoveMember(ctx context.Context,
	r *concordv1.RemoveMemberRequest) (*concordv1.RemoveMemberResponse, error) {
	who, err := parseOperator(ctx, r.GetWho(), r.GetReason())
	if err = errors.Join(err, api.ParseText("key", r.GetKey(), maxKey)); err != nil {
		return nil, err
	}
	err = h.node.RemoveMember(ctx, zab.NodeID(r.GetNode()), r.GetKey(), who, r.GetReason())
	return &concordv1.RemoveMemberResponse{Zxid: h.zxid()}, err
}

func (h *handlers) TransferLeadership(ctx context.Context,
	r *concordv1.TransferLeadershipRequest) (*concordv1.TransferLeadershipResponse, error) {
	who, err := parseOperator(ctx, r.GetWho(), r.GetReason())
	if err != nil {
		return nil, err
	}
	err = h.node.Lead(ctx, zab.NodeID(r.GetNode()), who, r.GetReason())
	return &concordv1.TransferLeadershipResponse{Zxid: h.zxid()}, err
}

// parseOperator checks who acts and why, and returns who that is for the log, where both are kept for good:
// by the certificate or the token, and by his own word.
func parseOperator(ctx context.Context, who, reason string) (string, error) {
	if reason == "" {
		return "", fmt.Errorf("reason: say why, it is kept with the transaction: %w", txn.ErrInvalid)
	}
	return access.Of(ctx).Who(who), errors.Join(api.ParseText("who", who, txn.MaxResourceName), api.ParseText("reason",
		reason, txn.MaxReason))
}

func (h *handlers) Recover(ctx context.Context, r *concordv1.RecoverRequest) (*concordv1.RecoverResponse, error) {
	var id txn.ID
	if r.GetGid() != "" {
		var err error
		if id, err = api.ParseID("gid", r.GetGid()); err != nil {
			return nil, err
		}
	}
	if err := h.ofLeader(); err != nil {
		return nil, err
	}
	results, err := h.node.Recover(ctx, id, r.GetApply())
	if err != nil && results == nil {
		return nil, err
	}
	res := &concordv1.RecoverResponse{Zxid: h.zxid()}
	undecided := func(a coordinator.ActionResult) bool { return a.Kind == recovery.Leave || a.Kind == recovery.Abort }
	if !id.IsZero() && !r.GetApply() && slices.ContainsFunc(results, undecided) {
		res.Whole = h.node.Examine(ctx, id, false, nil).Whole
	}
	if err != nil {
		res.Warnings = append(res.Warnings, err.Error())
	}
	for _, a := range results {
		m := &concordv1.RecoverAction{Gid: a.XID.ID.String(), No: uint32(a.XID.Branch), Resource: a.Branch.Resource,
			Action: a.Kind.String(), Why: a.Why, Result: a.Result}
		if a.Err != nil {
			m.Result, m.Error = "failed", a.Err.Error()
		}
		if !a.Since.IsZero() {
			m.PreparedMs = a.Since.UnixMilli()
		}
		res.Actions = append(res.Actions, m)
	}
	return res, nil
}

func (h *handlers) Status(ctx context.Context, r *concordv1.StatusRequest) (*concordv1.StatusResponse, error) {
	s, err := h.statusSince(ctx, r.GetSeen())
	if err != nil {
		return nil, err
	}
	return statusMessage(s, time.Now()), nil
}

// statusSince returns the status of a state that reflects what the client has seen.
func (h *handlers) statusSince(ctx context.Context, seen string) (*coordinator.Snapshot, error) {
	at, err := api.ParseZxid("seen", seen)
	if err != nil {
		return nil, err
	}
	return h.node.StatusSince(ctx, at)
}

func (h *handlers) zxid() string { return h.node.Applied().String() }

func (h *handlers) Watch(ctx context.Context, r *concordv1.WatchRequest,
	stream *connect.ServerStream[concordv1.StatusResponse]) error {
	defer h.watches.Add(-1)
	if h.watches.Add(1) > int64(h.limits.Watches) {
		return api.ToStatus(fmt.Errorf("%d watch this node, which is the limit: ask again in a moment, or watch "+
			"another node: %w", h.limits.Watches, txn.ErrBusy))
	}
	interval := 500 * time.Millisecond
	if ms := r.GetIntervalMs(); ms > 0 {
		interval = max(50*time.Millisecond, time.Duration(ms)*time.Millisecond)
	}
	s, err := h.statusSince(ctx, r.GetSeen())
	if err != nil {
		return err
	}
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	var last *coordinator.Snapshot
	for ; ; s = h.node.Status() {
		if !same(s, last) {
			if err := stream.Send(statusMessage(s, time.Now())); err != nil {
				return err
			}
			last = s
		}
		if a, err := access.Of(ctx).Access(); err != nil || !a.Has(security.Viewer) { // not any more
			return errors.Join(err, access.Denied(a, string(security.Viewer)))
		}
		select {
		case <-ticker.C:
		case <-h.node.Closed():
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// same reports whether two snapshots differ in nothing but when they were taken.
func same(a, b *coordinator.Snapshot) bool {
	if a == nil || b == nil || a.CutOff(time.Now()) > 0 { // it grows
		return false
	}
	without := *b
	without.Present = a.Present
	if a.Figures != nil && b.Figures != nil {
		figures := *b.Figures
		figures.At, figures.Clock = a.Figures.At, a.Figures.Clock
		figures.Resources = slices.Clone(figures.Resources)
		for i := range min(len(figures.Resources), len(a.Figures.Resources)) {
			if was := a.Figures.Resources[i].Listed; was.IsZero() == figures.Resources[i].Listed.IsZero() {
				figures.Resources[i].Listed = was
			}
		}
		without.Figures = &figures
	}
	return reflect.DeepEqual(a, &without)
}

func (h *handlers) Resources(ctx context.Context, r *concordv1.ResourcesRequest) (*concordv1.ResourcesResponse, error) {
	if r.GetName() != "" { // what counts is what the leader finds, if there is one
		var other *txn.NotLeaderError
		if err := h.ofLeader(); errors.As(err, &other) && other.API != "" {
			return nil, err
		}
		h.node.Recheck(ctx, r.GetName(), r.GetIdentity())
	}
	s, err := h.statusSince(ctx, r.GetSeen())
	if err != nil {
		return nil, err
	}
	if s.Cluster == 0 {
		return nil, fmt.Errorf("the cluster is being formed: ask again in a moment: %w", txn.ErrUnavailable)
	}
	return &concordv1.ResourcesResponse{Cluster: s.Cluster.String(), Resources: resourceMessages(s, time.Now()),
		MaxTransactionMs: h.node.MaxTransaction().Milliseconds(), NowMs: time.Now().UnixMilli(), Zxid: s.Zxid.String(),
		LeaseMs: h.node.LeaseLength().Milliseconds(), FeatureLevel: uint32(h.node.FeatureLevel())}, nil
}

func (h *handlers) CheckResource(ctx context.Context,
	r *concordv1.CheckResourceRequest) (*concordv1.CheckResourceResponse, error) {
	// What counts is what the leader finds. Where there is none, this node looks itself: that
	// something is wrong with a database is worth to be known before the cluster is formed.
	var other *txn.NotLeaderError
	if err := h.ofLeader(); errors.As(err, &other) && other.API != "" {
		return nil, err
	}
	results, err := h.node.Check(ctx, r.GetName())
	if err != nil {
		return nil, err
	}
	res := &concordv1.CheckResourceResponse{Node: uint64(h.node.Status().Node)}
	for name, c := range results {
		m := &concordv1.ResourceReport{Name: name, Driver: c.Driver, Version: c.Report.Version, Ok: c.Err == nil &&
			c.Report.OK()}
		if c.Err != nil {
			m.Error = c.Err.Error()
		}
		for _, f := range c.Report.Findings {
			m.Findings = append(m.Findings, &concordv1.Finding{What: f.What, Detail: f.Detail, Problem: f.Problem,
				Fix: f.Fix})
		}
		res.Reports = append(res.Reports, m)
	}
	slices.SortFunc(res.Reports, func(a, b *concordv1.ResourceReport) int {
		return strings.Compare(a.GetName(),
			b.GetName())
	})
	return res, nil
}

func (h *handlers) ReportResource(ctx context.Context,
	r *concordv1.ReportResourceRequest) (*concordv1.ReportResourceResponse, error) {
	if err := api.ParseText("name", r.GetName(), txn.MaxResourceName); err != nil {
		return nil, err
	}
	if err := h.ofLeader(); err != nil { // before a database is asked
		return nil, err
	}
	s, err := h.node.Report(ctx, r.GetName())
	if err != nil {
		return nil, err
	}
	res := &concordv1.ReportResourceResponse{Name: r.GetName(), Quarantine: quarantineMessage(s.Remembered),
		Missing: uint64(s.Counts[recovery.Missing]), Unknown: uint64(s.Counts[recovery.Uncertain]),
		PreparedAgain: uint64(s.Counts[recovery.PreparedAgain]), Present: uint64(s.Counts[recovery.Present])}
	if !s.BackTo.IsZero() {
		res.BackToMs = s.BackTo.UnixMilli()
	}
	for _, t := range s.Told {
		res.Branches = append(res.Branches, &concordv1.ToldBranch{Gid: t.Txn.ID.String(), No: uint32(t.Branch),
			Label: t.Txn.Label, Decided: t.Txn.Decided.String(), Fate: t.Fate.String(), Ended: t.Txn.Ended})
	}
	return res, nil
}

func (h *handlers) AcceptResource(ctx context.Context,
	r *concordv1.AcceptResourceRequest) (*concordv1.AcceptResourceResponse, error) {
	who, err := parseOperator(ctx, r.GetWho(), r.GetReason())
	if err = errors.Join(err, api.ParseText("name", r.GetName(), txn.MaxResourceName)); err != nil {
		return nil, err
	}
	err = h.node.Accept(ctx, r.GetName(), who, r.GetReason())
	return &concordv1.AcceptResourceResponse{Zxid: h.zxid()}, err
}
