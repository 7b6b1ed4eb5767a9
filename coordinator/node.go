// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sync/errgroup"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/api/member"
	"github.com/concordtx/concord/coordinator/commit"
	"github.com/concordtx/concord/coordinator/peer"
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/internal/spans"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/security"
	"github.com/concordtx/concord/txn"
	"github.com/concordtx/concord/wal"
)

const (
	tickInterval = 50 * time.Millisecond
	// heartbeatTicks apart a leader pings when it has nothing to say: six times in the second
	// after which it would be given up. Each ping wakes all nodes, also of an idle cluster.
	heartbeatTicks = 3
	// maxAsks requests may wait for the loop; one more is answered "busy" at once.
	maxAsks           = 4096
	defaultLogBytes   = 256 << 20
	defaultLogEntries = 1 << 20
	// maxRequests may wait for an answer.
	maxRequests = 65536
	// maxTurn events are handled in one turn of the loop, and may share a log entry.
	maxTurn = 512
)

// Config is what a node must know.
type Config struct {
	Node    zab.NodeID
	Members []replica.Member
	DataDir string
	// FS is where DataDir is; nil: the real file system.
	FS vfs.FS
	// Listener accepts peers; nil: the node listens at its own Peer address.
	Listener net.Listener
	// Keys prove to other nodes who this one is, and who they are; nil: connections are plain.
	Keys      *security.Keys
	Resources []adapters.Resource
	Rules     commit.Rules
	// FeatureLevel is the newest feature level that this node says it knows. 0: txn.Newest. A
	// lower one on all nodes keeps the way back to an older release open.
	FeatureLevel txn.FeatureLevel
	// Reserve is the free disk space in bytes below which this node, while it leads,
	// takes no new transactions. 0: wal.DefaultReserve.
	Reserve uint64
	// MaxLogBytes and MaxLogEntries are how long the log of a node may get before it is cut
	// behind what is applied. 0: 256 MiB and 1,048,576 entries.
	MaxLogBytes, MaxLogEntries uint64
	Logger                     *slog.Logger // nil: slog.Default()
	// Abandoned are resources that are not among Resources any more although they may have branches to finish: a
	// node that leads gives these up. Those of other resources keep the node from starting.
	Abandoned []string
	// Spans takes what the node does about transactions; nil: it is not traced.
	Spans *spans.Exporter
	// Warnings says what else people should see in the status; nil: nothing. It must not wait.
	Warnings func() []string
}

// Node is a coordinator node: its cores and everything around them that waits for clocks,
// disks, databases and other nodes.
//
// Who owns what: the loop owns the cores and all requests; the writer owns appending
// to the log; the archive's goroutine owns writing the applied state; each peer has a
// sender and a receiver; each resource has its workers. Nothing blocks the loop.
type Node struct {
	config   Config
	self     replica.Member // as configured
	log      *slog.Logger
	store    *wal.Store
	archive  *archive
	core     *replica.Core
	commits  *commit.Machine // that it carries
	peers    *peer.Transport
	workers  map[string]*worker
	cluster  atomic.Uint32 // txn.ClusterID, for the handshake
	level    atomic.Uint32 // txn.FeatureLevel of the log, likewise
	snapshot atomic.Pointer[Snapshot]
	applied  atomic.Pointer[zab.Zxid] // what the table reflects
	restored atomic.Pointer[restoredState]
	leases   atomic.Pointer[txn.Leases]
	mail     *member.Post   // to members of three-phase transactions
	calls    calls          // to other nodes
	sender   *member.Sender // over that
	heard    heard
	// remembered is what the log remembers of databases, as far as it is applied here.
	remembered atomic.Pointer[[]txn.Remembered]
	list       atomic.Pointer[replica.List] // the latest list of members that is known

	asks      chan ask
	received  chan peer.Inbound
	persisted chan uint64
	posted    chan replica.Event // from workers and clients: capacity bounds what waits; senders wait
	closed    chan struct{}
}

// ask is a request on its way into the loop.
type ask struct {
	event func(request uint64) replica.Event
	// done takes the answer, on the loop: it must not wait.
	done func(commit.Reply)
}

// Open opens the store of a node and listens for its peers. The node does nothing
// until Run, which also closes it.
func Open(c Config) (*Node, error) {
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	c.Rules = c.Rules.WithDefaults()
	if c.MaxLogBytes == 0 {
		c.MaxLogBytes = defaultLogBytes
	}
	if c.MaxLogEntries == 0 {
		c.MaxLogEntries = defaultLogEntries
	}
	if c.FeatureLevel == 0 {
		c.FeatureLevel = txn.Newest
	}
	if c.FeatureLevel > txn.Newest {
		return nil, fmt.Errorf("\"feature_level\" is %d, but this release knows only up to %d: lower it, or run "+
			"the release that the other nodes run", c.FeatureLevel, txn.Newest)
	}
	self := slices.IndexFunc(c.Members, func(m replica.Member) bool { return m.ID == c.Node })
	if self < 0 {
		return nil, fmt.Errorf("node %d is not one of the members: add it to \"members\", or correct \"node\"", c.Node)
	}
	n := &Node{config: c, self: c.Members[self], log: c.Logger.With("node", uint64(c.Node)),
		workers: map[string]*worker{},
		asks:    make(chan ask, maxAsks), received: make(chan peer.Inbound, 4096), persisted: make(chan uint64, 64),
		posted: make(chan replica.Event, 4096), closed: make(chan struct{})}
	names, err := n.makeWorkers(c.Resources)
	if err != nil {
		return nil, err
	}
	if n.store, err = wal.Open(c.DataDir,
		wal.Options{FS: c.FS, Node: c.Node, Logger: n.log, Reserve: c.Reserve}); err != nil {
		return nil, err
	}
	if err := n.makeCore(names); err != nil {
		return nil, errors.Join(err, n.store.Close())
	}
	listener := c.Listener
	if listener == nil {
		if listener, err = net.Listen("tcp", c.Members[self].Peer); err != nil {
			err = fmt.Errorf("listen for peers at %s: %w: choose another \"peer\" address, or stop the process "+
				"that uses it",
				c.Members[self].Peer, err)
			return nil, errors.Join(err, n.store.Close())
		}
	}
	n.config.Listener = listener
	n.peers = peer.New(peer.Config{Self: n.hello, List: &n.list, Configured: c.Members, Listener: listener,
		Keys: c.Keys, Log: n.log,
		Received: n.received, Store: n.store, CheckPair: checkPair, Fatal: n.fatal,
		Post: func(ctx context.Context, e zab.Event) { n.post(ctx, replica.Peer{Event: e}) }})
	n.mail, n.calls = member.NewPost(c.Keys), newCalls(c.Keys)
	n.sender = member.NewSender(n.mail.Deliver, n.log)
	n.peers.KnowStores(n.core.State().Stores())
	return n, nil
}

func (n *Node) makeWorkers(resources []adapters.Resource) (names []string, err error) {
	for _, r := range resources {
		if n.workers[r.Name()] != nil {
			return nil, fmt.Errorf("two resources have the name %q: give each its own", r.Name())
		}
		w := newWorker(r, n.log, n.config.Spans, n.post, n.compareIdentities)
		w.others = func() []other { return n.others(r.Name()) }
		n.workers[r.Name()] = w
		names = append(names, r.Name())
	}
	return names, nil
}

func (n *Node) makeCore(resources []string) error {
	newest, err := newestFinished(n.store)
	if err != nil {
		return err
	}
	n.archive = newArchive(n.store, newest, n.fatal)
	table, err := loadTable(n.store, n.archive)
	if err != nil {
		return err
	}
	if err := errors.Join(n.checkList(table), n.checkDropped()); err != nil {
		return err
	}
	distrust, _, err := n.store.ReadNote(wal.DistrustNote)
	if err != nil {
		return err
	}
	if distrust != "" {
		n.log.Error(distrust)
	}
	var id [4]byte
	for binary.BigEndian.Uint32(id[:]) == 0 {
		_, _ = rand.Read(id[:]) // ends the process itself if there is no randomness
	}
	n.commits = commit.New(commit.Config{Resources: resources, Hosted: n.hosted, Validate: n.validate, Marks: n.marks,
		Rules: n.config.Rules, Reload: n.reload}, table)
	n.core, err = replica.New(replica.Config{Node: n.config.Node, Members: n.config.Members, Boot: n.store.Boot(),
		Log:        zab.Config{HeartbeatTicks: heartbeatTicks},
		NewCluster: txn.ClusterID(binary.BigEndian.Uint32(id[:])), Distrust: distrust}, n.store, n.commits)
	if err != nil {
		return fmt.Errorf("members: %w", err)
	}
	if at := table.Level(); at > n.config.FeatureLevel {
		return fmt.Errorf("%w: the cluster is at feature level %d, and \"feature_level\" holds this node at %d: "+
			"remove that key; what was switched on cannot be switched off",
			ErrNewerStore, at, n.config.FeatureLevel)
	}
	n.cluster.Store(uint32(table.Cluster()))
	n.level.Store(uint32(table.Level()))
	n.snapshot.Store(&Snapshot{Present: time.Now()})
	at, list := n.core.Zxid(), n.core.Known()
	n.applied.Store(&at)
	n.publishLeases(table.Leases())
	n.list.Store(&list)
	return nil
}

// ErrMembers says that the configuration names members whom the log does not know.
var ErrMembers = errors.New("the \"members\" of the configuration are not those of this node's log")

// checkList compares the members of the configuration with what this store knows. They found a
// cluster, once; a list that the cluster never had, and that is not the one with which this store was
// first started, is a mistake that could make two of it.
func (n *Node) checkList(table *txn.Table) error {
	own := replica.FromMembers(n.config.Members)
	first, err := n.firstList(own, table)
	if err != nil {
		return err
	}
	inLog, at := first, "since its first start"
	known := txn.Print(own) == txn.Print(first)
	if m := table.Members(); m != nil {
		inLog, at, known = m.List, fmt.Sprintf("since %v", m.At), known || m.Knows(own)
		if _, member := m.Member(uint64(n.config.Node)); !member {
			return nil // it has not come to where it is added, or will hear that it was removed
		}
	}
	_, _, last, applied := n.store.Initial()
	for z := applied; !known && z.Less(last); {
		entries, err := n.store.Entries(z, last, 1<<20)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if list, ok := txn.MembersOf(e.Data); ok {
				inLog, at, known = list, fmt.Sprintf("since %v", e.Zxid), known || txn.Print(list) == txn.Print(own)
			}
			z = e.Zxid
		}
	}
	if known {
		return nil
	}
	return fmt.Errorf("%w (%s):\n%sThe file only says who founds a cluster. Put back a list that the cluster has "+
		"or had; members are added and removed with \"concord member add\" and \"concord member remove\", while "+
		"the cluster runs", ErrMembers, at,
		listsSideBySide(own, inLog))
}

// firstList returns the list with which this store was first started, which is this one if
// nothing came of the store yet, or if nobody has ever asked.
func (n *Node) firstList(own []txn.Member, table *txn.Table) ([]txn.Member, error) {
	text, found, err := n.store.ReadNote(wal.MembersNote)
	switch {
	case err != nil:
		return nil, err
	case !found && table.Members() != nil:
		return table.Members().List, nil
	case !found, replica.Blank(n.store, table.State()):
		return own, n.store.WriteNote(wal.MembersNote, string(txn.AppendMembers(nil, own)))
	}
	return txn.DecodeMembers([]byte(text))
}

// validate asks the adapter of a branch, which is one of the configuration. It asks no database.
func (n *Node) validate(b txn.Branch) error { return n.workers[b.Resource].resource.Validate(b) }

// hosted reports whether an agent holds the branches of a resource.
func (n *Node) hosted(resource string) bool {
	_, hosted := n.workers[resource].resource.(adapters.Hosted)
	return hosted
}

// marks reports whether the database of a resource keeps a high-water row.
func (n *Node) marks(resource string) bool {
	_, marked := n.workers[resource].resource.(adapters.Marked)
	return marked
}

func (n *Node) hello() peer.Hello {
	_, _, tail, _ := n.store.Initial()
	return peer.Hello{From: n.config.Node, Cluster: txn.ClusterID(n.cluster.Load()), Store: n.store.ID(),
		Dial: uint64(n.store.Boot()) << 32, Tail: tail,
		Level: n.config.FeatureLevel, Needs: txn.FeatureLevel(n.level.Load()), ListAt: n.list.Load().At}
}

// errClosed answers whoever asks a node that runs no more.
var errClosed = txn.Unavailablef("the node is shutting down: ask another one")

// fatal ends the process: the node can neither go on nor take back what it promised.
func (n *Node) fatal(err error) {
	n.log.Error("the node stops: its store or its log can no longer be trusted", "err", err)
	os.Exit(1)
}

// Run runs the node until ctx ends.
// An error is one of the store as it is closed, or says why the node could not listen to its peers.
func (n *Node) Run(ctx context.Context) error {
	// The storer outlives the others: the loop may queue changes until its end.
	storer, stopStorer := context.WithCancel(context.WithoutCancel(ctx))
	stored := make(chan struct{})
	go func() { n.archive.run(storer); close(stored) }()

	g, ctx := errgroup.WithContext(ctx)
	writer := wal.NewWriter(n.store, n.persistedReader(func(id uint64) {
		select {
		case n.persisted <- id:
		case <-ctx.Done():
		}
	}))
	g.Go(func() error { return n.peers.Run(ctx) })
	for _, w := range n.workers {
		g.Go(func() error { return w.run(ctx) })
	}
	g.Go(func() error {
		defer close(n.closed) // whoever asks from now on hears it at once
		return newLoop(n, writer).run(ctx)
	})
	if len(n.config.Abandoned) > 0 {
		g.Go(func() error { n.abandon(ctx); return nil })
	}
	err := g.Wait()
	n.sender.Close()
	n.mail.Close()
	n.calls.http.CloseIdleConnections()
	writer.Close()
	stopStorer()
	<-stored
	return errors.Join(err, n.store.Close())
}

// Closed is closed when the node runs no more.
func (n *Node) Closed() <-chan struct{} { return n.closed }

// post hands an event of a worker to the loop.
func (n *Node) post(ctx context.Context, e replica.Event) {
	select {
	case n.posted <- e:
	case <-ctx.Done():
	}
}

// ask hands a request to the loop and waits for its answer. When ctx ends first the
// request may be carried out all the same.
func (n *Node) ask(ctx context.Context, event func(request uint64) replica.Event) (commit.Reply, error) {
	reply := make(chan commit.Reply, 1)
	n.submit(event, func(r commit.Reply) { reply <- r })
	select {
	case r := <-reply:
		return r, r.Err
	case <-n.closed:
		return commit.Reply{}, errClosed
	case <-ctx.Done():
		return commit.Reply{}, ctx.Err()
	}
}

// submit hands a request to the loop. done is called once, on the loop or, if the loop
// does not take the request, at once; not at all if the node closes first.
func (n *Node) submit(event func(request uint64) replica.Event, done func(commit.Reply)) {
	select {
	case n.asks <- ask{event: event, done: done}:
	default:
		done(commit.Reply{Err: replica.ErrBusy})
	}
}

// Recheck asks a resource again who it is if whoever calls takes it for another one, or it was not
// fit; what it says is in the Status then. It takes a few seconds at most, and however many
// doubt, a resource is asked once a second.
func (n *Node) Recheck(ctx context.Context, resource, identity string) {
	w := n.workers[resource]
	if w == nil {
		return
	}
	if h := w.state(); h.OK && h.Identity == identity {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, recheckPatience)
	defer cancel()
	w.recheck(ctx)
	// else it is published soon
	_, _ = n.ask(ctx, func(request uint64) replica.Event { return replica.SeenAsked{Request: request, Fresh: true} })
}

// compareIdentities looks for two names of one database. Branches of one transaction
// in both would wait for each other's locks, and each would list the other's. The name that
// the configuration lists first stays; which of them could be asked first does not matter.
func (n *Node) compareIdentities(ctx context.Context) {
	first := map[string]string{} // by identity
	for _, r := range n.config.Resources {
		h := n.workers[r.Name()].state()
		f := commit.Fitness{Resource: r.Name(), Fit: true, Down: !h.OK}
		if id := h.Identity; id != "" {
			if other, taken := first[id]; taken {
				f.Fit, f.Why = false, fmt.Sprintf("it is the same database as resource %s, which is listed before "+
					"it: remove one of them from \"resources\", or correct its dsn", other)
			} else {
				first[id] = r.Name()
			}
		}
		n.post(ctx, f)
	}
}
