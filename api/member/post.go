// SPDX-License-Identifier: Apache-2.0

package member

import (
	"context"
	"net/http"
	"time"

	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/api/concord/v1/concordv1connect"
	"github.com/concordtx/concord/security"
)

// Post carries requests to agents over HTTP. Its methods may be called concurrently.
type Post struct {
	http   *http.Client
	scheme string
}

// NewPost makes a Post that shows agents who calls, and believes none that is not one of the cluster; nil:
// it calls in plain.
func NewPost(keys *security.Keys) *Post {
	if keys == nil {
		return &Post{http: &http.Client{Transport: api.HTTP2(nil, time.Minute)}, scheme: "http://"}
	}
	return &Post{http: &http.Client{Transport: api.HTTP2(keys.AgentClient, time.Minute)}, scheme: "https://"}
}

// Deliver implements Deliver, for the addresses of agents.
func (p *Post) Deliver(ctx context.Context, addr string, r *concordv1.DeliverRequest) error {
	_, err := concordv1connect.NewParticipantServiceClient(p.http, p.scheme+addr).Deliver(ctx, r)
	return err
}

// Close closes idle connections.
func (p *Post) Close() { p.http.CloseIdleConnections() }
