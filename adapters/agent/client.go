// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/api/concord/v1/concordv1connect"
	"github.com/concordtx/concord/security"
)

const (
	// answerTimeout bounds a call that waits for no statement.
	answerTimeout = 15 * time.Second
	// maxAnswerBytes bounds what an agent answers: its own limit for rows, and what is around them.
	maxAnswerBytes = 16 << 20
)

// Client calls one agent. All its methods and those of its resources may be called concurrently.
type Client struct {
	addr string
	http *http.Client
	stub concordv1connect.ParticipantServiceClient
	line api.Line[*concordv1.NumberedWork, *concordv1.NumberedResult]

	mu   sync.Mutex
	life life // as last described; the zero life is none
}

// life is one life of an agent: what it opens ends with it, unless it was prepared.
type life struct {
	name    string
	journal string
	epoch   uint32
	addr    string // where others find the agent
}

// Option configures a Client.
type Option func(*options)

type options struct {
	tls         *tls.Config
	credentials *security.Credentials
}

// WithCredentials shows agents who calls, and believes none that is not one of the cluster; nil:
// connections are plain.
func WithCredentials(c *security.Credentials) Option { return func(o *options) { o.credentials = c } }

// WithTLS encrypts every connection.
func WithTLS(c *tls.Config) Option { return func(o *options) { o.tls = c } }

// Dial makes a client of the agent at "host:port". It opens no connection yet. The error wraps
// txn.ErrInvalid.
func Dial(addr string, opts ...Option) (*Client, error) {
	var o options
	for _, opt := range opts {
		opt(&o)
	}
	if !api.Dialable(addr) {
		return nil, &api.FieldError{Field: "addr",
			Detail: fmt.Sprintf("%.80q is not host:port, such as 127.0.0.1:7430", addr)}
	}
	scheme := "http://"
	if o.tls != nil || o.credentials != nil {
		scheme = "https://"
	}
	c := &Client{addr: addr, http: &http.Client{Transport: o.transport()}}
	c.stub = concordv1connect.NewParticipantServiceClient(c.http, scheme+addr, connect.WithReadMaxBytes(maxAnswerBytes),
		connect.WithInterceptors(api.Traced()))
	c.line.Token, c.line.Call, c.line.Open = o.token, c.call, c.open
	return c, nil
}

func (o options) transport() http.RoundTripper {
	if o.credentials == nil {
		return api.HTTP2(api.Fixed(o.tls), time.Minute)
	}
	return api.Bearer(api.HTTP2(o.credentials.AgentClient, time.Minute), o.credentials.Token)
}

func (o options) token() string {
	if o.credentials == nil {
		return ""
	}
	return o.credentials.Token()
}

// Addr returns the address of the agent.
func (c *Client) Addr() string { return c.addr }

// Close closes the stream of requests and idle connections.
func (c *Client) Close() error {
	c.line.Close()
	c.http.CloseIdleConnections()
	return nil
}

// describe asks the agent who it is, and in which life.
func (c *Client) describe(ctx context.Context) (*concordv1.DescribeResponse, life, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	m, err := c.stub.Describe(ctx, &concordv1.DescribeRequest{})
	if err != nil {
		return nil, life{}, c.failed("describe", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.life = life{name: m.GetName(), journal: m.GetJournal(), epoch: m.GetEpoch(), addr: m.GetAddr()}
	if c.life.addr == "" {
		c.life.addr = c.addr
	}
	return m, c.life, nil
}

// current returns the life that branches are opened in, as far as is known.
func (c *Client) current(ctx context.Context) (life, error) {
	c.mu.Lock()
	l := c.life
	c.mu.Unlock()
	if l.journal != "" {
		return l, nil
	}
	_, l, err := c.describe(ctx)
	return l, err
}

// failed says which agent did not do what.
func (c *Client) failed(what string, err error) error {
	return fmt.Errorf("agent at %s: %s: %w", c.addr, what, api.FromStatus(err))
}
