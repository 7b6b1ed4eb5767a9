// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/api/concord/v1/concordv1connect"
	"github.com/concordtx/concord/coordinator/commit"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/security"
	"github.com/concordtx/concord/txn"
)

// A database may be reached by another member while the leader does not reach it. The leader goes on to list what it
// holds, and to finish it, through that one, which ends a branch only as its own log has it decided. What is kept as
// evidence there stays until the leader reaches it.

// byOtherTimeout bounds one attempt to list what a resource holds through another member.
const byOtherTimeout = 5 * time.Second

// other is another member.
type other struct {
	node     uint64
	cluster  txn.ClusterID
	resource string
	client   concordv1connect.CoordinatorServiceClient
}

// calls is how other members are called.
type calls struct {
	http   *http.Client
	scheme string
}

func newCalls(keys *security.Keys) calls {
	if keys == nil {
		return calls{&http.Client{Transport: api.HTTP2(nil, time.Minute)}, "http://"}
	}
	return calls{&http.Client{Transport: api.HTTP2(keys.NodeClient, time.Minute)}, "https://"}
}

// others are the members through which a resource may be reached.
func (n *Node) others(resource string) (all []other) {
	for _, m := range n.list.Load().Members {
		if zab.NodeID(m.ID) != n.config.Node && m.API != "" {
			all = append(all, other{uint64(m.ID), txn.ClusterID(n.cluster.Load()), resource,
				concordv1connect.NewCoordinatorServiceClient(n.calls.http, n.calls.scheme+m.API)})
		}
	}
	return all
}

// byOther is the member through which the resource is reached now; nil: this node itself.
func (w *worker) byOther() *other {
	if h := w.state(); h.OK || !h.Asked {
		return nil
	}
	return w.through.Load()
}

// listByOther asks the other members, first the one that has answered before.
func (w *worker) listByOther(ctx context.Context) ([]adapters.Prepared, bool) {
	if w.others == nil {
		return nil, false
	}
	was, all := w.through.Load(), w.others()
	slices.SortStableFunc(all, func(a, b other) int {
		switch {
		case was == nil || a.node == b.node:
			return 0
		case a.node == was.node:
			return -1
		case b.node == was.node:
			return 1
		}
		return 0
	})
	for _, o := range all {
		listing, err := o.list(ctx)
		if err != nil {
			w.log.Debug("not reached through another node", "through", o.node, "err", err)
			continue
		}
		if was == nil || was.node != o.node {
			w.log.Warn("this node does not reach the database: another one lists and finishes what it holds", "through",
				o.node)
		}
		w.through.Store(&o)
		return listing, true
	}
	w.through.Store(nil)
	return nil, false
}

func (o *other) list(ctx context.Context) ([]adapters.Prepared, error) {
	ctx, cancel := context.WithTimeout(ctx, byOtherTimeout)
	defer cancel()
	res, err := o.client.ListThrough(ctx, &concordv1.ListThroughRequest{Cluster: o.cluster.String(),
		Resource: o.resource})
	if err != nil {
		return nil, api.FromStatus(err)
	}
	var listing []adapters.Prepared
	for _, m := range res.GetBranches() {
		x, ours := txn.ParseXID(m.GetXid())
		if !ours {
			continue
		}
		p := adapters.Prepared{XID: x, Owner: m.GetOwner(), Last: txn.LastTag(m.GetLast())}
		if at := m.GetPreparedMs(); at != 0 {
			p.Since = time.UnixMilli(at)
		}
		listing = append(listing, p)
	}
	return listing, nil
}

// finish has a form that Commit and Rollback of a resource have, too.
func (o *other) finish(ctx context.Context, x txn.XID, _ txn.Branch) (txn.Finish, error) {
	res, err := o.client.FinishThrough(ctx, &concordv1.FinishThroughRequest{Cluster: x.Cluster.String(),
		Gid: x.ID.String(), No: uint32(x.Branch), Resource: o.resource})
	if err != nil {
		return 0, api.FromStatus(err)
	}
	return api.ParseFinish("finish", res.GetFinish())
}

// workerOf returns the worker of a resource that this node reaches.
func (n *Node) workerOf(resource string) (*worker, error) {
	w := n.workers[resource]
	if w == nil {
		return nil, commit.NoResource(resource)
	}
	if !w.state().OK {
		return nil, txn.Unavailablef("this node does not reach resource %s either: run \"concord resource check %s\"",
			resource, resource)
	}
	return w, nil
}

// ListThrough lists what a resource holds, for a node that does not reach it.
// Errors are txn.ErrNotFound, txn.ErrUnavailable, and those of the database.
func (n *Node) ListThrough(ctx context.Context, resource string) ([]adapters.Prepared, error) {
	w, err := n.workerOf(resource)
	if err != nil {
		return nil, err
	}
	return w.listHere(ctx)
}

// FinishThrough ends a branch as the log has it decided, for a node that does not reach its resource.
// Errors are those of ListThrough and Outcome.
func (n *Node) FinishThrough(ctx context.Context, x txn.XID, resource string) (txn.Finish, error) {
	w, err := n.workerOf(resource)
	if err != nil {
		return 0, err
	}
	r, err := n.Outcome(ctx, txn.Inquiry{ID: x.ID, Cluster: x.Cluster})
	if err != nil {
		return 0, err
	}
	t := commit.Task{XID: x, Branch: txn.Branch{No: x.Branch, Resource: resource}, Decision: r.Txn.Decision}
	for _, b := range r.Txn.Branches {
		if b.No == x.Branch && b.Resource == resource {
			t.Branch = b
		}
	}
	switch e := w.finish(ctx, t).(type) {
	case commit.Finished:
		return e.Finish, nil
	case commit.Failed:
		return 0, txn.Unavailablef("%s", e.Why)
	}
	return 0, nil
}
