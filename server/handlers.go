// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
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
		return &txn.NotLeaderError{Untouched: true}
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
		return &txn.NotLeaderError{Untouched: true}
	case s.Leader != s.Node:
		return &txn.NotLeaderError{Leader: uint64(s.Leader), API: h.node.APIAddress(uint64(s.Leader)),
			Untouched: true}
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
	claim, err := parseKeyClaim(r)
	if err != nil {
		return nil, err
	}
	a, err := h.node.KeyUse(ctx, r.GetKey(), claim)
	if err != nil {
		return nil, err
	}
	m := &concordv1.KeyUseResponse{Zxid: a.Zxid.String(), Claimed: a.Claimed}
	if a.Key != nil {
		if err := mayReplay(ctx, a.Txn); err != nil {
			return nil, err
		}
		m.Gid, m.Result = a.Key.ID.String(), a.Key.Result
	}
	return m, nil
}

func parseKeyClaim(r *concordv1.KeyUseRequest) (k commit.KeyClaim, err error) {
	if r.GetClaim() != "" {
		k.By, err = api.ParseID("claim", r.GetClaim())
		k.For = time.Duration(min(max(r.GetClaimMs(), 0), commit.MaxKeyClaim.Milliseconds())) * time.Millisecond
	}
	return k, err
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
		return api.ToStatus(txn.Busyf("%d watch this node, which is the limit: ask again in a moment, or watch "+
			"another node", h.limits.Watches))
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
		return nil, txn.Unavailablef("the cluster is being formed: ask again in a moment")
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
			c.Report.OK(), NotBranch: c.Report.NotBranch, NotLastResource: c.Report.NotLast}
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
