// SPDX-License-Identifier: Apache-2.0

package server

import (
	"testing"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	concordv1 "github.com/concordtx/concord/api/concord/v1"
)

func TestMembersThatNobodyCanAdd(t *testing.T) {
	n := newFake()
	client := serve(t, n, nil).stub(t)
	good := &concordv1.AddMemberRequest{Node: 4, Role: "voter", Peer: "a:1", Api: "a:2", Key: "k", Who: "ann",
		Reason: "why"}
	_, err := client.AddMember(t.Context(), good)
	require.NoError(t, err)
	n.calls = nil
	for name, spoil := range map[string]func(*concordv1.AddMemberRequest){
		"node":      func(r *concordv1.AddMemberRequest) { r.Node = 0 },
		"role":      func(r *concordv1.AddMemberRequest) { r.Role = "learner" },
		"peer":      func(r *concordv1.AddMemberRequest) { r.Peer = "a" },
		"api":       func(r *concordv1.AddMemberRequest) { r.Api = ":7420" },
		"peer, api": func(r *concordv1.AddMemberRequest) { r.Api = r.Peer },
		"reason":    func(r *concordv1.AddMemberRequest) { r.Reason = "" },
		"key":       func(r *concordv1.AddMemberRequest) { r.Key = string(make([]byte, 100)) },
	} {
		r := proto.CloneOf(good)
		spoil(r)
		_, err := client.AddMember(t.Context(), r)
		require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err), "%s: %v", name, err)
		require.ErrorContains(t, err, name)
	}
	require.Empty(t, n.calls)
}
