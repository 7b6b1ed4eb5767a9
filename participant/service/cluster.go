// SPDX-License-Identifier: Apache-2.0

package service

import (
	"context"
	"errors"
	"time"

	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/api/member"
	"github.com/concordtx/concord/participant"
	"github.com/concordtx/concord/txn"
)

// Cluster asks the coordinators through a client.
func Cluster(c *api.Client) participant.Cluster { return cluster{c} }

// Deliver carries messages of an agent to other members: to agents by post, to the cluster through
// the client.
func Deliver(c *api.Client, post *member.Post) member.Deliver {
	return func(ctx context.Context, addr string, r *concordv1.DeliverRequest) error {
		if addr != "" {
			return post.Deliver(ctx, addr, r)
		}
		_, err := c.Deliver(ctx, r)
		return err
	}
}

type cluster struct{ api *api.Client }

func (c cluster) Identify(ctx context.Context) (txn.ClusterID, time.Duration, error) {
	r, err := c.api.Identify(ctx)
	if err != nil {
		return 0, 0, err
	}
	id, err := api.ParseCluster("cluster", r.GetCluster())
	return id, time.Duration(r.GetMaxTransactionMs()) * time.Millisecond, err
}

func (c cluster) Decision(ctx context.Context, of txn.ClusterID, id txn.ID, settle bool) (txn.Decision, []txn.Branch,
	error) {
	if settle {
		// A branch at an agent is one of several, or its caller recorded the decision: no database
		// decided the transaction alone.
		r, err := c.api.Outcome(ctx, &concordv1.OutcomeRequest{Gid: id.String(), Cluster: of.String(), Several: true})
		if err != nil {
			return txn.Undecided, nil, err
		}
		o, err := api.ParseOutcome("outcome", r.GetOutcome())
		if err != nil || o == txn.Committed || o.Heuristic() { // the record says what was decided, and its branches
			return c.recorded(ctx, id)
		}
		return decisionOf(o), nil, nil
	}
	return c.recorded(ctx, id)
}

// recorded asks what the record says, and changes nothing.
func (c cluster) recorded(ctx context.Context, id txn.ID) (txn.Decision, []txn.Branch, error) {
	r, err := c.api.Get(ctx, &concordv1.GetRequest{Gid: id.String()})
	if errors.Is(err, txn.ErrNotFound) {
		return txn.Undecided, nil, nil
	}
	if err != nil {
		return txn.Undecided, nil, err
	}
	x := r.GetTransaction()
	var branches []txn.Branch
	for _, b := range x.GetBranches() {
		branches = append(branches, txn.Branch{No: txn.BranchNo(b.GetNo()), Resource: b.GetResource(),
			Evidence: b.GetEvidence(), Holder: b.GetHolder()})
	}
	switch x.GetState() {
	case "committing", "committed":
		return txn.Commit, branches, nil
	case "aborting", "aborted":
		return txn.Abort, branches, nil
	}
	o, err := api.ParseOutcome("outcome", x.GetOutcome())
	return decisionOf(o), branches, err
}

// decisionOf is the decision that an outcome comes from, where there is only one.
func decisionOf(o txn.Outcome) txn.Decision {
	switch o {
	case txn.Committed:
		return txn.Commit
	case txn.Aborted:
		return txn.Abort
	}
	return txn.Undecided
}

func (c cluster) Finished(ctx context.Context, x txn.XID, f txn.Finish) error {
	_, err := c.api.Finished(ctx, api.FinishedRequest([]api.Finished{{ID: x.ID, No: x.Branch, Finish: f}}))
	return err
}
