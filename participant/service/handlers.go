// SPDX-License-Identifier: Apache-2.0

package service

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/api/concord/v1/concordv1connect"
	"github.com/concordtx/concord/api/member"
	"github.com/concordtx/concord/participant"
	"github.com/concordtx/concord/participant/statement"
	"github.com/concordtx/concord/security/access"
	"github.com/concordtx/concord/txn"
)

// handlers validate a request, ask the agent and translate the answer.
type handlers struct {
	agent *participant.Agent
	calls *calls
}

var _ concordv1connect.ParticipantServiceHandler = (*handlers)(nil)

// identifyTime is how long a database may take to say which one it is.
const identifyTime = 3 * time.Second

func (h *handlers) Describe(ctx context.Context, _ *concordv1.DescribeRequest) (*concordv1.DescribeResponse, error) {
	open, cluster, err := h.agent.Opened(ctx)
	if err != nil {
		return nil, refused(err)
	}
	rules, life := h.agent.Rules(), h.agent.Life()
	m := &concordv1.DescribeResponse{
		Name: h.agent.Name(), Journal: life.Journal.String(), Epoch: uint32(life.Epoch),
		Addr: h.agent.Addr(), Open: uint32(open), MaxOpen: uint32(rules.MaxOpen),
		SilenceMs: rules.Silence.Milliseconds(),
	}
	if cluster != 0 {
		m.Cluster = cluster.String()
	}
	ctx, cancel := context.WithTimeout(ctx, identifyTime)
	defer cancel()
	var group sync.WaitGroup
	for _, d := range h.agent.Databases() {
		r := &concordv1.HostedResource{Name: d.Name(), Driver: d.Driver()}
		m.Resources = append(m.Resources, r)
		group.Go(func() {
			identity, err := d.Identity(ctx)
			if r.Identity = identity; err != nil {
				r.Error = err.Error()
			}
		})
	}
	group.Wait()
	return m, nil
}

func (h *handlers) Execute(ctx context.Context, r *concordv1.ExecuteRequest) (*concordv1.ExecuteResponse, error) {
	args, err := parseValues(r.GetArguments())
	if err != nil {
		return nil, err
	}
	for _, d := range []struct {
		field string
		ms    int64
	}{{"timeout_ms", r.GetTimeoutMs()}, {"silence_ms", r.GetSilenceMs()}} {
		if d.ms < 0 || d.ms > participant.MaxTimeout.Milliseconds() {
			return nil, invalid(d.field, "is %d, want 0 to %d", d.ms, participant.MaxTimeout.Milliseconds())
		}
	}
	return h.do(ctx, r.GetBranch(), r.GetNumber(), participant.WorkAsked{
		Work: statement.Work{Verb: statement.Execute, Text: r.GetStatement(), Args: args},
		Limits: statement.Limits{Rows: min(int(r.GetMaxRows()), statement.DefaultRows),
			Bytes: min(int(r.GetMaxBytes()), statement.DefaultBytes)},
		Timeout: time.Duration(r.GetTimeoutMs()) * time.Millisecond,
		Silence: time.Duration(r.GetSilenceMs()) * time.Millisecond,
	})
}

func (h *handlers) Savepoint(ctx context.Context, r *concordv1.SavepointRequest) (*concordv1.ExecuteResponse, error) {
	return h.do(ctx, r.GetBranch(), r.GetNumber(),
		participant.WorkAsked{Work: statement.Work{Verb: statement.Savepoint, Text: r.GetName()}})
}

func (h *handlers) RollbackTo(ctx context.Context, r *concordv1.RollbackToRequest) (*concordv1.ExecuteResponse, error) {
	return h.do(ctx, r.GetBranch(), r.GetNumber(),
		participant.WorkAsked{Work: statement.Work{Verb: statement.RollbackTo, Text: r.GetName()}})
}

func (h *handlers) do(ctx context.Context, address *concordv1.BranchAddress, number uint64,
	e participant.WorkAsked) (*concordv1.ExecuteResponse, error) {
	var err error
	if e.Branch, e.Life, err = parseLife(address); err != nil {
		return nil, err
	}
	if err := mayWork(ctx, e.Branch.Resource); err != nil {
		return nil, err
	}
	if err := parseNumber(number); err != nil {
		return nil, err
	}
	e.Number = number
	answer, err := h.agent.Do(ctx, e)
	if err != nil {
		return nil, refused(err)
	}
	return answerMessage(answer), nil
}

func (h *handlers) Prepare(ctx context.Context, r *concordv1.PrepareRequest) (*concordv1.PrepareResponse, error) {
	e := participant.PrepareAsked{Number: r.GetNumber()}
	var err error
	if e.Branch, e.Life, err = parseLife(r.GetBranch()); err != nil {
		return nil, err
	}
	if err := mayWork(ctx, e.Branch.Resource); err != nil {
		return nil, err
	}
	if e.Digest, err = parseDigest(r.GetDigest()); err != nil {
		return nil, err
	}
	if ms := r.GetDecideByMs(); ms < 0 || ms > participant.MaxVoting.Milliseconds() {
		return nil, invalid("decide_by_ms", "is %d, want 0 to %d", ms, participant.MaxVoting.Milliseconds())
	}
	e.DecideBy = time.Duration(r.GetDecideByMs()) * time.Millisecond
	cast, err := h.agent.Prepare(ctx, e)
	if err != nil {
		return nil, refused(err)
	}
	life := h.agent.Life()
	m := &concordv1.PrepareResponse{Vote: cast.Vote.String(), Reason: cast.Reason, Torn: cast.Torn,
		Name: h.agent.Name(), Journal: life.Journal.String(), Epoch: uint32(life.Epoch)}
	if cast.Vote == txn.VoteYes {
		m.Branch = branchMessage(cast.Branch)
	}
	return m, nil
}

func (h *handlers) Finish(ctx context.Context, r *concordv1.FinishRequest) (*concordv1.FinishResponse, error) {
	var e participant.Decided
	var err error
	if e.Branch, _, err = parseAddress(r.GetBranch()); err != nil {
		return nil, err
	}
	if err := mayWork(ctx, e.Branch.Resource); err != nil {
		return nil, err
	}
	if e.Decision, err = api.ParseDecision("decision", r.GetDecision()); err != nil {
		return nil, err
	}
	if r.GetRecord() != nil {
		records, err := api.ParseBranches("record", []*concordv1.Branch{r.GetRecord()})
		if err != nil {
			return nil, err
		}
		if e.Record = records[0]; e.Record.No != e.Branch.XID.Branch || e.Record.Resource != e.Branch.Resource {
			return nil, invalid("record",
				"is of branch %d in %q, but the request is about branch %d in %q: send the record of that branch",
				e.Record.No, e.Record.Resource, e.Branch.XID.Branch, e.Branch.Resource)
		}
		if err := h.agent.Validate(e.Record); err != nil {
			return nil, invalid("record", "%v", err)
		}
	}
	found, err := h.agent.Finish(ctx, e)
	if err != nil {
		return nil, refused(err)
	}
	return &concordv1.FinishResponse{Finish: found.String()}, nil
}

func (h *handlers) Deliver(ctx context.Context, r *concordv1.DeliverRequest) (*concordv1.DeliverResponse, error) {
	cluster, envelopes, err := member.Parse(r)
	if err != nil {
		return nil, err
	}
	if err := member.From(access.Of(ctx), envelopes); err != nil {
		return nil, err
	}
	if err := h.agent.Deliver(ctx, cluster, envelopes); err != nil {
		return nil, refused(err)
	}
	return &concordv1.DeliverResponse{}, nil
}

const defaultBranches, maxBranches = 1000, 10_000

func (h *handlers) ListBranches(ctx context.Context, r *concordv1.ListBranchesRequest) (*concordv1.ListBranchesResponse,
	error) {
	var id txn.ID
	if r.GetGid() != "" {
		var err error
		if id, err = api.ParseID("gid", r.GetGid()); err != nil {
			return nil, err
		}
	}
	limit := int(r.GetLimit())
	if limit == 0 {
		limit = defaultBranches
	}
	if limit > maxBranches {
		return nil, invalid("limit", "is %d, at most %d are allowed", limit, maxBranches)
	}
	states, err := h.agent.States(ctx, id)
	if err != nil {
		return nil, refused(err)
	}
	if r.GetResource() != "" {
		if _, err := h.database(r.GetResource()); err != nil {
			return nil, err
		}
	}
	m := &concordv1.ListBranchesResponse{}
	var list []*concordv1.AgentBranch
	for _, s := range states {
		if r.GetResource() == "" || s.Branch.Resource == r.GetResource() {
			list = append(list, stateMessage(s))
		}
	}
	if r.GetFresh() {
		list, m.Warnings = h.fresh(ctx, id, r.GetResource(), list)
	}
	m.More = len(list) > limit
	m.Branches = list[:min(limit, len(list))]
	return m, nil
}

// fresh adds what the databases list.
func (h *handlers) fresh(ctx context.Context, id txn.ID, resource string,
	list []*concordv1.AgentBranch) ([]*concordv1.AgentBranch, []string) {
	listed, warnings := h.agent.Listed(ctx, resource)
	for _, d := range h.agent.Databases() {
		for _, p := range listed[d.Name()] {
			if !id.IsZero() && p.XID.ID != id {
				continue
			}
			gid, no, cluster := p.XID.ID.String(), uint32(p.XID.Branch), p.XID.Cluster.String()
			i := slices.IndexFunc(list, func(b *concordv1.AgentBranch) bool {
				return b.GetGid() == gid && b.GetNo() == no && b.GetCluster() == cluster
			})
			if i < 0 {
				i = len(list)
				list = append(list, &concordv1.AgentBranch{Cluster: cluster, Gid: gid, No: no, Resource: d.Name(),
					Phase: "listed"})
			}
			if !p.Since.IsZero() {
				list[i].PreparedMs = p.Since.UnixMilli()
			}
		}
	}
	return list, warnings
}

// refused gives a refusal its sentinel, which api.ToStatus makes a code of.
func refused(err error) error {
	r := (*participant.Refusal)(nil)
	if !errors.As(err, &r) {
		return err
	}
	kind := map[participant.RefusalKind]error{
		participant.Invalid: txn.ErrInvalid, participant.Refused: txn.ErrRefused, participant.Unknown: txn.ErrNotFound,
		participant.Busy: txn.ErrBusy, participant.Unavailable: txn.ErrUnavailable,
	}[r.Kind]
	return &refusal{fmt.Errorf("%w", err), kind}
}

// refusal has the agent's text alone: that names the kind already.
type refusal struct{ text, kind error }

func (r *refusal) Error() string   { return r.text.Error() }
func (r *refusal) Unwrap() []error { return []error{r.text, r.kind} }
