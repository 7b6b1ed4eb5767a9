// SPDX-License-Identifier: Apache-2.0

package participant

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/api/member"
	"github.com/concordtx/concord/participant/statement"
	"github.com/concordtx/concord/txn"
)

// carry carries out what the core asked for, at once, and returns what is for the journal. It does not
// wait: what takes time is a worker of its own, of which a branch has one for each piece of work, vote
// and attempt to end it.
func (a *Agent) carry(effects []Effect) (writes []Write) {
	for _, e := range effects {
		switch e := e.(type) {
		case Run:
			if e.Open {
				a.mu.Lock()
				a.sessions[e.Branch.XID] = &slot{ready: make(chan struct{})}
				a.mu.Unlock()
			}
			a.work(func() Event { return a.run(e) })
		case Prepare:
			a.work(func() Event { return a.prepare(e) })
		case Finish:
			a.work(func() Event { return a.finish(e) })
		case Inquire:
			a.ask(func(ctx context.Context) Event { return a.inquire(ctx, e) }, Uninformed{e.ID})
		case Report:
			a.ask(func(ctx context.Context) Event { a.report(ctx, e); return nil }, nil)
		case Write:
			writes = append(writes, e)
		case Say:
			a.say(e)
		case Note:
			log := a.log.With("gid", e.ID.String())
			if e.Alarm {
				log.Error(e.Text)
			} else {
				log.Warn(e.Text)
			}
		case Answer:
			a.reply(e.Call, e)
		case Cast:
			a.reply(e.Call, e)
		case Synced:
			a.reply(e.Call, e)
		case Ended:
			a.reply(e.Call, e)
		case Refuse:
			a.reply(e.Call, e)
		}
	}
	return writes
}

// say sends a message to another member, or loses it.
func (a *Agent) say(e Say) {
	if e.To.Addr == "" && !e.To.IsWitness() {
		return
	}
	a.sender.Send(txn.ClusterID(a.cluster.Load()), e.To.Addr,
		member.Envelope{ID: e.ID, From: a.party(), To: e.To.PartyID, Message: e.Message})
}

// party is who this agent is to other members, and where.
func (a *Agent) party() txn.Party {
	return txn.Party{PartyID: txn.PartyID{Agent: a.conf.Name, Journal: a.life.Journal}, Addr: a.conf.Addr}
}

func (a *Agent) work(do func() Event) {
	a.workers.Go(func() { a.send(do()) })
}

// ask asks the cluster, unless too much is asked already.
func (a *Agent) ask(do func(context.Context) Event, otherwise Event) {
	select {
	case a.questions <- struct{}{}:
	default:
		if otherwise != nil {
			a.workers.Go(func() { a.send(otherwise) })
		}
		return
	}
	a.workers.Go(func() {
		defer func() { <-a.questions }()
		ctx, cancel := a.within(askTime)
		defer cancel()
		if e := do(ctx); e != nil {
			a.send(e)
		}
	})
}

// within bounds a worker by a time and by the end of the loop.
func (a *Agent) within(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(a.working, d)
}

func (a *Agent) slot(x txn.XID) *slot {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.sessions[x]
}

func (a *Agent) drop(x txn.XID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.sessions, x)
}

func (a *Agent) run(e Run) Event {
	done := WorkDone{XID: e.Branch.XID, Number: e.Number}
	timeout := e.Timeout
	if timeout <= 0 {
		timeout = DefaultTimeout
	}
	ctx, cancel := a.within(min(timeout, MaxTimeout))
	defer cancel()
	r, err := a.do(ctx, e)
	if err != nil {
		done.Failed, done.NotSent = err.Error(), errors.Is(err, statement.ErrRefused)
		if errors.Is(err, context.DeadlineExceeded) {
			done.Failed = fmt.Sprintf("the statement took longer than %v and was cut short: roll the transaction "+
				"back, or allow more time: %v", timeout, err)
		}
		return done
	}
	done.Result, done.Sum = r, r.Sum()
	return done
}

func (a *Agent) do(ctx context.Context, e Run) (statement.Result, error) {
	s := a.slot(e.Branch.XID)
	if s == nil {
		return statement.Result{}, adapters.ErrBranchEnded
	}
	if e.Open {
		session, err := a.hosted[e.Branch.Resource].Begin(ctx, e.Branch.XID)
		if err == nil {
			s.session = session
		}
		close(s.ready)
		if err != nil {
			return statement.Result{}, err
		}
	}
	if s.session == nil {
		return statement.Result{}, errNotBegun
	}
	return s.session.Do(ctx, e.Work, e.Limits)
}

var errNotBegun = errors.New("the session of the branch could not be begun: roll the transaction back and begin a " +
	"new one")

// begun returns the place of a branch's session, or nil if it has none.
func (a *Agent) begun(ctx context.Context, x txn.XID) (*slot, error) {
	s := a.slot(x)
	if s == nil {
		return nil, nil
	}
	select {
	case <-s.ready:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if s.session == nil {
		return nil, nil
	}
	return s, nil
}

func (a *Agent) prepare(e Prepare) Event {
	ctx, cancel := a.within(voteTime)
	defer cancel()
	x := e.Branch.XID
	s, err := a.begun(ctx, x)
	if err == nil && s == nil {
		err = errNotBegun
	}
	if err != nil {
		return Voted{XID: x, Reason: err.Error()}
	}
	vote, b, err := s.session.Prepare(ctx)
	if err == nil && vote == txn.VoteNo {
		err = errors.New("the database voted no without a reason")
	}
	if err != nil {
		return Voted{XID: x, Reason: err.Error(), Torn: errors.Is(err, adapters.ErrTorn)}
	}
	s.prepared = vote == txn.VoteYes
	if vote == txn.VoteReadOnly {
		a.drop(x)
	}
	b.No, b.Resource = x.Branch, e.Branch.Resource
	return Voted{XID: x, Vote: vote, Branch: b}
}

// finish ends a branch on its session, as long as that works, and then by the resource.
func (a *Agent) finish(e Finish) Event {
	ctx, cancel := a.within(finishTime)
	defer cancel()
	x := e.Branch.XID
	log := a.log.With("gid", x.ID.String(), "branch", uint8(x.Branch), "resource", e.Branch.Resource,
		"decision", e.Decision.String())
	found, err := a.end(ctx, e)
	if err != nil {
		log.Warn("could not end a branch; it will be tried again", "err", err)
		return FinishFailed{XID: x, Why: err.Error()}
	}
	if found == txn.Lost || found == txn.Contradicted {
		log.Error("a branch did not end as decided", "found", found.String())
	}
	return Finished{XID: x, Finish: found}
}

func (a *Agent) end(ctx context.Context, e Finish) (txn.Finish, error) {
	x, resource := e.Branch.XID, a.hosted[e.Branch.Resource]
	s, err := a.begun(ctx, x)
	if err != nil {
		return 0, err
	}
	switch {
	case s == nil && e.Decision == txn.Commit:
		return resource.Commit(ctx, x, e.Record)
	case s == nil:
		a.drop(x)
		return resource.Rollback(ctx, x, e.Record)
	case e.Decision == txn.Commit:
		found, err := s.session.Commit(ctx)
		if err != nil {
			s.session.Abandon() // the next attempt is the resource's
		}
		a.drop(x)
		return found, err
	}
	s.prepared = false
	if err = s.session.Rollback(ctx); !adapters.Ended(err) {
		return 0, err // the session alone knows what may be left
	}
	a.drop(x)
	if err != nil { // torn
		return txn.Contradicted, nil
	}
	return txn.Done, nil
}

func (a *Agent) inquire(ctx context.Context, e Inquire) Event {
	d, branches, err := a.conf.Cluster.Decision(ctx, e.Cluster, e.ID, e.Settle)
	if err != nil {
		a.log.Debug("the cluster does not say what was decided; it will be asked "+
			"again", "gid", e.ID.String(), "err", err)
	}
	if err != nil || d == txn.Undecided {
		return Uninformed{e.ID}
	}
	a.log.Info("the cluster said what was decided", "gid", e.ID.String(), "decision", d.String())
	return Informed{ID: e.ID, Decision: d, Branches: branches}
}

func (a *Agent) report(ctx context.Context, e Report) {
	if err := a.conf.Cluster.Finished(ctx, e.Branch.XID, e.Finish); err != nil {
		a.log.Debug("a report of a finished branch was lost", "gid", e.Branch.XID.ID.String(), "err", err)
	}
}
