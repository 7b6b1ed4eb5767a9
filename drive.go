// SPDX-License-Identifier: Apache-2.0

package concord

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/internal/mutant"
	"github.com/concordtx/concord/protocol"
	"github.com/concordtx/concord/protocol/twopc"
	"github.com/concordtx/concord/txn"
)

// driver carries out what the core of one transaction asks for. It decides nothing.
// It is owned by the goroutine that runs drive, and then by the one that runs carryOn.
type driver struct {
	tx     *Tx
	ctx    context.Context      // the application's, which bounds what may still be given up
	words  chan word            // has room for every one that can be under way
	reply  chan *protocol.Reply // has room for the only one
	cause  error                // why the core was told to give up or to abort
	gaveUp bool                 // no decision will arrive any more

	siblings  []txn.BranchNo // that may have written, when all were to be prepared
	finishing bool           // branches are being ended
	trying    int            // branches that are being ended for the first time
	stays     bool           // Close waits for them
	// What was tried in vain is tried again while again lasts, which is nil until then.
	again    context.Context
	endAgain context.CancelFunc
}

// word is what came of an effect. The event is nil when the decision will not be learned.
type word struct {
	event protocol.Event
	from  *branch // nil if it is of none
	err   error
	first bool // it is about the first attempt to end a branch
}

// drive runs the core until it replies, and returns the reply. What the core still
// has to do then goes on in the background: the sessions of prepared branches are
// finished even if their application stopped waiting.
func (tx *Tx) drive(ctx context.Context, first protocol.Event) (protocol.Reply, *driver) {
	d := &driver{
		tx:  tx,
		ctx: ctx,
		// At any time a branch has one word to say, and the Ask one.
		words: make(chan word, len(tx.branches)+1),
		reply: make(chan *protocol.Reply, 1),

		siblings: tx.siblings(),
	}
	for _, s := range tx.outward.services {
		s.Siblings(d.siblings)
	}
	d.step(first)
	waitOver := ctx.Done()
	for {
		select {
		case r := <-d.reply:
			d.stay()
			switch {
			case tx.core.Over():
				tx.driven()
			case d.gaveUp || !tx.client.carry(d.carryOn):
				d.abandon()
				tx.driven()
			}
			return *r, d
		case w := <-d.words:
			d.hear(w)
		case <-waitOver:
			waitOver = nil // once is enough
			d.waitOver(tx.because(ctx))
		}
	}
}

// driven is called when nothing is done for the transaction any more.
func (tx *Tx) driven() {
	if tx.part != nil { // under the lease of who began it
		tx.part.over(tx.core.Over())
		return
	}
	tx.client.lease.done()
}

// hear takes a word while the application waits.
func (d *driver) hear(w word) {
	if b := w.from; b != nil && w.err != nil {
		if b.err == nil {
			b.err = w.err
		}
		if b.torn == nil && errors.Is(w.err, adapters.ErrTorn) {
			b.torn = w.err
		}
	}
	switch w.event.(type) {
	case nil:
		d.gaveUp = true
		d.waitOver(w.err)
		return
	case protocol.Decided, twopc.NotAsked:
		d.cause = w.err
	}
	d.take(w)
}

// take hands the event of a word to the core.
func (d *driver) take(w word) {
	if w.first {
		d.trying--
	}
	d.step(w.event)
}

// stay lets Close wait for branches that are being ended for the first time when the application is answered.
func (d *driver) stay() {
	if d.trying > 0 {
		d.stays = true
		d.tx.stays.Add(1)
	}
}

// leave ends that.
func (d *driver) leave() {
	if d.stays {
		d.stays = false
		d.tx.leave()
	}
}

func (d *driver) waitOver(cause error) {
	if d.cause == nil {
		d.cause = cause
	}
	d.step(twopc.WaitOver{Reason: cause.Error()})
}

// carryOn runs the core to its end. It gives up with the client: the cluster ends
// the branches that are left.
func (d *driver) carryOn() {
	defer d.tx.driven()
	defer d.abandon()
	for !d.tx.core.Over() {
		select {
		case w := <-d.words:
			if w.event == nil { // ask logged why
				return
			}
			if d.take(w); d.trying == 0 {
				d.leave()
			}
		case <-d.tx.client.life.Done():
			return
		}
	}
}

// abandon lets go of sessions whose prepared branches wait for a decision, and of further
// attempts. A session that is being finished ends by itself.
func (d *driver) abandon() {
	if d.endAgain != nil {
		d.endAgain()
	}
	d.leave()
	for _, b := range d.tx.branches {
		if !d.finishing {
			b.session.Abandon()
		}
		_ = b.over(errAbandoned)
	}
}

// errAbandoned is how a branch ends for its client when the cluster ends it.
var errAbandoned = errors.New("the branch was left to the cluster")

// start begins a step of the transaction, or of one of its branches.
func (d *driver) start(ctx context.Context, kind StepKind, b *branch) (context.Context, func(error) error) {
	step := Step{Kind: kind, GID: d.tx.id, Label: d.tx.label, Attempt: 1}
	around := d.tx.life
	if b != nil {
		step.Resource, step.Driver, step.Attempt, around = b.resource, b.opener.Driver(), b.failed+1, b.step
	}
	return d.tx.client.start(d.tx.client.within(ctx, around), step)
}

func (d *driver) step(e protocol.Event) {
	for _, f := range d.tx.core.Step(e) {
		switch f := f.(type) {
		case protocol.Prepare:
			b := d.tx.branch(f.No)
			go func() { d.words <- d.prepare(b) }()
		case twopc.CommitOnePhase:
			go func() { d.words <- d.commitOnePhase(d.tx.branch(f.No)) }()
		case twopc.CommitLast:
			go func() { d.words <- d.commitLast(d.tx.branch(f.No), f.Branches) }()
		case twopc.TellCommitted:
			d.tx.client.reports.decide(txn.LastDecision{ID: d.tx.id, Last: d.tx.last,
				LastMarker: txn.LastMarker{Decision: txn.Commit, Label: d.tx.label, Branches: f.Branches}})
		case twopc.Ask:
			asks := d.tx.client.inBackground(func() { d.words <- d.decide(f.Branches) })
			switch {
			case asks:
			case d.tx.last != "":
				d.words <- word{err: ErrClosed}
			default:
				d.words <- notAsked(ErrClosed)
			}
		case protocol.Finish:
			d.finishing = true
			b := d.tx.branch(f.No)
			if f.Again {
				d.finishAgain(b, f.Decision)
				continue
			}
			d.trying++
			go func() {
				w := d.finish(b, f.Decision)
				w.first = true
				d.words <- w
			}()
		case twopc.TellAborted:
			// Where the application's own SQL may have committed, this client knows no more than anybody. Nor does it
			// where others have a part in it: those whom it has called, or who began the transaction.
			again := d.tryAgain()
			sure := d.tx.torn() == nil && d.tx.part == nil && len(d.tx.outward.services) == 0
			d.tx.client.inBackground(func() { d.tx.tellAborted(again, sure) }) // not after Close
		case protocol.Report:
			if d.tx.protocol == txn.ThreePhaseCommit {
				continue // the agents are members, and report to the cluster themselves
			}
			if d.tx.part != nil {
				d.tx.part.report(f)
			}
			d.tx.client.reports.add(api.Finished{ID: d.tx.id, No: f.No, Finish: f.Finish})
		case protocol.Reply:
			d.reply <- &f
		}
	}
}

// siblings are the branches that may have written: those that are there when all are prepared.
func (tx *Tx) siblings() (nos []txn.BranchNo) {
	if tx.part != nil {
		return tx.part.writers()
	}
	for _, b := range tx.branches {
		if s, ok := b.session.(adapters.Reading); !ok || !s.OnlyRead() {
			nos = append(nos, b.no)
		}
	}
	return nos
}

func (d *driver) prepare(b *branch) word {
	if d.tx.protocol == txn.ThreePhaseCommit {
		return claimed(b)
	}
	if s, ok := b.session.(adapters.Levelled); ok {
		s.KnownLevel(d.tx.client.resources.knownLevel())
	}
	if s, ok := b.session.(adapters.Counted); ok && slices.Contains(d.siblings, b.no) {
		s.Siblings(d.siblings)
	}
	ctx, end := d.start(d.ctx, StepPrepare, b)
	b.voting.Store(true)
	vote, prepared, err := b.session.Prepare(ctx)
	b.voting.Store(false)
	if err == nil && vote == txn.VoteNo {
		err = errors.New("voted no without a reason")
	}
	if err = end(err); err != nil {
		return word{event: protocol.Voted{No: b.no, Vote: txn.VoteNo, Reason: err.Error()}, from: b, err: err}
	}
	if vote == txn.VoteReadOnly {
		_ = b.over(nil)
	}
	prepared.No, prepared.Resource = b.no, b.resource
	b.prepared = prepared
	return word{event: protocol.Voted{No: b.no, Vote: vote, Branch: prepared}, from: b}
}

// claimed ends the work in a branch that an agent holds. The cluster asks for its vote.
func claimed(b *branch) word {
	s, ok := b.session.(adapters.Claiming)
	if !ok {
		return word{event: protocol.Voted{No: b.no, Vote: txn.VoteNo, Reason: errNotHosted.Error()}, from: b,
			err: errNotHosted}
	}
	holder, epoch, k, err := s.Claim()
	switch {
	case err != nil:
		return word{event: protocol.Voted{No: b.no, Vote: txn.VoteNo, Reason: err.Error()}, from: b, err: err}
	case k.Number == 0:
		return word{event: protocol.Voted{No: b.no, Vote: txn.VoteReadOnly}, from: b}
	}
	b.claim = &claim{holder, epoch, k}
	b.prepared = txn.Branch{No: b.no, Resource: b.resource}
	return word{event: protocol.Voted{No: b.no, Vote: txn.VoteYes, Branch: b.prepared}, from: b}
}

// agents are those that hold the branches, in order.
func (tx *Tx) agents() (agents []txn.Agent) {
	for _, b := range tx.branches {
		if b.claim == nil {
			continue
		}
		i := slices.IndexFunc(agents, func(a txn.Agent) bool {
			return a.PartyID == b.claim.holder.PartyID &&
				a.Epoch == b.claim.epoch
		})
		if i < 0 {
			i = len(agents)
			agents = append(agents, txn.Agent{Party: b.claim.holder, Epoch: b.claim.epoch})
		}
		agents[i].Branches = append(agents[i].Branches, b.prepared)
		agents[i].Claims = append(agents[i].Claims, b.claim.Claim)
	}
	return agents
}

func (d *driver) commitOnePhase(b *branch) word { return d.commitAlone(b, b.session.CommitOnePhase) }

// commitAlone commits a branch whose own commit is the decision.
func (d *driver) commitAlone(b *branch, commit func(context.Context) error) word {
	ctx, end := d.start(d.ctx, StepCommitOnePhase, b)
	err := end(commit(ctx))
	_ = b.over(err)
	switch {
	case err == nil:
		return word{event: twopc.OnePhaseDone{Outcome: txn.Committed}, from: b}
	case errors.Is(err, adapters.ErrNotCommitted):
		return word{event: twopc.OnePhaseDone{Outcome: txn.Aborted, Reason: err.Error()}, from: b, err: err}
	}
	return word{event: twopc.OnePhaseDone{Outcome: txn.Unknown, Reason: err.Error()}, from: b, err: err}
}

// finish ends a branch on its own session, whatever became of the application's context.
func (d *driver) finish(b *branch, decision txn.Decision) word {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(d.ctx), finishPatience)
	defer cancel()
	log := d.tx.client.logger.With("gid", d.tx.id, "resource", b.resource)
	ctx, end := d.startFinish(ctx, b, decision)
	if decision == txn.Abort {
		err := end(b.session.Rollback(ctx))
		if !adapters.Ended(err) {
			log.Warn("could not roll back a branch; it will be tried again", "err", err)
			return word{event: protocol.FinishFailed{No: b.no}, from: b, err: err}
		}
		_ = b.over(err)
		return word{event: protocol.Finished{No: b.no, Finish: txn.Done}, from: b, err: err}
	}
	finish, err := b.session.Commit(ctx)
	if err = end(err); err != nil {
		log.Warn("could not commit a branch on its own session; it will be tried again", "err", err)
		return word{event: protocol.FinishFailed{No: b.no}, from: b, err: err}
	}
	if finish != txn.Done && finish != txn.AlreadyDone {
		log.Error("a branch did not end as decided", "decision", decision, "found", finish)
	}
	_ = b.over(nil)
	return word{event: protocol.Finished{No: b.no, Finish: finish}, from: b}
}

func (d *driver) startFinish(ctx context.Context, b *branch, decision txn.Decision) (context.Context,
	func(error) error) {
	kind := StepCommit
	if decision == txn.Abort {
		kind = StepRollback
	}
	return d.start(ctx, kind, b)
}

const (
	// pauses before a further attempt to end a branch: the first, and what they grow to
	shortPause, longPause = 50 * time.Millisecond, 5 * time.Second
)

// tryAgain returns what bounds further attempts: the client, or that nobody waits for them.
func (d *driver) tryAgain() context.Context {
	if d.again == nil {
		d.again, d.endAgain = context.WithCancel(d.tx.client.life)
	}
	return d.again
}

// finishAgain tries to end a branch once more, after a pause. What is left when the client is
// closed is the cluster's.
func (d *driver) finishAgain(b *branch, decision txn.Decision) {
	again, pause := d.tryAgain(), min(shortPause<<min(b.failed, 16), longPause)
	b.failed++
	d.tx.client.inBackground(func() {
		if api.Wait(again, pause) != nil {
			b.session.Abandon()
			_ = b.over(errAbandoned)
			return
		}
		d.words <- d.retry(again, b, decision)
	})
}

// retry commits a branch like anybody else, since its session is gone or useless. Only
// the session itself knows how to undo what was perhaps not prepared.
func (d *driver) retry(ctx context.Context, b *branch, decision txn.Decision) word {
	ctx, cancel := context.WithTimeout(ctx, finishPatience)
	defer cancel()
	log := d.tx.client.logger.With("gid", d.tx.id, "resource", b.resource)
	finish, err := txn.Done, error(nil)
	ctx, end := d.startFinish(ctx, b, decision)
	if decision == txn.Abort {
		err = b.session.Rollback(ctx)
	} else {
		finish, err = b.opener.Commit(ctx, txn.XID{Cluster: d.tx.cluster, ID: d.tx.id, Branch: b.no}, b.prepared)
	}
	if err = end(err); !adapters.Ended(err) {
		log.Debug("could not end a branch", "decision", decision, "attempts", b.failed, "err", err)
		return word{event: protocol.FinishFailed{No: b.no}}
	}
	log.Info("ended a branch late", "decision", decision, "found", finish)
	_ = b.over(err)
	return word{event: protocol.Finished{No: b.no, Finish: finish}}
}

// tellAborted makes the cluster decide to abort what it never heard of, so that it ends the
// branches if this client dies. It tries once even when ctx has ended. sure says that no database has
// committed anything by itself.
func (tx *Tx) tellAborted(ctx context.Context, sure bool) {
	for pause := shortPause; ; pause = min(2*pause, longPause) {
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), reportLimit)
		err := tx.askToAbort(limited, sure)
		cancel()
		if err == nil {
			return
		}
		tx.client.logger.Debug("could not tell the cluster that a transaction is aborted", "gid", tx.id, "err", err)
		if !errors.Is(err, txn.ErrUnavailable) || api.Wait(ctx, pause) != nil {
			return
		}
	}
}

// askToAbort makes the cluster decide to abort, unless it has decided before. sure is as in tellAborted.
func (tx *Tx) askToAbort(ctx context.Context, sure bool) error {
	_, err := tx.client.api.Outcome(ctx,
		&concordv1.OutcomeRequest{Gid: tx.id.String(), Several: sure, Cluster: tx.cluster.String(),
			LastResource: tx.last})
	return err
}

func notAsked(why error) word {
	return word{event: twopc.NotAsked{Reason: why.Error()}, err: why}
}

// decide asks for the decision, as a step.
func (d *driver) decide(branches []txn.Branch) word {
	ctx, end := d.start(d.tx.client.life, StepDecide, nil)
	w := d.ask(ctx, branches)
	how := w.err
	if decided, ok := w.event.(protocol.Decided); ok && decided.Decision == txn.Commit {
		how = nil
	}
	if lost := end(how); how == nil && lost != nil {
		return word{err: lost}
	}
	return w
}

// ask sends the one commit request. If the cluster refuses it, or does not answer, the outcome is settled by asking for
// it: an earlier attempt may have been heard, and what stands between may refuse what was heard. The word has no event
// when the decision will not be learned.
func (d *driver) ask(ctx context.Context, branches []txn.Branch) word {
	if d.tx.part != nil {
		return d.tx.part.decide(ctx, branches)
	}
	client := d.tx.client
	ctx, cancel := context.WithTimeout(ctx, settlePatience)
	defer cancel()
	if d.tx.last != "" {
		return d.askLast(ctx)
	}
	if err := client.lease.alive(ctx, d.tx.id.Lease()); err != nil {
		return notAsked(err)
	}
	sent := time.Now()
	request := txn.CommitRequest{ID: d.tx.id, Cluster: d.tx.cluster, Protocol: d.tx.protocol, Branches: branches,
		Label: d.tx.label, Key: d.tx.key, Result: d.tx.kept, Trace: api.Traceparent(d.tx.life)}
	if d.tx.protocol == txn.ThreePhaseCommit {
		request.Branches, request.Agents = nil, d.tx.agents()
	}
	res, err := client.api.Commit(ctx, api.CommitRequest(request))
	if err != nil && mutant.RetryUnderNewGid {
		request.ID = txn.NewID(d.tx.id.Time()).WithClass(d.tx.id.Class())
		res, err = client.api.Commit(ctx, api.CommitRequest(request))
	}
	if err == nil {
		var decision txn.Decision
		if decision, err = api.ParseDecision("decision", res.GetDecision()); err == nil {
			client.lease.answered(d.tx.id.Lease(), decision, sent)
			why := errors.New(res.GetReason())
			if decision == txn.Abort {
				why = client.resources.explain(ctx, branches, why)
			}
			return decided(decision, why)
		}
	}
	refusal := err
	unheard := api.Unheard(err)
	for {
		if strange := client.resources.recognize(ctx); strange != nil {
			if unheard {
				return notAsked(strange)
			}
			client.logger.Error("gave up asking for a decision", "gid", d.tx.id, "err", strange)
			return word{err: strange}
		}
		decision, why, err := d.settle(ctx)
		switch {
		case err == nil && decision == txn.Abort:
			return decided(decision, fmt.Errorf("%w (%s)", refusal, why))
		case err == nil:
			client.logger.Info("settled a transaction late", "gid", d.tx.id, "decision", decision)
			return decided(decision, errors.New(why))
		case unheard: // the cluster says nothing but no, and has not heard of it
			return notAsked(refusal)
		case !errors.Is(err, txn.ErrUnavailable) || ctx.Err() != nil:
			client.logger.Error("gave up asking for a decision; the cluster ends the branches", "gid", d.tx.id, "err",
				err)
			return word{err: fmt.Errorf("the cluster could not be asked: %w", err)}
		}
	}
}

func decided(d txn.Decision, why error) word {
	return word{event: protocol.Decided{Decision: d, Reason: why.Error()}, err: why}
}

// settle asks for the outcome.
func (d *driver) settle(ctx context.Context) (txn.Decision, string, error) {
	res, err := d.tx.client.api.Outcome(ctx,
		&concordv1.OutcomeRequest{Gid: d.tx.id.String(), Several: true, Cluster: d.tx.cluster.String(),
			LastResource: d.tx.last})
	if err != nil {
		return txn.Undecided, "", err
	}
	outcome, err := api.ParseOutcome("outcome", res.GetOutcome())
	switch {
	case err != nil:
		return txn.Undecided, "", err
	case outcome == txn.Committed:
		return txn.Commit, res.GetReason(), nil
	case outcome == txn.Aborted:
		return txn.Abort, res.GetReason(), nil
	case outcome == txn.Unknown:
		return txn.Undecided, "", txn.ErrTooOld
	}
	return txn.Undecided, "", fmt.Errorf("the cluster answered %v: see \"concord tx get %s\"", outcome, d.tx.id)
}
