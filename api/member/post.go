// SPDX-License-Identifier: Apache-2.0

package member

import (
	"context"
	"crypto/tls"
	"net/http"
	"time"

	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/api/concord/v1/concordv1connect"
)

// Post carries requests to agents over HTTP. Its methods may be called concurrently.
type Post struct {
	http   *http.Client
	scheme string
}

// NewPost makes a Post that encrypts with c, or not at all if that is nil.
func NewPost(c *tls.Config) *Post {
	p := &Post{http: &http.Client{Transport: api.HTTP2(c, time.Minute)}, scheme: "http://"}
	if c != nil {
		p.scheme = "https://"
	}
	return p
}

// Deliver implements Deliver, for the addresses of agents.
func (p *Post) Deliver(ctx context.Context, addr string, r *concordv1.DeliverRequest) error {
	_, err := concordv1connect.NewParticipantServiceClient(p.http, p.scheme+addr).Deliver(ctx, r)
	return err
}

// Close closes idle connections.
func (p *Post) Close() { p.http.CloseIdleConnections() }
