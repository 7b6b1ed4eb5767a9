// SPDX-License-Identifier: Apache-2.0

package concord_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/txn"
)

// requireUnsure demands that the cluster was told to abort, and not that no database has committed anything by itself.
func (l *leader) requireUnsure(t *testing.T, id concord.ID) {
	t.Helper()
	l.requireTold(t, id)
	l.mu.Lock()
	defer l.mu.Unlock()
	require.NotContains(t, l.several, id)
}

// Who began it may have committed alone, in one phase, before this service was called: by a call that came late, say.
func TestAServiceIsNotSureThatNothingIsCommitted(t *testing.T) {
	b := newShaky(t)
	b.billing.dropped[callRollback] = 1
	secret := txn.NewSecret()
	p := api.Propagation{Cluster: cluster, Deadline: time.Now().Add(time.Minute), Capability: secret.Capability(), Call: 1,
		ID: txn.NewID(time.Now()).WithCapability(secret.Capability()), Branches: 8}
	header, err := api.Text(p.Message())
	require.NoError(t, err)
	j, err := b.client.Join(t.Context(), header)
	require.NoError(t, err)
	require.NoError(t, b.client.Run(j.Context(), func(ctx context.Context, tx *concord.Tx) error {
		return b.billing.add(ctx, tx, "A", 1)
	}))
	said, err := api.ParseParticipation(j.Leave(nil, ""))
	require.NoError(t, err)
	_, err = b.client.JoinService().Conclude(t.Context(), &concordv1.ConcludeRequest{Gid: p.ID.String(),
		Instance: said.Instance, Decision: txn.Abort.String(), Proof: secret.Proof(txn.Abort)})
	require.NoError(t, err)
	b.requireUnsure(t, p.ID)
}

// deaf is a service that cannot be reached any more.
type deaf struct{}

var errDeaf = api.ToStatus(api.Unavailablef("connection refused"))

func (deaf) Vote(context.Context, *concordv1.VoteRequest) (*concordv1.VoteResponse, error) {
	return nil, errDeaf
}

func (deaf) Conclude(context.Context, *concordv1.ConcludeRequest) (*concordv1.ConcludeResponse, error) {
	return nil, errDeaf
}

// Its application's own SQL may have committed something there.
func TestNobodySpeaksForAServiceThatCannotBeAsked(t *testing.T) {
	b := newShaky(t)
	var id concord.ID
	err := b.client.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
		id = tx.ID()
		call, err := tx.Call(ctx, "stock:80", func(string) (concord.Peer, error) { return deaf{}, nil })
		require.NoError(t, err)
		p, err := api.ParsePropagation(call.Header())
		require.NoError(t, err)
		answer, err := api.Text(api.Participation{Call: p.Call, Instance: p.Path[0], Branches: []api.OpenedBranch{
			{No: p.First, Resource: "stock", Driver: "memory"}}}.Message())
		require.NoError(t, err)
		require.NoError(t, call.Answered(answer))
		return errFunds
	})
	require.ErrorIs(t, err, errFunds)
	b.requireUnsure(t, id)
}

// An answer is lost in the moment of the commit: what was done there is not known, so nothing commits.
func TestACommitDoesNotOvertakeALostAnswer(t *testing.T) {
	b := newShaky(t)
	for range 300 {
		tx, err := b.client.Begin(t.Context())
		require.NoError(t, err)
		require.NoError(t, b.billing.add(t.Context(), tx, "A", 1))
		call, err := tx.Call(t.Context(), "stock:80", nil)
		require.NoError(t, err)
		var lost sync.WaitGroup
		lost.Go(func() { call.Failed(errors.New("connection reset")) })
		require.ErrorIs(t, tx.Commit(t.Context()), concord.ErrAborted)
		lost.Wait()
	}
}
