// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/txn"
)

// Driver is what Resource.Driver returns.
const Driver = "agent"

// Resource is a database that an agent hosts.
type Resource struct {
	name   string
	client *Client
}

var (
	_ adapters.Adapter = (*Resource)(nil)
	_ adapters.Hosted  = (*Resource)(nil)
)

// New makes a resource of the database that the agent hosts under this name. Closing the resource
// closes idle connections of the client.
func New(name string, c *Client) *Resource { return &Resource{name, c} }

// Tx returns the branch of a global transaction in this database.
func (r *Resource) Tx(ctx context.Context, global adapters.Global) (*Branch, error) {
	s, err := global.Enlist(ctx, r)
	if err != nil {
		return nil, err
	}
	return &Branch{s.(*session)}, nil
}

// Name implements adapters.Resource.
func (r *Resource) Name() string { return r.name }

// Driver implements adapters.Resource.
func (r *Resource) Driver() string { return Driver }

// Hosted implements adapters.Hosted.
func (r *Resource) Hosted() string { return r.client.addr }

// Open implements adapters.Opener. The agent hears of the branch with its first request.
func (r *Resource) Open(_ context.Context, x txn.XID) (adapters.Session, error) {
	return newSession(r.client, r.name, x), nil
}

// Identity implements adapters.Resource: the agent and its journal, since only that holds the
// branches, and the database behind it.
func (r *Resource) Identity(ctx context.Context) (string, error) {
	m, _, err := r.client.describe(ctx)
	if err != nil {
		return "", err
	}
	for _, hosted := range m.GetResources() {
		switch {
		case hosted.GetName() != r.name:
		case hosted.GetIdentity() == "":
			return "", fmt.Errorf("agent %q: resource %s: %s: run \"concord resource check %s\"", m.GetName(), r.name,
				hosted.GetError(), r.name)
		default:
			return fmt.Sprintf("agent %s %s: %s %s", m.GetName(), m.GetJournal(), hosted.GetDriver(),
				hosted.GetIdentity()), nil
		}
	}
	return "", fmt.Errorf("the agent %q at %s hosts no resource %q: add it to \"resources\" in its configuration",
		m.GetName(), r.client.addr, r.name)
}

// Commit implements adapters.Resource.
func (r *Resource) Commit(ctx context.Context, x txn.XID, b txn.Branch) (txn.Finish, error) {
	return r.client.finish(ctx, x, r.name, txn.Commit, b)
}

// Rollback implements adapters.Resource.
func (r *Resource) Rollback(ctx context.Context, x txn.XID, b txn.Branch) (txn.Finish, error) {
	return r.client.finish(ctx, x, r.name, txn.Abort, b)
}

// finish tells the agent a decision. Of b evidence and holder are sent if there are any.
func (c *Client) finish(ctx context.Context, x txn.XID, resource string, d txn.Decision, b txn.Branch) (txn.Finish,
	error) {
	r := &concordv1.FinishRequest{Decision: d.String(), Branch: &concordv1.BranchAddress{
		Cluster: x.Cluster.String(), Gid: x.ID.String(), No: uint32(x.Branch), Resource: resource}}
	if b.Evidence != "" || b.Holder != "" {
		b.No, b.Resource = x.Branch, resource
		r.Record = api.BranchMessages([]txn.Branch{b})[0]
	}
	m, err := c.ask(ctx, &concordv1.NumberedWork{Call: &concordv1.NumberedWork_Finish{Finish: r}})
	if err != nil {
		return 0, c.failed(fmt.Sprintf("%v %v", d, x), err)
	}
	found, err := api.ParseFinish("finish", m.GetFinish().GetFinish())
	if err != nil {
		return 0, c.failed(fmt.Sprintf("%v %v", d, x), err)
	}
	return found, nil
}

// Validate implements adapters.Resource. What the database behind the agent says is its affair: the
// agent refuses what it did not write.
func (r *Resource) Validate(txn.Branch) error { return nil }

// listPage is how many branches one call lists; there is no next page, so more are an error.
const listPage = 10_000

// Recover implements adapters.Resource: what the agent holds for a decision, and what else its
// database lists.
func (r *Resource) Recover(ctx context.Context) ([]adapters.Prepared, error) {
	m, err := r.client.stub.ListBranches(ctx,
		&concordv1.ListBranchesRequest{Fresh: true, Limit: listPage, Resource: r.name})
	if err != nil {
		return nil, r.client.failed("list "+r.name, err)
	}
	if len(m.GetWarnings()) > 0 {
		return nil, r.client.failed("list "+r.name, errors.New(strings.Join(m.GetWarnings(), "; ")))
	}
	var list []adapters.Prepared
	for _, b := range m.GetBranches() {
		if b.GetPhase() != "in-doubt" && b.GetPhase() != "listed" {
			continue
		}
		x, err := api.ParseBranchName("branches", b)
		if err != nil {
			return nil, r.client.failed("list "+r.name, err)
		}
		p := adapters.Prepared{XID: x}
		if ms := b.GetPreparedMs(); ms > 0 {
			p.Since = time.UnixMilli(ms)
		}
		list = append(list, p)
	}
	if m.GetMore() {
		return list, r.client.failed("list "+r.name,
			fmt.Errorf("it has more than %d branches, and no more are shown until some of these have ended", listPage))
	}
	return list, nil
}

// Evidence implements adapters.Resource.
func (r *Resource) Evidence(ctx context.Context, after txn.XID) ([]txn.XID, error) {
	q := &concordv1.EvidenceRequest{Resource: r.name}
	if after != (txn.XID{}) {
		q.After = api.BranchName(after)
	}
	m, err := r.client.stub.Evidence(ctx, q)
	if err != nil {
		return nil, r.client.failed("list evidence of "+r.name, err)
	}
	var list []txn.XID
	for _, b := range m.GetBranches() {
		x, err := api.ParseBranchName("branches", b)
		if err != nil {
			return nil, r.client.failed("list evidence of "+r.name, err)
		}
		list = append(list, x)
	}
	return list, nil
}

// Forget implements adapters.Resource.
func (r *Resource) Forget(ctx context.Context, xs []txn.XID) error {
	q := &concordv1.ForgetEvidenceRequest{Resource: r.name}
	for _, x := range xs {
		q.Branches = append(q.Branches, api.BranchName(x))
	}
	if _, err := r.client.stub.ForgetEvidence(ctx, q); err != nil {
		return r.client.failed("forget evidence of "+r.name, err)
	}
	return nil
}

// Check implements adapters.Resource.
func (r *Resource) Check(ctx context.Context) (adapters.Report, error) {
	m, err := r.client.stub.CheckHosted(ctx, &concordv1.CheckHostedRequest{Resource: r.name})
	if connect.CodeOf(err) == connect.CodeNotFound {
		return adapters.Report{Findings: []adapters.Finding{{What: "resource", Problem: true,
			Detail: fmt.Sprintf("the agent at %s hosts no resource %q", r.client.addr, r.name),
			Fix:    "add it to \"resources\" in the agent's configuration, or correct \"addr\""}}}, nil
	}
	if err != nil {
		return adapters.Report{}, r.client.failed("check "+r.name, err)
	}
	report := adapters.Report{Version: m.GetVersion(), NotBranch: m.GetNotBranch(), NotLast: "an agent hosts it, and " +
		"prepares what it holds"}
	for _, f := range m.GetFindings() {
		report.Findings = append(report.Findings,
			adapters.Finding{What: f.GetWhat(), Detail: f.GetDetail(), Problem: f.GetProblem(), Fix: f.GetFix()})
	}
	return report, nil
}

// Close implements adapters.Resource.
func (r *Resource) Close() error { return r.client.Close() }

// Transient implements adapters.Opener. An agent tells the text of an error and not its kind, so none is.
func (r *Resource) Transient(error) bool { return false }
