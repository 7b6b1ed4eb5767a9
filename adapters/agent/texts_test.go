// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"regexp"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/api/concord/v1/concordv1connect"
	"github.com/concordtx/concord/internal/said"
	"github.com/concordtx/concord/txn"
)

// answers are what an agent says; nil: the call is not expected.
type answers struct {
	concordv1connect.ParticipantServiceClient
	described *concordv1.DescribeResponse
	listed    *concordv1.ListBranchesResponse
	voted     *concordv1.PrepareResponse
	finished  *concordv1.FinishResponse
	err       error // of all calls
}

func (a *answers) Describe(context.Context, *concordv1.DescribeRequest) (*concordv1.DescribeResponse, error) {
	return a.described, a.err
}

func (a *answers) ListBranches(context.Context, *concordv1.ListBranchesRequest) (*concordv1.ListBranchesResponse,
	error) {
	return a.listed, a.err
}

func (a *answers) Prepare(context.Context, *concordv1.PrepareRequest) (*concordv1.PrepareResponse, error) {
	return a.voted, a.err
}

func (a *answers) Finish(context.Context, *concordv1.FinishRequest) (*concordv1.FinishResponse, error) {
	return a.finished, a.err
}

func (a *answers) CheckHosted(context.Context, *concordv1.CheckHostedRequest) (*concordv1.CheckHostedResponse, error) {
	return nil, a.err
}

// resource is the database "orders" at that agent.
func (a *answers) resource() *Resource {
	c := &Client{addr: "10.0.0.1:7430", stub: a}
	c.line.Token, c.line.Call, c.line.Open = options{}.token, c.call, func(context.Context) (line, error) {
		return nil, errors.New("no streams")
	}
	return New("orders", c)
}

// branch is one there that has sent one piece of work.
func (a *answers) branch() *session {
	s := newSession(a.resource().client, "orders", txn.XID{Cluster: 7, ID: txn.NewID(time.Now()), Branch: 3})
	s.number, s.life = 1, life{name: "east", journal: "j1", epoch: 1}
	return s
}

// message is an error that whoever has a database behind an agent can meet: how to get it, what it says,
// and what it wraps.
type message struct {
	name string
	meet func(*testing.T) error
	says string
	is   error
}

// voting is what a vote says.
func voting(m *concordv1.PrepareResponse) func(*testing.T) error {
	return func(t *testing.T) error {
		_, _, err := (&answers{voted: m}).branch().Prepare(t.Context())
		return err
	}
}

var messages = []message{
	{name: "an address that is none", is: txn.ErrInvalid, meet: func(*testing.T) error {
		_, err := Dial("localhost")
		return err
	}, says: `addr: "localhost" is not host:port, such as 127.0.0.1:7430`},
	{name: "an agent that does not answer", is: txn.ErrUnavailable, meet: func(t *testing.T) error {
		a := &answers{err: connect.NewError(connect.CodeUnavailable, errors.New("connection refused"))}
		_, err := a.resource().Identity(t.Context())
		return err
	}, says: "agent at 10.0.0.1:7430: describe: connection refused"},
	{name: "a database that does not answer the agent", meet: func(t *testing.T) error {
		a := &answers{described: &concordv1.DescribeResponse{Name: "east", Resources: []*concordv1.HostedResource{
			{Name: "orders", Error: "connection refused"}}}}
		_, err := a.resource().Identity(t.Context())
		return err
	}, says: `agent "east": resource orders: connection refused: run "concord resource check orders"`},
	{name: "a database that the agent does not have", meet: func(t *testing.T) error {
		_, err := (&answers{described: &concordv1.DescribeResponse{Name: "east"}}).resource().Identity(t.Context())
		return err
	}, says: `the agent "east" at 10.0.0.1:7430 hosts no resource "orders": add it to "resources" in its ` +
		`configuration`},
	{name: "what Check finds of a database that the agent does not have", meet: func(t *testing.T) error {
		a := &answers{err: connect.NewError(connect.CodeNotFound, errors.New("no"))}
		report, err := a.resource().Check(t.Context())
		require.NoError(t, err)
		return errors.New(report.Findings[0].Detail + "; " + report.Findings[0].Fix)
	}, says: `the agent at 10.0.0.1:7430 hosts no resource "orders"; add it to "resources" in the agent's ` +
		`configuration, or correct "addr"`},
	{name: "a list that is too long", meet: func(t *testing.T) error {
		_, err := (&answers{listed: &concordv1.ListBranchesResponse{More: true}}).resource().Recover(t.Context())
		return err
	}, says: "agent at 10.0.0.1:7430: list orders: it has more than 10000 branches, and no more are shown until " +
		"some of these have ended"},

	{name: "another request at the same time", is: ErrNotSent, meet: func(t *testing.T) error {
		s := new(answers).branch()
		<-s.turn
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := s.work(ctx, "execute", nil)
		return err
	}, says: "another request is under way in this branch: wait for its answer before you send the next one: " +
		"context canceled"},
	{name: "a statement that the agent does not take", is: ErrNotSent, meet: func(t *testing.T) error {
		_, err := new(answers).branch().work(t.Context(), "execute", func(context.Context, *concordv1.BranchAddress,
			uint64) (*concordv1.ExecuteResponse, error) {
			return &concordv1.ExecuteResponse{NotSent: true, Error: "the text contains no statement: nothing was " +
				"sent; send one"}, nil
		})
		return err
	}, says: "orders: the text contains no statement: nothing was sent; send one"},
	{name: "a branch of which an answer was lost", is: context.Canceled, meet: func(t *testing.T) error {
		s := new(answers).branch()
		ctx, cancel := context.WithCancel(t.Context())
		_, err := s.work(ctx, "execute", func(context.Context, *concordv1.BranchAddress, uint64) (
			*concordv1.ExecuteResponse, error) {
			cancel()
			return nil, ctx.Err()
		})
		require.EqualError(t, err, "orders: agent at 10.0.0.1:7430: execute: context canceled")
		_, err = s.work(t.Context(), "execute", nil)
		return err
	}, says: "orders: the branch cannot continue, roll the transaction back and begin a new one: agent at " +
		"10.0.0.1:7430: execute: context canceled"},
	{name: "a vote while a statement runs", is: errUnderWay, meet: func(t *testing.T) error {
		s := new(answers).branch()
		s.flying = true
		_, _, err := s.Prepare(t.Context())
		return err
	}, says: "orders: a statement is still running: wait for its answer before you commit the transaction"},
	{name: "a vote without a statement that was refused", meet: func(t *testing.T) error {
		s := new(answers).branch()
		_, err := s.work(t.Context(), "execute", func(context.Context, *concordv1.BranchAddress, uint64) (
			*concordv1.ExecuteResponse, error) {
			return nil, connect.NewError(connect.CodePermissionDenied, errors.New("no such grant"))
		})
		require.NotErrorIs(t, err, ErrNotSent)
		vote, _, err := s.Prepare(t.Context())
		require.Equal(t, txn.VoteNo, vote)
		return err
	}, says: "orders: agent at 10.0.0.1:7430: execute: no such grant"},
	{name: "a vote without a statement for which no agent was found", is: txn.ErrUnavailable, meet: func(
		t *testing.T) error {
		a := &answers{err: connect.NewError(connect.CodeUnavailable, errors.New("connection refused"))}
		s := newSession(a.resource().client, "orders", txn.XID{Cluster: 7, ID: txn.NewID(time.Now()), Branch: 3})
		_, err := (&Branch{s}).Execute(t.Context(), Statement{Text: "get x"})
		require.NotErrorIs(t, err, ErrNotSent)
		require.NoError(t, s.Rollback(t.Context()), "it holds nothing")
		vote, _, err := s.Prepare(t.Context())
		require.Equal(t, txn.VoteNo, vote)
		return err
	}, says: "orders: agent at 10.0.0.1:7430: describe: connection refused"},
	{name: "a vote of no", meet: voting(&concordv1.PrepareResponse{Vote: "no", Reason: "a statement failed"}),
		says: "orders: a statement failed"},
	{name: "a vote of another agent", meet: voting(&concordv1.PrepareResponse{Vote: "yes", Name: "west",
		Journal: "j2"}), says: `orders: the vote comes from the agent "west" with the journal j2, but the branch ` +
		`was opened at "east" with j1: find out which of them runs at 10.0.0.1:7430`},
	{name: "a vote for another branch", meet: voting(&concordv1.PrepareResponse{Vote: "yes", Name: "east",
		Journal: "j1", Branch: &concordv1.Branch{No: 4, Resource: "orders"}}),
		says: "agent at 10.0.0.1:7430: prepare orders: the vote names another branch: run the newest version of " +
			"concord on the agent"},
	{name: "three phases at an agent of an earlier version", meet: func(*testing.T) error {
		_, _, _, err := new(answers).branch().Claim()
		return err
	}, says: "agent at 10.0.0.1:7430: claim orders: the agent named no journal, or its last answer had no digest: " +
		"it runs another version; run the newest version of concord on the agent"},
	{name: "a branch that somebody has committed", is: adapters.ErrTorn, meet: func(t *testing.T) error {
		a := &answers{finished: &concordv1.FinishResponse{Finish: txn.Contradicted.String()}}
		return a.branch().Rollback(t.Context())
	}, says: "orders: somebody has committed the branch: part of the branch may be committed"},
	{name: "an argument that is none", is: ErrNotSent, meet: func(t *testing.T) error {
		_, err := (&Branch{new(answers).branch()}).Execute(t.Context(), Statement{Args: []any{1i}})
		return err
	}, says: "an argument of type complex128 cannot be sent: use nil, bool, a number, string, []byte, time.Time, " +
		"agent.Decimal, agent.Time or json.RawMessage"},
}

var anID = regexp.MustCompile(`\b[0-7][0-9A-HJKMNP-TV-Z]{25}\b`)

func TestWhatErrorsSay(t *testing.T) {
	for _, m := range messages {
		t.Run(m.name, func(t *testing.T) {
			err := m.meet(t)
			require.Error(t, err)
			require.Equal(t, m.says, anID.ReplaceAllString(err.Error(), "GID"))
			require.True(t, m.is == nil || errors.Is(err, m.is))
		})
	}
}

// Who writes another error finds out here that its text has to be looked at by everybody.
func TestEveryErrorHasARow(t *testing.T) {
	var rows []string
	for _, m := range messages {
		rows = append(rows, m.says)
	}
	said.Check(t, rows, map[string]string{
		"the statement was not sent": "what errors.Is is asked for: what wraps it says why",
		"%w: a branch at an agent is committed only by a decision of the cluster": "cannot be met: NeedsDecision " +
			"keeps the client from asking for that",
	})
}
