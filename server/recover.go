// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/coordinator"
	"github.com/concordtx/concord/recovery"
	"github.com/concordtx/concord/txn"
)

// recoverBeat is how often whoever waits for a recovery hears that it goes on.
const recoverBeat = time.Second

// recovering is a stream of answers, of which one is sent at a time.
type recovering struct {
	*connect.ServerStream[concordv1.RecoverResponse]
	mu sync.Mutex
}

func (s *recovering) send(m *concordv1.RecoverResponse) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Send(m)
}

// Recover streams what recovery would do, or does. The first answer comes at once: a leader is at it.
func (h *handlers) Recover(ctx context.Context, r *concordv1.RecoverRequest,
	stream *connect.ServerStream[concordv1.RecoverResponse]) error {
	var id txn.ID
	var err error
	if r.GetGid() != "" {
		if id, err = api.ParseID("gid", r.GetGid()); err != nil {
			return err
		}
	}
	act, err := h.actOf(ctx, txn.ActRecover, r)
	if err == nil {
		err = h.reach(ctx, r.GetSeen())
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, recoverTimeout)
	defer cancel()
	if err := h.ofLeader(); err != nil {
		return h.relay.recover(ctx, r, stream, err)
	}
	out := &recovering{ServerStream: stream}
	if err := out.send(&concordv1.RecoverResponse{Zxid: h.zxid()}); err != nil {
		return err
	}
	defer h.beat(ctx, out)()
	if !r.GetApply() {
		_, err := h.recover(ctx, id, false, out)
		return err
	}
	act.ID = id
	return h.node.Act(ctx, act, func() (string, error) { return h.recover(ctx, id, true, out) })
}

// beat sends empty answers until its result is called.
func (h *handlers) beat(ctx context.Context, out *recovering) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var beating sync.WaitGroup
	beating.Go(func() {
		ticker := time.NewTicker(recoverBeat)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				if out.send(&concordv1.RecoverResponse{Zxid: h.zxid()}) != nil {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	})
	return func() { cancel(); beating.Wait() }
}

// recover says how many prepared branches were finished, for the audit.
func (h *handlers) recover(ctx context.Context, id txn.ID, apply bool, out *recovering) (says string, err error) {
	planned, finished, undecided := 0, 0, false
	err = h.node.Recover(ctx, id, apply, func(p coordinator.Progress) error {
		m := &concordv1.RecoverResponse{Zxid: h.zxid()}
		if p.Unlisted != nil {
			m.Warnings = append(m.Warnings, p.Unlisted.Error())
		}
		if p.Pending != "" {
			m.Pending = append(m.Pending, p.Pending)
		}
		for _, a := range p.Actions {
			switch {
			case a.Result == "" && a.Err == nil:
				planned++
			case a.Result == txn.Done.String(), a.Result == txn.AlreadyDone.String():
				finished++
			}
			undecided = undecided || a.Kind == recovery.Leave || a.Kind == recovery.Abort
			m.Actions = append(m.Actions, actionMessage(a))
		}
		return out.send(m)
	})
	if err == nil && !id.IsZero() && !apply && undecided {
		err = out.send(&concordv1.RecoverResponse{Whole: h.node.Examine(ctx, id, false, nil).Whole, Zxid: h.zxid()})
	}
	return fmt.Sprintf("%d of %d prepared branches finished", finished, planned), err
}

func (h *handlers) ListThrough(ctx context.Context,
	r *concordv1.ListThroughRequest) (*concordv1.ListThroughResponse, error) {
	err := errors.Join(sameCluster(h.node.Status(), r.GetCluster()),
		api.ParseText("resource", r.GetResource(), txn.MaxResourceName))
	if err != nil {
		return nil, err
	}
	listing, err := h.node.ListThrough(ctx, r.GetResource())
	m := &concordv1.ListThroughResponse{}
	for _, p := range listing {
		b := &concordv1.PreparedBranch{Xid: p.XID.String(), Owner: p.Owner, Last: uint32(p.Last)}
		if !p.Since.IsZero() {
			b.PreparedMs = p.Since.UnixMilli()
		}
		m.Branches = append(m.Branches, b)
	}
	return m, err
}

func (h *handlers) FinishThrough(ctx context.Context,
	r *concordv1.FinishThroughRequest) (*concordv1.FinishThroughResponse, error) {
	cluster, err := api.ParseCluster("cluster", r.GetCluster())
	if err == nil {
		err = sameCluster(h.node.Status(), r.GetCluster())
	}
	id, badID := api.ParseID("gid", r.GetGid())
	no, badNo := api.ParseBranchNo("no", r.GetNo())
	err = errors.Join(err, badID, badNo, api.ParseText("resource", r.GetResource(), txn.MaxResourceName))
	if err != nil {
		return nil, err
	}
	f, err := h.node.FinishThrough(ctx, txn.XID{Cluster: cluster, ID: id, Branch: no}, r.GetResource())
	return &concordv1.FinishThroughResponse{Finish: f.String()}, err
}

func actionMessage(a coordinator.ActionResult) *concordv1.RecoverAction {
	m := &concordv1.RecoverAction{Gid: a.XID.ID.String(), No: uint32(a.XID.Branch), Resource: a.Branch.Resource,
		Action: a.Kind.String(), Why: a.Why, Result: a.Result}
	if a.Err != nil {
		m.Result, m.Error = "failed", a.Err.Error()
	}
	if !a.Since.IsZero() {
		m.PreparedMs = a.Since.UnixMilli()
	}
	return m
}

// recover hands a recovery on to the leader, as interceptor does with other calls. err is why it is not done here.
func (r *relay) recover(ctx context.Context, req *concordv1.RecoverRequest,
	out *connect.ServerStream[concordv1.RecoverResponse], err error) error {
	var to *txn.NotLeaderError
	if header := out.Conn().RequestHeader(); !errors.As(err, &to) || to.API == "" ||
		header.Get(api.RedirectHeader) != "" || header.Get(api.HandedOnHeader) != "" {
		return err
	}
	in, err := r.leader(to.API).Recover(ctx, req)
	if err != nil {
		return leaderError(to, err)
	}
	defer in.Close()
	out.ResponseHeader().Set(api.HandedOnHeader, r.name())
	for in.Receive() {
		if err := out.Send(in.Msg()); err != nil {
			return err
		}
	}
	if err := in.Err(); err != nil {
		return leaderError(to, err)
	}
	return nil
}
