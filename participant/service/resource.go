// SPDX-License-Identifier: Apache-2.0

package service

import (
	"context"
	"fmt"

	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/participant/statement"
	"github.com/concordtx/concord/txn"
)

// maxForgotten is how many branches one call forgets.
const maxForgotten = 10_000

func (h *handlers) CheckHosted(ctx context.Context, r *concordv1.CheckHostedRequest) (*concordv1.CheckHostedResponse,
	error) {
	d, err := h.database(r.GetResource())
	if err != nil {
		return nil, err
	}
	report, err := d.Check(ctx)
	if err != nil {
		return nil, txn.Unavailablef("resource %s: %w", d.Name(), err)
	}
	m := &concordv1.CheckHostedResponse{Version: report.Version, NotBranch: report.NotBranch}
	for _, f := range report.Findings {
		m.Findings = append(m.Findings, &concordv1.Finding{What: f.What, Detail: f.Detail, Problem: f.Problem,
			Fix: f.Fix})
	}
	return m, nil
}

func (h *handlers) Evidence(ctx context.Context, r *concordv1.EvidenceRequest) (*concordv1.EvidenceResponse, error) {
	d, err := h.database(r.GetResource())
	if err != nil {
		return nil, err
	}
	var after txn.XID
	if r.GetAfter() != nil {
		if after, err = api.ParseBranchName("after", r.GetAfter()); err != nil {
			return nil, err
		}
	}
	list, err := d.Evidence(ctx, after)
	if err != nil {
		return nil, txn.Unavailablef("resource %s: %w", d.Name(), err)
	}
	m := &concordv1.EvidenceResponse{}
	for _, x := range list {
		m.Branches = append(m.Branches, api.BranchName(x))
	}
	return m, nil
}

func (h *handlers) ForgetEvidence(ctx context.Context,
	r *concordv1.ForgetEvidenceRequest) (*concordv1.ForgetEvidenceResponse, error) {
	d, err := h.database(r.GetResource())
	if err != nil {
		return nil, err
	}
	if n := len(r.GetBranches()); n > maxForgotten {
		return nil, invalid("branches", "are %d, at most %d are allowed", n, maxForgotten)
	}
	var xs []txn.XID
	for i, m := range r.GetBranches() {
		x, err := api.ParseBranchName(fmt.Sprintf("branches[%d]", i), m)
		if err != nil {
			return nil, err
		}
		xs = append(xs, x)
	}
	// Whatever was found of these branches is durable before nobody can find it again.
	if err := h.agent.Sync(ctx); err != nil {
		return nil, refused(err)
	}
	if err := d.Forget(ctx, xs); err != nil {
		return nil, txn.Unavailablef("resource %s: %w", d.Name(), err)
	}
	return &concordv1.ForgetEvidenceResponse{}, nil
}

func (h *handlers) database(name string) (statement.Database, error) {
	for _, d := range h.agent.Databases() {
		if d.Name() == name {
			return d, nil
		}
	}
	return nil, txn.NotFoundf("the agent %q hosts no resource %.80q: add it to \"resources\" in its configuration",
		h.agent.Name(), name)
}
