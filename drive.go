// SPDX-License-Identifier: Apache-2.0

package concord

import (
	"context"
	"errors"
	"fmt"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/internal/mutant"
	"github.com/concordtx/concord/protocol/twopc"
	"github.com/concordtx/concord/txn"
)

// driver carries out what the core of one transaction asks for. It decides nothing.
// It is owned by the goroutine that runs drive, and then by the one that runs carryOn.
type driver struct {
	tx        *Tx
	ctx       context.Context   // the application's, which bounds what may still be given up
	events    chan twopc.Event  // has room for every event that can be sent
	reply     chan *twopc.Reply // has room for the only one
	gaveUp    bool              // no decision will arrive any more
	finishing bool              // branches are being ended
}

// drive runs the core until it replies, and returns the reply. What the core still
// has to do then goes on in the background: the sessions of prepared branches are
// finished even if their application stopped waiting.
func (tx *Tx) drive(ctx context.Context, first twopc.Event) twopc.Reply {
	d := &driver{
		tx:  tx,
		ctx: ctx,
		// A branch sends at most two events, for its vote and its end, and the Ask one.
		events: make(chan twopc.Event, 2*len(tx.branches)+1),
		reply:  make(chan *twopc.Reply, 1),
	}
	d.step(first)
	waitOver := ctx.Done()
	for {
		select {
		case r := <-d.reply:
			if !tx.core.Over() && (d.gaveUp || !tx.client.inBackground(d.carryOn)) {
				d.abandon()
			}
			return *r
		case e := <-d.events:
			if e == nil {
				d.gaveUp = true
				e = twopc.WaitOver{Reason: "the cluster could not be asked"}
			}
			d.step(e)
		case <-waitOver:
			waitOver = nil // once is enough
			d.step(twopc.WaitOver{Reason: "the time was up"})
		}
	}
}

// carryOn runs the core to its end. It gives up with the client: the cluster ends
// the branches that are left.
func (d *driver) carryOn() {
	for !d.tx.core.Over() {
		select {
		case e := <-d.events:
			if e == nil { // ask logged why
				d.abandon()
				return
			}
			d.step(e)
		case <-d.tx.client.life.Done():
			d.abandon()
			return
		}
	}
}

// abandon lets go of sessions whose prepared branches wait for a decision. One that is
// being finished ends by itself.
func (d *driver) abandon() {
	if d.finishing {
		return
	}
	for _, b := range d.tx.branches {
		b.session.Abandon()
	}
}

func (d *driver) step(e twopc.Event) {
	var last *branch // to prepare, which needs no goroutine: all votes are waited for
	for _, f := range d.tx.core.Step(e) {
		switch f := f.(type) {
		case twopc.Prepare:
			if b := last; b != nil {
				go func() { d.events <- d.prepare(b) }()
			}
			last = d.tx.branches[f.No]
		case twopc.CommitOnePhase:
			go func() { d.events <- d.commitOnePhase(d.tx.branches[f.No]) }()
		case twopc.Ask:
			if !d.tx.client.inBackground(func() { d.events <- d.ask(f.Branches) }) {
				d.events <- nil
			}
		case twopc.Finish:
			d.finishing = true
			go func() { d.events <- d.finish(d.tx.branches[f.No], f.Decision) }()
		case twopc.Report:
			d.tx.client.reports.add(api.Finished{ID: d.tx.id, No: f.No, Finish: f.Finish})
		case twopc.Reply:
			d.reply <- &f
		}
	}
	if last != nil {
		d.events <- d.prepare(last)
	}
}

func (d *driver) prepare(b *branch) twopc.Event {
	vote, prepared, err := b.session.Prepare(d.ctx)
	if err != nil {
		b.err = err
		return twopc.Voted{No: b.no, Vote: txn.VoteNo, Reason: err.Error()}
	}
	prepared.No, prepared.Resource = b.no, b.resource
	if vote == txn.VoteNo {
		b.err = errors.New("voted no without a reason")
	}
	return twopc.Voted{No: b.no, Vote: vote, Branch: prepared}
}

func (d *driver) commitOnePhase(b *branch) twopc.Event {
	b.err = b.session.CommitOnePhase(d.ctx)
	switch {
	case b.err == nil:
		return twopc.OnePhaseDone{Outcome: txn.Committed}
	case errors.Is(b.err, adapters.ErrNotCommitted):
		return twopc.OnePhaseDone{Outcome: txn.Aborted, Reason: b.err.Error()}
	}
	return twopc.OnePhaseDone{Outcome: txn.Unknown, Reason: b.err.Error()}
}

// finish ends a branch on its own session, whatever became of the application's context.
func (d *driver) finish(b *branch, decision txn.Decision) twopc.Event {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(d.ctx), finishPatience)
	defer cancel()
	log := d.tx.client.logger.With("gid", d.tx.id, "resource", b.resource)
	if decision == txn.Abort {
		if err := b.session.Rollback(ctx); err != nil {
			if b.err == nil {
				b.err = err
			}
			log.Warn("could not roll back a branch on its own session; the database or the cluster ends it", "error", err)
			return twopc.FinishFailed{No: b.no}
		}
		return twopc.Finished{No: b.no, Finish: txn.Done}
	}
	finish, err := b.session.Commit(ctx)
	if err != nil {
		log.Warn("could not commit a branch on its own session; the cluster commits it", "error", err)
		return twopc.FinishFailed{No: b.no}
	}
	if finish != txn.Done && finish != txn.AlreadyDone {
		log.Error("a branch did not end as it was decided", "decision", decision, "found", finish)
	}
	return twopc.Finished{No: b.no, Finish: finish}
}

// ask sends the one commit request. If the cluster refuses it, or does not answer, the
// outcome is settled by asking for it: an earlier attempt may have been heard. It
// returns nil when nobody could be asked in time.
func (d *driver) ask(branches []txn.Branch) twopc.Event {
	client := d.tx.client
	ctx, cancel := context.WithTimeout(client.life, settlePatience)
	defer cancel()
	request := api.Commit{ID: d.tx.id, Cluster: d.tx.cluster, Protocol: d.tx.protocol, Branches: branches, Label: d.tx.label}
	res, err := client.api.Commit(ctx, api.CommitRequest(request))
	if err != nil && mutant.RetryUnderNewGid {
		request.ID = txn.NewID(d.tx.id.Time()).WithClass(d.tx.id.Class())
		res, err = client.api.Commit(ctx, api.CommitRequest(request))
	}
	if err == nil {
		var decision txn.Decision
		if decision, err = api.ParseDecision("decision", res.GetDecision()); err == nil {
			return twopc.Decided{Decision: decision, Reason: res.GetReason()}
		}
	}
	reason := err
	for {
		decision, why, err := d.settle(ctx)
		switch {
		case err == nil && decision == txn.Abort:
			return twopc.Decided{Decision: decision, Reason: fmt.Sprintf("%v (%s)", reason, why)}
		case err == nil:
			client.logger.Info("settled a transaction late", "gid", d.tx.id, "decision", decision)
			return twopc.Decided{Decision: decision, Reason: why}
		case !errors.Is(err, api.ErrUnavailable) || ctx.Err() != nil:
			client.logger.Error("gave up asking for a decision; the cluster ends the branches", "gid", d.tx.id, "error", err)
			return nil
		}
	}
}

// settle asks for the outcome.
func (d *driver) settle(ctx context.Context) (txn.Decision, string, error) {
	res, err := d.tx.client.api.Outcome(ctx, &concordv1.OutcomeRequest{Gid: d.tx.id.String(), Several: true})
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
	}
	return txn.Undecided, "", fmt.Errorf("the cluster answered %v: look with \"concord tx get %s\"", outcome, d.tx.id)
}
