// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/api"
	"github.com/concordtx/concord/txn"
)

func TestEveryErrorSurvivesTheWayThroughAStatus(t *testing.T) {
	for _, kind := range []error{txn.ErrUnavailable, txn.ErrNotFound, txn.ErrDecided, txn.ErrRefused, txn.ErrBusy,
		txn.ErrInvalid, txn.ErrTooOld, txn.ErrUnauthenticated, txn.ErrDenied, context.DeadlineExceeded,
		context.Canceled} {
		got := api.FromStatus(api.ToStatus(fmt.Errorf("orders: %w", kind)))
		require.ErrorIs(t, got, kind)
		require.EqualError(t, got, "orders: "+kind.Error())
	}
	var notLeader *txn.NotLeaderError
	said := txn.NotLeaderError{Leader: 3, API: "h:1", Untouched: true}
	require.ErrorAs(t, api.FromStatus(api.ToStatus(&said)), &notLeader)
	require.Equal(t, &said, notLeader)
	require.NoError(t, api.FromStatus(api.ToStatus(nil)))
}

func TestAnErrorOfNoKindIsInternal(t *testing.T) {
	err := api.ToStatus(errors.New("disk on fire"))
	require.Equal(t, connect.CodeInternal, connect.CodeOf(err))
	require.ErrorContains(t, api.FromStatus(err), "disk on fire")
}
