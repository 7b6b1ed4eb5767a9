// SPDX-License-Identifier: Apache-2.0

package concord

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/txn"
)

// ID names a global transaction. Its text form has 26 characters, which it also is in JSON and in a
// column of a text type: it can be an argument of a statement, and be scanned. The zero ID is NULL.
type ID = txn.ID

// ParseID parses the text form of an ID, in upper or lower case.
func ParseID(s string) (ID, error) { return txn.ParseID(s) }

// Outcome is what became of a transaction.
type Outcome = txn.Outcome

// Unknown: older than what the cluster remembers. HeuristicMixed and HeuristicHazard:
// a database ended a branch against the decision, or nobody can tell; an operator was told.
// Unrecorded: two or more databases have not committed it and never will, but one alone may
// have, of which the cluster does not hear: look at the data, or begin transactions whose
// outcome will be asked for with Recorded. Pending, from Lookup only: no decision so far.
const (
	Unknown         = txn.Unknown
	Committed       = txn.Committed
	Aborted         = txn.Aborted
	HeuristicMixed  = txn.HeuristicMixed
	HeuristicHazard = txn.HeuristicHazard
	Unrecorded      = txn.Unrecorded
	Pending         = txn.Pending
)

const (
	// dialPatience bounds the first conversation with the cluster.
	dialPatience = 10 * time.Second
	// settlePatience bounds how long the client keeps asking, off its caller's path, for a
	// decision that its caller could not wait for.
	settlePatience = 10 * time.Minute
	// finishPatience bounds one attempt to end a branch on its own session.
	finishPatience = 10 * time.Second
	// claimPatience bounds how long who ends a transaction waits for another call: an Enlist, or
	// the rollback at the time limit.
	claimPatience = 3 * finishPatience
	// maxCarried transactions of which something is left may be worked on in the background.
	maxCarried = 4096
)

// Client runs global transactions. All methods may be called concurrently.
type Client struct {
	api       *api.Client
	logger    *slog.Logger
	hooks     []Hook
	resources resources
	reports   *reports
	doubts    doubts
	lease     *lease
	joins     *joins
	waits     *waits

	// life ends with Close: what still runs in the background is given up then.
	life context.Context
	end  context.CancelFunc

	mu       sync.Mutex
	closing  bool           // no new transactions
	closed   bool           // and nothing new in the background
	carried  int            // transactions that go on in the background
	inFlight sync.WaitGroup // transactions from Begin to their end, and until each branch was tried to be ended
	group    sync.WaitGroup // goroutines that outlive their caller
}

// Dial connects to the cluster of which the nodes at addrs, "host:port" each, are
// some or all. It fails if none of them answers before ctx ends or ten seconds
// have passed, or if the cluster has not been formed yet. The error is txn.ErrInvalid if an address is malformed,
// options contradict each other or credentials cannot be read.
func Dial(ctx context.Context, addrs []string, opts ...Option) (*Client, error) {
	o := config{logger: slog.New(slog.DiscardHandler)}
	for _, opt := range opts {
		opt(&o)
	}
	credentials, err := o.open()
	if err != nil {
		return nil, txn.Invalidf("dial: %w", err)
	}
	if credentials != nil && o.tls != nil {
		return nil, txn.Invalidf("dial: WithTLS and WithCertsDir contradict each other: use one of them")
	}
	caller, err := api.Dial(addrs, api.ClientOptions{TLS: o.tls, Credentials: credentials, Logger: o.logger})
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	c := &Client{api: caller, logger: o.logger, hooks: o.hooks}
	c.joins = newJoins(c)
	if o.slow > 0 {
		c.hooks = append(c.hooks, logSlow(o.logger, o.slow))
	}
	c.resources.api, c.resources.logger = caller, o.logger
	ctx, cancel := context.WithTimeout(ctx, dialPatience)
	defer cancel()
	if err := c.resources.refresh(ctx, "", ""); err != nil {
		_ = caller.Close() // always nil
		return nil, fmt.Errorf("dial: %w", err)
	}
	c.life, c.end = context.WithCancel(context.Background())
	c.reports = newReports(caller, o.logger)
	c.group.Go(func() { c.reports.run(c.life) })
	c.group.Go(func() { c.resources.follow(c.life) })
	c.lease = newLease(caller, &c.resources, o.logger)
	c.group.Go(func() { c.lease.run(c.life) })
	c.waits = newWaits(c)
	c.group.Go(func() { c.waits.run(c.life) })
	return c, nil
}

// Close refuses new transactions and waits for those that have begun: each ends at its time
// limit at the latest, also one that is never committed or rolled back, so nobody may call Close
// from within a transaction. After WithAnswerAtDecision it also waits until each branch was tried to be committed. Then
// it gives up what runs in the background, reports finished branches
// that were not reported yet, gives the client's lease back, and closes the connections to the
// cluster, which ends the branches that are left. A second Close does the same.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closing = true
	c.mu.Unlock()
	c.inFlight.Wait()
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.end()
	c.group.Wait()
	c.lease.close()
	return c.api.Close()
}

// enter counts one more transaction in flight, unless the client is closed.
func (c *Client) enter() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closing {
		c.inFlight.Add(1)
	}
	return !c.closing
}

// inBackground runs do in a goroutine that Close waits for; do ends soon after c.life.
// It reports false, and does nothing, after Close.
func (c *Client) inBackground(do func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.group.Go(do)
	}
	return !c.closed
}

// carry is inBackground for the rest of a transaction. It refuses one too many: the cluster ends
// what is left of it.
func (c *Client) carry(do func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.carried == maxCarried {
		return false
	}
	c.carried++
	c.group.Go(func() {
		do()
		c.mu.Lock()
		defer c.mu.Unlock()
		c.carried--
	})
	return true
}

// Run begins a transaction, calls fn, and commits if fn returns nil. Otherwise it
// rolls back, and the error wraps what fn returned and ErrAborted; a panic of fn rolls
// back and goes on. If fn has called Commit or Rollback itself and returns nil, the answer is what became of the
// transaction: nil only if it is committed. fn is called once, unless WithRetry allows more. Errors are those of
// Tx.Commit. At the time limit, or when ctx ends, the transaction is rolled back even if fn does not return; its
// context ends then, too.
//
// If ctx comes from the function of another Run of this client then Run joins that transaction: fn works in it,
// nil says that this part is done and nothing more, and after an error the whole is rolled back, also if the function
// around it takes no notice. Options are those of the outer Run. See NoJoin and NewContext.
func (c *Client) Run(ctx context.Context, fn func(ctx context.Context, tx *Tx) error, opts ...TxOption) error {
	o, err := newTxConfig(opts)
	if err != nil {
		return err
	}
	if outer, ok := FromContext(ctx); ok && outer.client == c {
		return outer.join(ctx, fn, o)
	}
	if o.retry.Attempts == 0 {
		return c.attempt(ctx, fn, o, 1)
	}
	return c.retry(ctx, o.retry, func(attempt int) error { return c.attempt(ctx, fn, o, attempt) })
}

func (c *Client) attempt(ctx context.Context, fn func(ctx context.Context, tx *Tx) error, o txConfig,
	number int) error {
	tx, err := c.begin(ctx, o, number)
	if err != nil {
		return err
	}
	returned := false
	defer func() {
		if !returned { // fn panicked, or ended the goroutine
			c.logRollback(tx, tx.Rollback(ctx))
		}
	}()
	err = fn(NewContext(tx.life, tx), tx)
	returned = true
	if err == nil {
		if err = tx.Commit(ctx); errors.Is(err, ErrTxEnded) { // fn has ended it itself
			<-tx.settled // soon: whoever ends it has a deadline
			return tx.how
		}
		return err
	}
	if tx.life.Err() != nil || tx.victim.Load() != nil {
		err = tx.withLimit(err)
	}
	rollback := tx.rollback(ctx, err)
	if errors.Is(rollback, ErrTxEnded) { // fn has ended it itself and knows how
		return err
	}
	return tx.failed(err, rollback)
}

func (c *Client) logRollback(tx *Tx, err error) {
	switch {
	case errors.Is(err, ErrTorn):
		c.logger.Error("a transaction is torn", "gid", tx.id, "err", err)
	case err != nil && !errors.Is(err, ErrTxEnded):
		c.logger.Warn("a rollback left branches behind, which the client keeps trying to "+
			"end", "gid", tx.id, "err", err)
	}
}

// Begin starts a transaction. Whoever calls Begin must call Commit or Rollback. When ctx ends, or
// the time limit, the transaction is rolled back.
//
// It sends nothing, except that the first one after a pause asks for a lease, and waits for it
// for a second at most: what a client with a lease leaves behind when it dies, the cluster ends
// within seconds.
//
// After Close the error wraps ErrClosed.
func (c *Client) Begin(ctx context.Context, opts ...TxOption) (*Tx, error) {
	o, err := newTxConfig(opts)
	switch {
	case err != nil:
		return nil, err
	case o.retry.Attempts != 0:
		return nil, errRetryBegin
	}
	return c.begin(ctx, o, 1)
}

func (c *Client) begin(ctx context.Context, o txConfig, attempt int) (*Tx, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("begin: %w", err)
	}
	if c.resources.strange() != nil {
		if err := c.resources.recognize(ctx); err != nil {
			return nil, fmt.Errorf("begin: %w", err)
		}
	}
	if o.protocol == txn.ThreePhaseCommit && !c.resources.knows(ctx, txn.LevelThreePhase) {
		return nil, fmt.Errorf("begin: three_phase is not switched on in this cluster: %w: run this release on all "+
			"nodes, and none with a \"feature_level\" below %d; until then leave out WithProtocol",
			txn.ErrRefused, txn.LevelThreePhase)
	}
	if o.last != "" && !c.resources.knows(ctx, txn.LevelLastResource) {
		return nil, fmt.Errorf("begin: last resources are not switched on in this cluster: %w: run this release on "+
			"all nodes, and none with a \"feature_level\" below %d; until then leave out WithLastResource",
			txn.ErrRefused, txn.LevelLastResource)
	}
	cluster, longest := c.resources.cluster()
	deadline, limit := o.limit(ctx, longest)
	if !c.enter() {
		return nil, fmt.Errorf("begin: %w: dial another one", ErrClosed)
	}
	lease := c.lease.begin(ctx, min(beginPatience, time.Until(deadline)/4))
	secret := txn.NewSecret()
	id := txn.NewID(c.resources.now()).WithClass(o.class).WithLease(lease).WithCapability(secret.Capability())
	if o.last != "" {
		id = id.WithLast(o.last)
	}
	ctx, end := c.start(ctx, Step{Kind: StepTransaction, GID: id, Label: o.label, Attempt: attempt})
	tx := newTx(ctx, c, id, cluster, o.protocol, limit, deadline)
	tx.last, tx.early = o.last, o.early
	tx.label, tx.key, tx.end, tx.outward.secret = o.label, o.key, end, secret
	tx.watch = context.AfterFunc(tx.life, tx.expire)
	return tx, nil
}

// Outcome settles what became of a transaction: the cluster will never commit one that it was
// not asked to commit before, so the answer is final. Of a transaction that was begun with
// Recorded, and of one whose UnknownError this client has returned, it is Committed or Aborted;
// of another one that the cluster has never heard of it is Unrecorded. Only with Unknown is there an
// error: txn.ErrTooOld if the cluster no longer remembers it, ErrCluster if the nodes are now another
// cluster, txn.ErrUnavailable if none of them could answer before ctx ended.
func (c *Client) Outcome(ctx context.Context, id ID) (Outcome, error) {
	cluster, _ := c.resources.cluster()
	res, err := c.api.Outcome(ctx, &concordv1.OutcomeRequest{Gid: id.String(), Several: c.doubts.has(id),
		Cluster: cluster.String(), LastResource: c.doubts.last(id)})
	if err != nil {
		if strange := c.resources.recognize(ctx); strange != nil {
			err = strange
		}
		return Unknown, fmt.Errorf("outcome of %s: %w", id, err)
	}
	outcome, err := parseOutcome(res.GetOutcome())
	if err != nil {
		return Unknown, fmt.Errorf("outcome of %s: %w", id, err)
	}
	return outcome, nil
}

// Lookup says what is known of a transaction and, unlike Outcome, changes nothing: it may
// still be committed after the answer Pending, which also is that for a transaction that the
// cluster will never hear of. Only with Unknown is there an error: txn.ErrTooOld if the cluster no
// longer remembers it, txn.ErrUnavailable if no node could answer before ctx ended.
func (c *Client) Lookup(ctx context.Context, id ID) (Outcome, error) {
	res, err := c.api.Get(ctx, &concordv1.GetRequest{Gid: id.String()})
	if errors.Is(err, txn.ErrNotFound) {
		return Pending, nil
	}
	if err != nil {
		return Unknown, fmt.Errorf("look up %s: %w", id, err)
	}
	outcome, err := parseOutcome(res.GetTransaction().GetOutcome())
	if err != nil {
		return Unknown, fmt.Errorf("look up %s: %w", id, err)
	}
	return outcome, nil
}

func parseOutcome(word string) (Outcome, error) {
	outcome, err := api.ParseOutcome("outcome", word)
	if err != nil {
		return Unknown, unknownAnswer(err)
	}
	if outcome == Unknown {
		return Unknown, fmt.Errorf("the transaction is %w: look into the databases", txn.ErrTooOld)
	}
	return outcome, nil
}

// unknownAnswer is what is said of an answer that only a later release gives.
func unknownAnswer(err error) error {
	return fmt.Errorf("the cluster gave an answer that this version does not know: %w; build the application with "+
		"the release that the nodes run", err)
}

// maxDoubts bounds how many transactions of unknown outcome a client remembers.
const maxDoubts = 4096

// doubts remembers the transactions that the cluster was asked to commit and whose outcome the
// application did not learn. This client knows that no database has committed one of them
// alone, so to it "unrecorded" means "aborted". What it has forgotten it only knows less of.
type doubts struct {
	mu    sync.Mutex
	order []ID          // oldest first
	ids   map[ID]string // with the last resource, if there is one
}

func (d *doubts) add(id ID, last string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ids == nil {
		d.ids = make(map[ID]string)
	}
	if len(d.order) == maxDoubts {
		delete(d.ids, d.order[0])
		d.order = d.order[1:]
	}
	d.order, d.ids[id] = append(d.order, id), last
}

func (d *doubts) has(id ID) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, has := d.ids[id]
	return has
}

// last is the last resource of a transaction in doubt; empty if it has none, or none that is remembered.
func (d *doubts) last(id ID) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ids[id]
}

// ErrNested says that Run was called within a transaction that it must not, or cannot, join.
var ErrNested = errors.New("this context already has a transaction")

type txKey struct{}

// NewContext returns a context that carries a transaction, as Run gives one to its function: a Run with it
// joins that transaction. With nil it carries none, so that Run begins another one.
func NewContext(ctx context.Context, tx *Tx) context.Context {
	return context.WithValue(ctx, txKey{}, tx)
}

// FromContext returns the transaction that a context carries.
func FromContext(ctx context.Context) (*Tx, bool) {
	tx, _ := ctx.Value(txKey{}).(*Tx)
	return tx, tx != nil
}

// NoJoin makes Run fail at once, with ErrNested, if its context carries a transaction of this client
// already: for what has to be committed when Run returns.
func NoJoin() TxOption { return func(o *txConfig) { o.alone = true } }

var (
	errAlone = fmt.Errorf("%w, and NoJoin forbids to join it: call Run outside of that one, or leave out NoJoin",
		ErrNested)
	errUnrecorded = fmt.Errorf("%w, which is not recorded: begin the outer one with Recorded", ErrNested)
)

// join runs fn as a part of tx.
func (tx *Tx) join(ctx context.Context, fn func(ctx context.Context, tx *Tx) error, o txConfig) (err error) {
	switch {
	case o.alone:
		return fmt.Errorf("begin: %w", errAlone)
	case o.class == txn.Recorded && tx.id.Class() != txn.Recorded:
		return fmt.Errorf("begin: %w", errUnrecorded)
	}
	if err := tx.working(ctx); err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	returned := false
	defer func() {
		switch {
		case !returned:
			tx.doom(errPanicked)
		case err != nil:
			tx.doom(err)
		}
	}()
	err = fn(ctx, tx)
	returned = true
	return err
}

// working returns nil unless tx has ended.
func (tx *Tx) working(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), claimPatience) // ctx has ended with tx
	defer cancel()
	if err := tx.take(ctx); err != nil {
		return err
	}
	tx.give()
	return nil
}

var errPanicked = errors.New("a function that had joined the transaction panicked")

// doom makes sure that tx is not committed.
func (tx *Tx) doom(why error) {
	why = fmt.Errorf("a part of the transaction failed: %w", why)
	tx.doomed.CompareAndSwap(nil, &why)
}
