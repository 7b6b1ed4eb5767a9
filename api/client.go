// SPDX-License-Identifier: Apache-2.0

package api

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"

	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/api/concord/v1/concordv1connect"
	"github.com/concordtx/concord/security"
	"github.com/concordtx/concord/txn"
)

// ClientOptions configure a Client. The zero value works.
type ClientOptions struct {
	// TLS, if not nil, is used for every connection.
	TLS *tls.Config
	// Credentials, if not nil, are who calls and whom it believes; they go before TLS.
	Credentials *security.Credentials
	// Attempt is how long one node may take to answer one call before the next node is
	// asked, default 1.5 s, so that a frozen node does
	// not hold up a fail-over. Calls that work on databases get ten times as long.
	Attempt time.Duration
	// Patience bounds a whole call with all its attempts, default 30 s. The context of
	// the call may end it earlier.
	Patience time.Duration
	// Logger gets a line at debug level for every attempt that failed; nil: none.
	Logger *slog.Logger
}

// maxNodes bounds the nodes that a client remembers: those that it was given and those that
// other nodes named as leader.
const maxNodes = 64

// Client calls a cluster of coordinator nodes: it finds the leader, remembers it, and
// repeats a call on other nodes until one answers. It may do so because every call
// is safe to repeat: the first decision of a gid wins, and the others change nothing
// or only what is still to do. If it cannot reach the leader, other nodes hand its calls
// on. Whichever node answers, it never sees an older state than before. All methods may
// be called concurrently. Their errors are those of status.go, or *NoAnswerError.
type Client struct {
	opts ClientOptions
	seen highWater
	http *http.Client // HTTP/1.1, for calls
	h2   *http.Client // HTTP/2, for streams of commit requests

	mu     sync.Mutex
	given  []string         // as passed to Dial; first choice for questions that any node answers
	nodes  map[string]*node // by address; given, and named as leaders since
	leader string           // the address that answered a leader's call last, or was named; or ""
}

type node struct {
	addr string
	seen *highWater // of the client
	stub concordv1connect.CoordinatorServiceClient
	// commits carries commit requests, over HTTP/2.
	commits Line[*concordv1.CommitRequest, *concordv1.CommitResponse]

	mu         sync.Mutex
	handsOnFor time.Time // until then it may hand on, without being asked where the leader is
}

// commit makes a commit request.
func (n *node) commit(ctx context.Context, r *concordv1.CommitRequest) (*concordv1.CommitResponse, error) {
	if ctx.Value(handOnKey{}) != nil {
		return unary(stub.Commit)(n, ctx, r)
	}
	return n.commits.Ask(ctx, r)
}

// handsOn reports whether the node did hand on what it was asked lately.
func (n *node) handsOn() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return time.Now().Before(n.handsOnFor)
}

// noteHandOn remembers whether a call that the node might hand on was handed on.
func (n *node) noteHandOn(done bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.handsOnFor = time.Time{}
	if done {
		n.handsOnFor = time.Now().Add(plainFor)
	}
}

// Dial makes a client of the nodes at addrs, each "host:port". It opens no connection
// yet. The error wraps txn.ErrInvalid.
func Dial(addrs []string, opts ClientOptions) (*Client, error) {
	if len(addrs) == 0 {
		return nil, invalid("addrs", "is empty, want the address of at least one coordinator node, such as "+
			"127.0.0.1:7420")
	}
	if len(addrs) > maxNodes {
		return nil, invalid("addrs", "holds %d addresses, at most %d are allowed", len(addrs), maxNodes)
	}
	if opts.Attempt == 0 {
		opts.Attempt = 1500 * time.Millisecond
	}
	if opts.Patience == 0 {
		opts.Patience = 30 * time.Second
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	c := &Client{opts: opts, http: &http.Client{Transport: opts.transport(false)},
		h2: &http.Client{Transport: opts.transport(true)}, nodes: make(map[string]*node)}
	for i, addr := range addrs {
		if !Dialable(addr) {
			return nil, invalid(fmt.Sprintf("addrs[%d]", i), "%.80q is not host:port, such as 127.0.0.1:7420", addr)
		}
		if c.nodes[addr] == nil {
			c.given = append(c.given, addr)
			c.nodes[addr] = c.newNode(addr)
		}
	}
	return c, nil
}

func (o ClientOptions) transport(h2 bool) http.RoundTripper {
	switch {
	case o.Credentials != nil:
	case o.TLS != nil:
		return transport(Fixed(o.TLS), h2)
	default:
		return plainly{transport(nil, h2)}
	}
	return Bearer(transport(o.Credentials.NodeClient, h2), o.Credentials.Token)
}

func (c *Client) newNode(addr string) *node {
	scheme := "http://"
	if c.opts.TLS != nil || c.opts.Credentials != nil {
		scheme = "https://"
	}
	// The answers are small and the nodes near: compression would only cost time.
	plain := connect.WithAcceptCompression("gzip", nil, nil)
	token := func() string { return "" }
	if c.opts.Credentials != nil {
		token = c.opts.Credentials.Token
	}
	n := &node{addr: addr, seen: &c.seen, stub: concordv1connect.NewCoordinatorServiceClient(c.http, scheme+addr, plain,
		connect.WithInterceptors(redirecting{}))}
	streaming := concordv1connect.NewCoordinatorServiceClient(c.h2, scheme+addr, plain)
	n.commits.Token = token
	n.commits.Call = func(ctx context.Context, r *concordv1.CommitRequest) (*concordv1.CommitResponse, error) {
		return unary(stub.Commit)(n, ctx, r)
	}
	n.commits.Open = func(ctx context.Context) (Pipe[*concordv1.CommitRequest, *concordv1.CommitResponse], error) {
		ctx, info := connect.NewClientContext(ctx)
		info.RequestHeader().Set(RedirectHeader, "1")
		bidi, err := streaming.Decide(ctx)
		if err != nil {
			return nil, err
		}
		return decisions{bidi, &c.seen}, nil
	}
	return n
}

// Close closes streams and idle connections. Other calls that are under way are not
// disturbed.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.nodes {
		n.commits.Close()
	}
	c.http.CloseIdleConnections()
	c.h2.CloseIdleConnections()
	return nil
}

// Addrs returns the addresses that the client was given.
func (c *Client) Addrs() []string { return slices.Clone(c.given) }

type stub = concordv1connect.CoordinatorServiceClient

// Commit asks the leader for the decision to commit.
func (c *Client) Commit(ctx context.Context, r *concordv1.CommitRequest) (*concordv1.CommitResponse, error) {
	return call(ctx, c, "commit", ofLeader, r, (*node).commit)
}

// Deliver brings the leader what members of three-phase transactions say to the cluster.
func (c *Client) Deliver(ctx context.Context, r *concordv1.DeliverRequest) (*concordv1.DeliverResponse, error) {
	return call(ctx, c, "deliver messages", ofLeader, r, unary(stub.Deliver))
}

// Finished reports finished branches to the leader.
func (c *Client) Finished(ctx context.Context, r *concordv1.FinishedRequest) (*concordv1.FinishedResponse, error) {
	return call(ctx, c, "report finished branches", ofLeader, r, unary(stub.Finished))
}

// Lease asks for a lease, renews it or gives it back.
func (c *Client) Lease(ctx context.Context, r *concordv1.LeaseRequest) (*concordv1.LeaseResponse, error) {
	return call(ctx, c, "keep the lease", ofLeader, r, unary(stub.Lease))
}

// Waiting tells the leader which transactions wait for databases, and hears which have to end.
func (c *Client) Waiting(ctx context.Context, r *concordv1.WaitingRequest) (*concordv1.WaitingResponse, error) {
	return call(ctx, c, "report lock waits", ofLeader, r, unary(stub.Waiting))
}

// Outcome settles what became of a transaction.
func (c *Client) Outcome(ctx context.Context, r *concordv1.OutcomeRequest) (*concordv1.OutcomeResponse, error) {
	return call(ctx, c, "ask for the outcome", ofLeader, r, unary(stub.Outcome))
}

// KeyUse says which transaction is committed under an idempotency key.
func (c *Client) KeyUse(ctx context.Context, r *concordv1.KeyUseRequest) (*concordv1.KeyUseResponse, error) {
	return call(ctx, c, "look up an idempotency key", ofLeader, r, unary(stub.KeyUse))
}

// Follow tells what became of a transaction and of the client that began it, and changes nothing.
func (c *Client) Follow(ctx context.Context, r *concordv1.FollowRequest) (*concordv1.FollowResponse, error) {
	return call(ctx, c, "follow a transaction", ofLeader, r, unary(stub.Follow))
}

// List lists transactions.
func (c *Client) List(ctx context.Context, r *concordv1.ListRequest) (*concordv1.ListResponse, error) {
	return call(ctx, c, "list transactions", ofLeader, r, unary(stub.List))
}

// Get shows one transaction.
func (c *Client) Get(ctx context.Context, r *concordv1.GetRequest) (*concordv1.GetResponse, error) {
	return call(ctx, c, "get the transaction", ofLeader|looks, r, unary(stub.Get))
}

// Resolve decides a transaction by an operator's word.
func (c *Client) Resolve(ctx context.Context, r *concordv1.ResolveRequest) (*concordv1.ResolveResponse, error) {
	return call(ctx, c, "resolve the transaction", ofLeader|slow, r, unary(stub.Resolve))
}

// Settle gives up a branch that the cluster cannot finish.
func (c *Client) Settle(ctx context.Context, r *concordv1.SettleRequest) (*concordv1.SettleResponse, error) {
	return call(ctx, c, "settle the branch", ofLeader|slow, r, unary(stub.Settle))
}

// ReportResource tells what a database that was set back lacks.
func (c *Client) ReportResource(ctx context.Context,
	r *concordv1.ReportResourceRequest) (*concordv1.ReportResourceResponse, error) {
	return call(ctx, c, "compare the resource", ofLeader|slow, r, unary(stub.ReportResource))
}

// AcceptResource ends the quarantine of a database that was set back.
func (c *Client) AcceptResource(ctx context.Context,
	r *concordv1.AcceptResourceRequest) (*concordv1.AcceptResourceResponse, error) {
	return call(ctx, c, "accept the resource", ofLeader, r, unary(stub.AcceptResource))
}

// Audit lists what people did to the cluster.
func (c *Client) Audit(ctx context.Context, r *concordv1.AuditRequest) (*concordv1.AuditResponse, error) {
	return call(ctx, c, "list the audit", ofLeader, r, unary(stub.Audit))
}

// Forget marks a heuristic outcome as dealt with.
func (c *Client) Forget(ctx context.Context, r *concordv1.ForgetRequest) (*concordv1.ForgetResponse, error) {
	return call(ctx, c, "forget the transaction", ofLeader, r, unary(stub.Forget))
}

// ReplaceMember admits a node with a new disk.
func (c *Client) ReplaceMember(ctx context.Context,
	r *concordv1.ReplaceMemberRequest) (*concordv1.ReplaceMemberResponse, error) {
	return call(ctx, c, "replace the member", ofLeader, r, unary(stub.ReplaceMember))
}

// AddMember makes a node a member.
func (c *Client) AddMember(ctx context.Context, r *concordv1.AddMemberRequest) (*concordv1.AddMemberResponse, error) {
	return call(ctx, c, "add the member", ofLeader|slow, r, unary(stub.AddMember))
}

// RemoveMember makes a member one no more.
func (c *Client) RemoveMember(ctx context.Context, r *concordv1.RemoveMemberRequest) (*concordv1.RemoveMemberResponse,
	error) {
	return call(ctx, c, "remove the member", ofLeader|slow, r, unary(stub.RemoveMember))
}

// TransferLeadership makes another voter lead.
func (c *Client) TransferLeadership(ctx context.Context,
	r *concordv1.TransferLeadershipRequest) (*concordv1.TransferLeadershipResponse, error) {
	return call(ctx, c, "move leadership", ofLeader|slow, r, unary(stub.TransferLeadership))
}

// Retry has the cluster try at once to finish branches.
func (c *Client) Retry(ctx context.Context, r *concordv1.RetryRequest) (*concordv1.RetryResponse, error) {
	return call(ctx, c, "retry the branches", ofLeader, r, unary(stub.Retry))
}

// Recover plans recovery, and carries it out if asked to. each gets the pieces as they come. It goes on for as long as
// the leader has something to say; Patience bounds only the search for the leader, and its silence.
func (c *Client) Recover(ctx context.Context, r *concordv1.RecoverRequest,
	each func(*concordv1.RecoverResponse) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stream, err := call(ctx, c, "recover", ofLeader, r, func(n *node, attempt context.Context,
		r *concordv1.RecoverRequest) (*connect.ServerStreamForClient[concordv1.RecoverResponse], error) {
		return n.recover(ctx, attempt, r)
	})
	if err != nil {
		return err
	}
	defer stream.Close()
	silence := time.AfterFunc(c.opts.Patience, func() { cancel(errSilence) })
	defer silence.Stop()
	for more := true; more; more = stream.Receive() {
		silence.Reset(c.opts.Patience)
		c.seen.raise(stream.Msg().GetZxid())
		if err := each(stream.Msg()); err != nil {
			return err
		}
	}
	err = stream.Err()
	switch {
	case err == nil:
		return nil
	case errors.Is(context.Cause(ctx), errSilence):
		err = errSilence
	}
	return &refusal{op: "recover", err: FromStatus(err), heard: true}
}

var errSilence = txn.Unavailablef("the leader fell silent, and what is not shown may have been done: run \"concord " +
	"recover\" again")

// recover opens a stream that lasts as long as ctx, and reads its first message. Both are to be done while attempt is.
func (n *node) recover(ctx, attempt context.Context,
	r *concordv1.RecoverRequest) (*connect.ServerStreamForClient[concordv1.RecoverResponse], error) {
	ctx, cancel := context.WithCancel(context.WithValue(ctx, handOnKey{}, attempt.Value(handOnKey{})))
	stop := context.AfterFunc(attempt, cancel)
	stream, err := n.stub.Recover(ctx, stamped(r, n.seen.String()))
	if err == nil && !stream.Receive() {
		err = errors.Join(stream.Err(), stream.Close())
		if err == nil {
			err = errors.New("ended the stream")
		}
	}
	if err != nil || !stop() {
		cancel()
		return nil, cmp.Or(attempt.Err(), err)
	}
	if h, _ := attempt.Value(handOnKey{}).(*handOn); h != nil {
		h.done = stream.ResponseHeader().Get(HandedOnHeader) != ""
	}
	return stream, nil
}

// CheckResource runs preflights.
func (c *Client) CheckResource(ctx context.Context,
	r *concordv1.CheckResourceRequest) (*concordv1.CheckResourceResponse, error) {
	return call(ctx, c, "check the resources", ofLeader|slow, r, unary(stub.CheckResource))
}

// Status shows the cluster as the first of the given nodes that answers sees it.
func (c *Client) Status(ctx context.Context, r *concordv1.StatusRequest) (*concordv1.StatusResponse, error) {
	return call(ctx, c, "get the status", ofAny, r, unary(stub.Status))
}

// Resources lists the resources that the first of the given nodes that answers knows. With a name
// that node may look at the resource again first, which takes a slow database some seconds.
func (c *Client) Resources(ctx context.Context, r *concordv1.ResourcesRequest) (*concordv1.ResourcesResponse, error) {
	how := ofAny
	if r.GetName() != "" {
		how |= looks
	}
	return call(ctx, c, "list the resources", how, r, unary(stub.Resources))
}

// Identify is Resources for who wants to know whether it is still the same cluster: what this
// client has seen is not asked for, since another cluster may never come that far.
func (c *Client) Identify(ctx context.Context) (*concordv1.ResourcesResponse, error) {
	return call(ctx, c, "identify the cluster", ofAny, &concordv1.ResourcesRequest{},
		func(n *node, ctx context.Context, r *concordv1.ResourcesRequest) (*concordv1.ResourcesResponse, error) {
			return n.stub.Resources(ctx, r)
		})
}

// Watch calls each for every status that a node streams, until ctx ends, each returns
// an error (which Watch returns then), or the stream breaks: then it goes on with the
// next node. It returns nil when ctx ended.
func (c *Client) Watch(ctx context.Context, r *concordv1.WatchRequest,
	each func(*concordv1.StatusResponse) error) error {
	var failed attempts
	pause := newPause()
	for first := time.Now(); time.Since(first) < c.opts.Patience; {
		for _, addr := range c.given {
			stream, err := c.node(addr).stub.Watch(ctx, stamped(r, c.seen.String()))
			if err == nil {
				for stream.Receive() {
					c.seen.raise(stream.Msg().GetZxid())
					if err := each(stream.Msg()); err != nil {
						_ = stream.Close() // the caller's error is what matters
						return err
					}
					first, failed = time.Now(), nil
					pause.Reset()
				}
				err = errors.Join(stream.Err(), stream.Close())
			}
			if ctx.Err() != nil {
				return nil
			}
			if err == nil {
				err = errors.New("ended the stream")
			}
			failed.add(addr, FromStatus(err))
		}
		_ = Wait(ctx, pause.NextBackOff())
		if ctx.Err() != nil {
			return nil
		}
	}
	return &NoAnswerError{Op: "watch the status", Attempts: failed, Err: txn.ErrUnavailable}
}

const (
	ofLeader manner = 1 << iota
	ofAny
	looks // at databases, for three seconds at most
	slow
)
