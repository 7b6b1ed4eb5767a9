// SPDX-License-Identifier: Apache-2.0

package concord

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/joined"
	"github.com/concordtx/concord/protocol"
	"github.com/concordtx/concord/protocol/twopc"
	"github.com/concordtx/concord/txn"
)

// Tx is one global transaction. Enlist may be called concurrently; Commit or Rollback
// ends it, or its time limit does, the first of them wins.
type Tx struct {
	client   *Client
	id       ID
	cluster  txn.ClusterID
	protocol txn.Protocol
	label    string
	last     string // resource that decides; empty: none
	key      string // of RunOnce; empty: none
	kept     []byte // with the key
	early    bool   // it is answered at the decision
	began    time.Time
	deadline time.Time
	limit    *limitError // what deadline comes from, unless it is the caller's

	part    *part // in a transaction of another service; nil: it is one of this client's
	outward outward

	// life ends with the time limit and with the context of Begin: then the branches are rolled
	// back, whatever the application is doing.
	life context.Context
	// end tells the hooks how it ended.
	end func(error) error
	// doomed is why a part of it failed, in a Run that had joined it.
	doomed atomic.Pointer[error]
	// victim says that the cluster has ended it, because of a deadlock.
	victim atomic.Pointer[limitError]
	// watch stops waiting for that, and forget lets go of life after the end.
	watch  func() bool
	forget context.CancelFunc
	// settled is closed when a Commit or Rollback has ended it, in a way that how tells: of a Rollback, an
	// AbortedError.
	settled chan struct{}
	how     error
	// stays counts what Close waits for: the transaction until it has ended for its application, and first attempts to
	// end a branch that began before.
	stays atomic.Int32

	// turn holds one token. Who has it owns what follows; a driver that has begun to end
	// the transaction keeps it.
	turn     chan struct{}
	ended    bool
	expired  *limitError // what ended it, if neither Commit nor Rollback did
	undone   error       // what rolling back said then
	core     twopc.Initiator
	branches []*branch // by number
}

var _ adapters.Global = (*Tx)(nil)

// branch is one open session.
type branch struct {
	no       txn.BranchNo
	resource string
	opener   adapters.Opener
	session  adapters.Session
	prepared txn.Branch // once it voted Yes
	claim    *claim     // of three phases, if there was work
	err      error      // why it voted No or did not commit
	torn     error      // that part of it may be committed
	failed   int        // attempts to end it
	voting   atomic.Bool

	// What the database was asked for when it was seen not to answer, and when that was first. Both belong to waits.
	asked uint64
	waits time.Time

	step context.Context   // with what hooks have put into it
	over func(error) error // tells the hooks that nothing is left to do
}

// claim is what is known of a branch that an agent holds, which votes for it.
type claim struct {
	holder txn.Party
	epoch  uint64
	txn.Claim
}

func newTx(ctx context.Context, c *Client, id ID, cluster txn.ClusterID, p txn.Protocol, limit *limitError,
	deadline time.Time) *Tx {
	tx := &Tx{client: c, id: id, cluster: cluster, protocol: p,
		began: time.Now(), deadline: deadline, limit: limit, turn: make(chan struct{}, 1),
		settled: make(chan struct{})}
	tx.stays.Store(1)
	tx.life, tx.forget = context.WithDeadlineCause(ctx, deadline, limit)
	tx.turn <- struct{}{}
	return tx
}

// ID returns the id, which is unique and can be stored with the data. To ask Client.Outcome
// for it later begin the transaction with Recorded: of one that changed a single
// database the cluster hears nothing otherwise.
func (tx *Tx) ID() ID { return tx.id }

// Deadline returns when the transaction is rolled back if it has not ended by then.
func (tx *Tx) Deadline() time.Time { return tx.deadline }

// take waits for the turn. The error is ErrTxEnded, the limit that ended the transaction,
// or why it was not waited for any longer.
func (tx *Tx) take(ctx context.Context) error {
	select {
	case <-tx.turn:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	switch {
	case tx.expired != nil:
		tx.give()
		return tx.expired
	case tx.ended:
		tx.give()
		return ErrTxEnded
	}
	return nil
}

func (tx *Tx) give() { tx.turn <- struct{}{} }

// Enlist returns the open branch of a resource, and opens it at first use. Adapters
// call it; applications call the Tx method of their adapter.
func (tx *Tx) Enlist(ctx context.Context, r adapters.Opener) (adapters.Session, error) {
	ctx, cancel := context.WithDeadlineCause(ctx, tx.deadline, tx.limit)
	defer cancel()
	session, err := tx.enlist(ctx, r)
	if err != nil {
		if ended := ctx.Err(); ended != nil && err != error(tx.limit) && errors.Is(err, ended) {
			err = fmt.Errorf("%w: %w", tx.because(ctx), err)
		}
		return nil, &enlistError{resource: r.Name(), err: err}
	}
	return session, nil
}

func (tx *Tx) enlist(ctx context.Context, r adapters.Opener) (adapters.Session, error) {
	if err := tx.take(ctx); err != nil {
		return nil, err
	}
	defer tx.give()
	if tx.life.Err() != nil { // and nobody has rolled it back yet
		return nil, tx.because(tx.life)
	}
	// Before the name is looked up: a second resource of that name may be another database.
	if err := tx.client.resources.fits(ctx, r); err != nil {
		return nil, err
	}
	for _, b := range tx.branches {
		if b.resource == r.Name() {
			return b.session, nil
		}
	}
	if _, hosted := r.(adapters.Hosted); tx.protocol == txn.ThreePhaseCommit && !hosted {
		return nil, errNotHosted
	}
	no, ok := tx.next(ctx)
	if !ok {
		return nil, tx.full()
	}
	ctx = tx.client.within(ctx, tx.life)
	step, over := tx.client.start(ctx, Step{Kind: StepBranch, GID: tx.id, Label: tx.label, Resource: r.Name(),
		Driver: r.Driver(), Attempt: 1})
	session, err := r.Open(step, txn.XID{Cluster: tx.cluster, ID: tx.id, Branch: no})
	if err != nil {
		_ = over(err)
		tx.client.resources.suspect(r)
		return nil, err
	}
	if err := tx.deferred(step, r.Name(), session); err != nil {
		_ = session.Rollback(step) // nothing was sent
		_ = over(err)
		return nil, err
	}
	tx.add(&branch{no: no, resource: r.Name(), opener: r, session: session, step: step, over: over})
	if _, able := session.(adapters.Waiting); able {
		tx.client.waits.add(tx)
	}
	return session, nil
}

func (tx *Tx) full() error {
	if tx.part != nil {
		return fmt.Errorf("a call of another service may open no more branches here, there are %d: use fewer "+
			"databases in one transaction, or let fewer services hand it on", len(tx.branches))
	}
	return fmt.Errorf("the transaction has %d branches already, which is the limit: split it", len(tx.branches))
}

var errNotHosted = errors.New("no agent holds its branches, and only agents can decide in three phases: " +
	"put the database behind an agent (\"concord agent --help\"), or begin the transaction without " +
	"WithProtocol(ThreePhase)")

// Commit makes all branches permanent, or none. It returns nil when the transaction is
// committed, an *AbortedError when nothing of it happened anywhere, an *UnknownError when
// that could not be learned before ctx or the transaction's time limit ended, a *TornError
// when the application's own SQL ended the work of a branch, and ErrTxEnded after an earlier
// Commit or Rollback. After nil a branch may still be applying if ctx ended meanwhile, or with WithAnswerAtDecision.
func (tx *Tx) Commit(ctx context.Context) error {
	if tx.part != nil {
		return errBegunElsewhere
	}
	return tx.commit(ctx)
}

func (tx *Tx) commit(ctx context.Context) (err error) {
	ctx, cancel := context.WithDeadlineCause(ctx, tx.deadline, tx.limit)
	defer cancel()
	if err := tx.openLast(ctx); err != nil {
		tx.doomed.CompareAndSwap(nil, &err)
	}
	if err := tx.claim(); err != nil {
		if expired := (*limitError)(nil); errors.As(err, &expired) {
			return tx.atLimit(expired)
		}
		if !errors.Is(err, ErrTxEnded) {
			return &AbortedError{GID: tx.id, Err: err} // nobody commits it any more
		}
		return err
	}
	defer func() { tx.over(err) }()
	if why := tx.hopeless(ctx); why != nil {
		undone := tx.rollBack(ctx, why)
		if errors.Is(undone, ErrTorn) {
			return undone
		}
		tx.client.logRollback(tx, undone)
		return tx.aborted(tx.blame(why), why)
	}
	for _, b := range tx.branches {
		if s, ok := b.session.(adapters.Reading); ok && s.OnlyRead() {
			tx.core.Step(twopc.OnlyRead{No: b.no})
		}
	}
	asked := twopc.CommitAsked{Recorded: tx.recorded(), AtDecision: tx.early}
	if b := tx.lastBranch(); b != nil {
		asked.Deferred, asked.Last = true, b.no
	}
	r, d := tx.drive(ctx, asked)
	return tx.result(ctx, r, d.cause)
}

// recorded reports whether the cluster decides in any case. The transaction must have been claimed.
func (tx *Tx) recorded() bool {
	return tx.part != nil || tx.id.Class() == txn.Recorded || tx.protocol == txn.ThreePhaseCommit ||
		slices.ContainsFunc(tx.branches, func(b *branch) bool {
			s, ok := b.session.(adapters.Undecided)
			return ok && s.NeedsDecision()
		})
}

// hopeless says why a commit need not be tried.
func (tx *Tx) hopeless(ctx context.Context) error {
	switch {
	case tx.life.Err() != nil:
		return tx.because(tx.life)
	case ctx.Err() != nil:
		return tx.because(ctx)
	case tx.unanswered(): // before doomed: who loses an answer dooms the transaction, and then the call is over
		return errUnanswered
	case tx.doomed.Load() != nil:
		return *tx.doomed.Load()
	}
	return tx.client.resources.strange() // nobody could decide
}

// Rollback undoes all branches. An ended context does not keep it from that: it
// takes a bounded time. If a branch could not be asked the error says so, and the client goes on
// trying in the background. It returns a *TornError when the application's own SQL ended the work
// of a branch, and ErrTxEnded after an earlier Commit or Rollback.
func (tx *Tx) Rollback(ctx context.Context) error { return tx.rollback(ctx, errAskedFor) }

func (tx *Tx) rollback(ctx context.Context, why error) error {
	if err := tx.claim(); err != nil {
		if expired := (*limitError)(nil); errors.As(err, &expired) {
			return tx.undone
		}
		return err
	}
	err := tx.rollBack(ctx, errAskedFor)
	if torn := tx.torn(); torn != nil {
		why = torn
	} else {
		why = tx.aborted(tx.blame(why), why)
	}
	tx.over(why)
	return err
}

var errAskedFor = errors.New("the application asked for it")

func (tx *Tx) rollBack(ctx context.Context, why error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishPatience)
	defer cancel()
	tx.drive(ctx, protocol.RollbackAsked{Reason: why.Error()})
	if torn := tx.torn(); torn != nil {
		return torn
	}
	for _, b := range tx.branches {
		if b.err != nil {
			return fmt.Errorf("%s could not be asked to end its branch, which may hold locks until the client or "+
				"the cluster has ended it: %w", b.resource, b.err)
		}
	}
	return nil
}

// expire ends a transaction at its limit, whatever its application is doing. Commit and
// Rollback wait for it if it was first.
func (tx *Tx) expire() {
	<-tx.turn // an Enlist ends soon after the limit
	defer tx.give()
	if tx.ended {
		return
	}
	tx.fall(tx.because(tx.life))
}

// fall ends a transaction that nobody has ended, whatever its application is doing. The caller has the turn.
func (tx *Tx) fall(why *limitError) {
	tx.ended, tx.expired = true, why
	tx.undone = tx.rollBack(context.Background(), tx.expired)
	tx.client.logRollback(tx, tx.undone)
	_ = tx.end(tx.atLimit(tx.expired))
	tx.gone(tx.expired)
}

// gone is the last that the client hears of a transaction that has ended, as far as its application is concerned.
func (tx *Tx) gone(err error) {
	tx.forget()
	tx.releaseIdle(err)
	tx.client.waits.remove(tx)
	tx.leave()
}

// leave ends what was counted in stays.
func (tx *Tx) leave() {
	if tx.stays.Add(-1) == 0 {
		tx.client.inFlight.Done()
	}
}

// atLimit is what Commit says after the limit.
func (tx *Tx) atLimit(expired error) error {
	if torn := tx.torn(); torn != nil {
		return torn
	}
	return tx.aborted("", expired)
}

// claim ends the life of tx as far as others are concerned. Even an ended context
// must claim: the branches have to be ended in any case.
func (tx *Tx) claim() error {
	patient, cancel := context.WithTimeout(context.Background(), claimPatience)
	defer cancel()
	switch err := tx.take(patient); {
	case err == nil:
	case patient.Err() != nil:
		err = fmt.Errorf("transaction %s is still in the hands of another call that has not returned: its time "+
			"limit ends it: %w", tx.id, err)
		tx.doomed.CompareAndSwap(nil, &err)
		return err
	default:
		return err
	}
	tx.ended = true
	tx.give()
	return nil
}

// over is called by who has claimed the transaction and ended it, in a way that err tells.
func (tx *Tx) over(err error) {
	tx.how = err
	close(tx.settled)
	_ = tx.end(err)
	tx.watch()
	tx.gone(err)
}

// result turns the core's reply into what the application gets.
func (tx *Tx) result(ctx context.Context, r protocol.Reply, cause error) error {
	if torn := tx.torn(); torn != nil {
		return torn
	}
	if cause == nil {
		cause = errors.New(r.Reason)
	}
	var resource string
	if r.By {
		b := tx.branch(r.Branch)
		resource, cause = b.resource, b.err
		if no := (*joined.VoteError)(nil); errors.As(cause, &no) {
			resource = no.Resource
		}
		if err := ctx.Err(); err != nil && errors.Is(cause, err) {
			cause = fmt.Errorf("%w: %w", tx.because(ctx), cause)
		}
	}
	switch {
	case r.Outcome == txn.Committed:
		return nil
	case r.Outcome == txn.Aborted:
		return tx.aborted(resource, cause)
	case r.By: // it committed alone
		return &UnknownError{Resource: resource, Err: ofAnother(cause)}
	}
	tx.client.doubts.add(tx.id, tx.last)
	return &UnknownError{GID: tx.id, Err: ofAnother(cause)}
}

func (tx *Tx) aborted(resource string, cause error) error {
	passes := tx.passes(cause)
	if why := tx.doomed.Load(); why != nil {
		passes = passes || tx.passes(*why)
	}
	return &AbortedError{GID: tx.id, Resource: resource, Retryable: passes, Err: cause}
}

// passes reports whether the cause of an abort may be gone next time. The transaction must have ended.
func (tx *Tx) passes(cause error) bool {
	var no *joined.VoteError
	return errors.As(cause, &no) && no.Passing || errors.As(cause, new(*DeadlockError)) ||
		errors.Is(cause, adapters.ErrSettled) ||
		errors.Is(cause, errLeaseEnded) || errors.Is(cause, txn.ErrUnavailable) ||
		slices.ContainsFunc(tx.branches, func(b *branch) bool { return b.opener.Transient(cause) })
}

// failed is what Run says after its function failed.
func (tx *Tx) failed(err, rollback error) error {
	if torn := (*TornError)(nil); errors.As(rollback, &torn) {
		return torn.after(err)
	}
	tx.client.logRollback(tx, rollback)
	return tx.aborted(tx.blame(err), err)
}

// withLimit adds that the limit is over to what the function said about it.
func (tx *Tx) withLimit(err error) error {
	if errors.As(err, new(*limitError)) {
		return err
	}
	return fmt.Errorf("%w; the function returned: %w", tx.because(tx.life), err)
}

// torn is a *TornError, or nil.
func (tx *Tx) torn() error {
	for _, b := range tx.branches {
		if b.torn != nil {
			return &TornError{GID: tx.id, Resource: b.resource, Err: ofAnother(b.torn)}
		}
	}
	return nil
}

// because names the limit that ended ctx, which is the transaction's or a caller's.
func (tx *Tx) because(ctx context.Context) *limitError {
	if victim := tx.victim.Load(); victim != nil {
		return victim
	}
	cause := context.Cause(ctx)
	if cause == error(tx.limit) || tx.limit.caller != nil && errors.Is(cause, tx.limit.caller) {
		return tx.limit
	}
	return &limitError{after: time.Since(tx.began), caller: cause}
}

// blame returns the resource that an error of the application came from, if one did. The
// transaction must have ended.
func (tx *Tx) blame(err error) string {
	if tx.victim.Load() != nil {
		return "" // none: the cluster has ended it
	}
	var enlisting *enlistError
	if errors.As(err, &enlisting) {
		return enlisting.resource
	}
	if no := (*joined.VoteError)(nil); errors.As(err, &no) {
		return no.Resource
	}
	for _, b := range tx.branches {
		if s, ok := b.session.(adapters.Failing); ok {
			for _, failure := range s.Failures() {
				if failure != nil && errors.Is(err, failure) {
					return b.resource
				}
			}
		}
	}
	return ""
}
