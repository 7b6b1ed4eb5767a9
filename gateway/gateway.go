// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/agent"
	"github.com/concordtx/concord/api"
	"github.com/concordtx/concord/api/concord/v1/concordv1connect"
	"github.com/concordtx/concord/participant"
	"github.com/concordtx/concord/security"
	"github.com/concordtx/concord/security/access"
	"github.com/concordtx/concord/server"
	"github.com/concordtx/concord/txn"
)

const (
	// maxOpen sessions are open at a node; one more is answered "busy".
	maxOpen = 1024
	// maxEnded sessions, of the last endedFor, are remembered with their last answer.
	maxEnded = 10_000
	endedFor = 10 * time.Minute
	// callLimit bounds a call: the longest statement, and a little for its answer.
	callLimit = participant.MaxTimeout + 2*answerMargin
	// joinPatience is how long a call waits for the node to reach its cluster.
	joinPatience = 5 * time.Second
	// dialPause is how long a dial that failed waits to be tried again.
	dialPause = 500 * time.Millisecond
	// endPatience is how long a commit that is under way may take when the node ends.
	endPatience = 3 * time.Second
	// closePatience is how long what is left may then take. The cluster ends it as it ends what a client leaves that
	// has died.
	closePatience = 5 * time.Second
)

// Config is what a gateway is told.
type Config struct {
	// Node is the id of the node that serves it.
	Node uint64
	// Resources are those of the node. Only those behind agents can be used.
	Resources []adapters.Resource
	// Dial makes a client of the node's cluster.
	Dial func(context.Context) (*concord.Client, error)
	// Address returns the API address of a member; empty if there is no such member.
	Address func(node uint64) string
	// MaxOpenOf one subject may be open at the node, so that one application leaves room for others; 0: the default of
	// access.Limits. Where nobody asks who calls, the node's own limit is the only one.
	MaxOpenOf int
	// Keys prove to other nodes that a node calls; nil: calls to them are plain.
	Keys   *security.Keys
	Logger *slog.Logger
}

// Gateway holds the sessions of a node.
type Gateway struct {
	conf  Config
	log   *slog.Logger
	peers peers

	joined chan struct{}   // closed when client is set
	client *concord.Client // set once
	// life ends with Run: open transactions are rolled back then. Commits under way have until last.
	life, last context.Context
	end, cut   context.CancelFunc

	mu       sync.Mutex // guards what follows
	closing  bool
	sessions map[txn.ID]*session
	runs     map[string]*run // by key
	open     int
	openOf   map[string]int // by subject; empty where nobody asks
	ended    []endedSession // the oldest first
	group    sync.WaitGroup // what sessions do
}

type endedSession struct {
	id txn.ID
	at time.Time
}

// New makes a gateway. It asks nobody anything before Run.
func New(conf Config) *Gateway {
	if conf.Logger == nil {
		conf.Logger = slog.New(slog.DiscardHandler)
	}
	conf.MaxOpenOf = cmp.Or(conf.MaxOpenOf, access.DefaultLimits.Transactions)
	scheme, secure := "http://", api.TLSFor(nil)
	if conf.Keys != nil {
		scheme, secure = "https://", conf.Keys.NodeClient
	}
	g := &Gateway{conf: conf, log: conf.Logger, joined: make(chan struct{}),
		sessions: map[txn.ID]*session{}, runs: map[string]*run{}, openOf: map[string]int{}}
	g.peers = peers{address: conf.Address, http: &http.Client{Transport: api.HTTP2(secure, time.Minute)},
		scheme: scheme, from: conf.Node, stubs: map[string]stub{}}
	g.life, g.end = context.WithCancel(context.Background())
	g.last, g.cut = context.WithCancel(context.Background())
	return g
}

// Service is what a node serves.
func (g *Gateway) Service() server.Service {
	return server.Service{Name: concordv1connect.TransactionServiceName, Limit: callLimit, Rules: rules,
		New: func(opts ...connect.HandlerOption) (string, http.Handler) {
			return concordv1connect.NewTransactionServiceHandler(&handlers{g}, append(opts, api.StrictJSON())...)
		}}
}

// Run works until ctx ends. Then it rolls back what is open, which takes seconds at most.
func (g *Gateway) Run(ctx context.Context) error {
	if g.join(ctx) {
		<-ctx.Done()
	}
	g.mu.Lock()
	g.closing = true
	g.mu.Unlock()
	g.end()
	timer := time.AfterFunc(endPatience, g.cut)
	defer timer.Stop()
	g.group.Wait()
	g.cut()
	g.peers.http.CloseIdleConnections()
	if g.client == nil {
		return nil
	}
	closed := make(chan error, 1)
	go func() { closed <- g.client.Close() }()
	select {
	case err := <-closed:
		return err
	case <-time.After(closePatience):
		g.log.Warn("the node ends with transactions that it drives; the cluster ends them")
		return nil
	}
}

// join dials the cluster until that succeeds. It reports whether it did before ctx ended.
func (g *Gateway) join(ctx context.Context) bool {
	for {
		client, err := g.conf.Dial(ctx)
		if err == nil {
			g.client = client
			close(g.joined)
			return true
		}
		g.log.Debug("the node cannot drive transactions yet; it will be tried again", "err", err)
		select {
		case <-time.After(dialPause):
		case <-ctx.Done():
			return false
		}
	}
}

// cluster returns the client of the node's cluster, once there is one.
func (g *Gateway) cluster(ctx context.Context) (*concord.Client, error) {
	select {
	case <-g.joined:
		return g.client, nil
	default:
	}
	timer := time.NewTimer(joinPatience)
	defer timer.Stop()
	select {
	case <-g.joined:
		return g.client, nil
	case <-g.life.Done():
		return nil, errClosing
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-timer.C:
		return nil, txn.Unavailablef("this node has not reached its cluster since it started: ask another node, or " +
			"run \"concord status\"")
	}
}

var errClosing = txn.Unavailablef("this node is shutting down: ask another node")

// resource returns the database of a name, if it is behind an agent.
func (g *Gateway) resource(name string) (*agent.Resource, error) {
	var names []string
	for _, r := range g.conf.Resources {
		hosted, ok := r.(*agent.Resource)
		switch {
		case r.Name() == name && ok:
			return hosted, nil
		case r.Name() == name:
			return nil, txn.Refusedf("resource: %s is a %s database that the nodes reach without an agent, and only "+
				"agents hold sessions for others: "+
				"run \"concord agent\" beside it, and give it driver: agent in the nodes' configuration", name,
				r.Driver())
		case ok:
			names = append(names, r.Name())
		}
	}
	if names == nil {
		return nil, txn.NotFoundf("resource: there is no %.64q, and none at all that an agent holds: run \"concord "+
			"agent\" beside a database, "+
			"and add it to the nodes' configuration with driver: agent", name)
	}
	slices.Sort(names)
	return nil, txn.NotFoundf("resource: there is no %.64q, only %s: correct the name, or add it to the nodes' "+
		"configuration", name, strings.Join(names, ", "))
}

// room takes the place of one more session of a subject, before its transaction begins.
func (g *Gateway) room(subject string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.closing:
		return errClosing
	case g.open >= maxOpen:
		return txn.Busyf("%d transactions are open at this node, which is the limit: end some, or begin it at "+
			"another node", maxOpen)
	case subject != "" && g.openOf[subject] >= g.conf.MaxOpenOf:
		return txn.Busyf("%d transactions of %q are open at this node, which is the limit: end some, or begin it at "+
			"another node", g.conf.MaxOpenOf, subject)
	}
	g.open++
	if subject != "" {
		g.openOf[subject]++
	}
	return nil
}

// leave gives that place back.
func (g *Gateway) leave(subject string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.left(subject)
}

// left is called with mu held.
func (g *Gateway) left(subject string) {
	g.open--
	if g.openOf[subject]--; g.openOf[subject] <= 0 {
		delete(g.openOf, subject)
	}
}

func (g *Gateway) add(s *session) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.sessions[s.id] = s
}

// gone gives the place of a session back, and forgets what ended long ago.
func (g *Gateway) gone(s *session) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.left(s.subject)
	now := time.Now()
	g.ended = append(g.ended, endedSession{s.id, now})
	for len(g.ended) > maxEnded || now.Sub(g.ended[0].at) > endedFor {
		delete(g.sessions, g.ended[0].id)
		g.ended = g.ended[1:]
	}
}

func (g *Gateway) session(id txn.ID) *session {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.sessions[id]
}

// work runs do in a goroutine that the end of the node waits for. It reports false, and does nothing,
// after that has begun.
func (g *Gateway) work(do func()) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closing {
		g.group.Go(do)
	}
	return !g.closing
}

// traced is the life of a transaction, within the span of whoever asks for it.
func (g *Gateway) traced(ctx context.Context) context.Context {
	info, ok := connect.CallInfoForHandlerContext(ctx)
	if !ok {
		return g.life
	}
	return concord.WithTraceparent(g.life, info.RequestHeader().Get(api.TraceHeader))
}

// begin starts a transaction and its session.
func (g *Gateway) begin(ctx context.Context, silence time.Duration, opts ...concord.TxOption) (*session, error) {
	client, err := g.cluster(ctx)
	if err != nil {
		return nil, err
	}
	subject := access.Of(ctx).Subject()
	if err := g.room(subject); err != nil {
		return nil, err
	}
	tx, err := client.Begin(g.traced(ctx), append(opts, concord.Recorded())...)
	if err != nil {
		g.leave(subject)
		if g.life.Err() != nil {
			return nil, errClosing
		}
		if !errors.Is(err, txn.ErrInvalid) {
			err = txn.Unavailablef("%w", err)
		}
		return nil, err
	}
	s := newSession(g, subject, tx, silence)
	g.add(s)
	s.arm()
	return s, nil
}
