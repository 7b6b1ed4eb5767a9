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
)

func TestEveryErrorSurvivesTheWayThroughAStatus(t *testing.T) {
	for _, kind := range []error{api.ErrUnavailable, api.ErrNotFound, api.ErrDecided, api.ErrRefused, api.ErrBusy,
		api.ErrInvalid, api.ErrTooOld, api.ErrUnauthenticated, api.ErrDenied, context.DeadlineExceeded,
		context.Canceled} {
		got := api.FromStatus(api.ToStatus(fmt.Errorf("orders: %w", kind)))
		require.ErrorIs(t, got, kind)
		require.EqualError(t, got, "orders: "+kind.Error())
	}
	var notLeader *api.NotLeaderError
	require.ErrorAs(t, api.FromStatus(api.ToStatus(&api.NotLeaderError{Leader: 3, API: "h:1"})), &notLeader)
	require.Equal(t, &api.NotLeaderError{Leader: 3, API: "h:1"}, notLeader)
	require.NoError(t, api.FromStatus(api.ToStatus(nil)))
}

func TestAnErrorOfNoKindIsInternal(t *testing.T) {
	err := api.ToStatus(errors.New("disk on fire"))
	require.Equal(t, connect.CodeInternal, connect.CodeOf(err))
	require.ErrorContains(t, api.FromStatus(err), "disk on fire")
}
