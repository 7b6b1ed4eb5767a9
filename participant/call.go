// SPDX-License-Identifier: Apache-2.0

package participant

import (
	"context"
	"fmt"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/api/member"
	"github.com/concordtx/concord/txn"
)

// Do does a piece of work. The work goes on when ctx ends; its answer is kept for who repeats the
// number. The error is a *Refusal or that of ctx.
func (a *Agent) Do(ctx context.Context, e WorkAsked) (Answer, error) {
	reply, err := a.await(ctx, func(c Call) Event { e.Call = c; return e })
	if err != nil {
		return Answer{}, err
	}
	return reply.(Answer), nil
}

// Prepare returns the vote of a branch.
func (a *Agent) Prepare(ctx context.Context, e PrepareAsked) (Cast, error) {
	reply, err := a.await(ctx, func(c Call) Event { e.Call = c; return e })
	if err != nil {
		return Cast{}, err
	}
	return reply.(Cast), nil
}

// Finish ends a branch as it was decided, and returns what that found. It goes on when ctx ends.
func (a *Agent) Finish(ctx context.Context, e Decided) (txn.Finish, error) {
	reply, err := a.await(ctx, func(c Call) Event { e.Call = c; return e })
	if err != nil {
		return 0, err
	}
	return reply.(Ended).Finish, nil
}

// Sync returns when the journal has, durably, all that was to be written so far. The error is a *Refusal
// or that of ctx.
func (a *Agent) Sync(ctx context.Context) error {
	_, err := a.await(ctx, func(c Call) Event { return SyncAsked{c} })
	return err
}

// Deliver hears other members of three-phase transactions. It does not wait for what comes of it. The
// error is a *Refusal or that of ctx.
func (a *Agent) Deliver(ctx context.Context, cluster txn.ClusterID, envelopes []member.Envelope) error {
	switch own := txn.ClusterID(a.cluster.Load()); own {
	case cluster:
	case 0:
		return &Refusal{Kind: Unavailable,
			Text: "this agent has not reached its cluster yet, and does not know which it is: it will be asked again"}
	default:
		return &Refusal{Kind: Invalid, Text: fmt.Sprintf("the messages are from cluster %v, but this agent belongs "+
			"to cluster %v: correct the addresses of one of them", cluster, own)}
	}
	for _, e := range envelopes {
		select {
		case a.events <- Heard{Cluster: cluster, ID: e.ID, From: e.From, To: e.To, Message: e.Message}:
		case <-a.closed:
			return errStopped
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// Closed is closed when the agent has ended, and answers nothing any more.
func (a *Agent) Closed() <-chan struct{} { return a.closed }

// Addr is where coordinators and other agents find this one.
func (a *Agent) Addr() string { return a.conf.Addr }

// States returns what is known of the branches of one transaction, or of all with a zero id.
func (a *Agent) States(ctx context.Context, id txn.ID) ([]State, error) {
	var list []State
	err := a.query(ctx, func(c *Core) { list = c.States(id) })
	return list, err
}

// Opened is how many branches have a session, and which cluster the agent belongs to (0: not known yet).
func (a *Agent) Opened(ctx context.Context) (n int, cluster txn.ClusterID, err error) {
	err = a.query(ctx, func(c *Core) { n, cluster = c.Open(), c.cluster })
	return n, cluster, err
}

func (a *Agent) query(ctx context.Context, ask func(*Core)) error {
	done := make(chan struct{})
	select {
	case a.queries <- func(c *Core) { ask(c); close(done) }:
		<-done
		return nil
	case <-a.closed:
		return errStopped
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Listed asks the databases, or the one of that name, for their prepared branches. Which could not be
// asked is said by the second result.
func (a *Agent) Listed(ctx context.Context, name string) (list map[string][]adapters.Prepared, warnings []string) {
	list = map[string][]adapters.Prepared{}
	for _, d := range a.conf.Databases {
		if name != "" && d.Name() != name {
			continue
		}
		prepared, err := d.Recover(ctx)
		if err != nil {
			warnings = append(warnings, fmt.Sprintf("resource %s could not be listed: %v", d.Name(), err))
		}
		list[d.Name()] = prepared
	}
	return list, warnings
}

var errStopped = &Refusal{Kind: Unavailable, Text: "this agent is shutting down: ask again when it has restarted"}

func (a *Agent) await(ctx context.Context, event func(Call) Event) (Effect, error) {
	call, reply := Call(a.calls.Add(1)), make(chan Effect, 1)
	a.mu.Lock()
	a.waiting[call] = reply
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		delete(a.waiting, call)
		a.mu.Unlock()
	}()
	select {
	case a.events <- event(call):
	case <-a.closed:
		return nil, errStopped
	case <-ctx.Done():
		return nil, fmt.Errorf("the agent is busy: ask again in a moment: %w", ctx.Err())
	}
	select {
	case e := <-reply:
		if r, refused := e.(Refuse); refused {
			return nil, r.Err
		}
		return e, nil
	case <-a.closed:
		return nil, errStopped
	case <-ctx.Done():
		select {
		case a.events <- Left{Call: call}:
		case <-a.closed:
		default: // it is answered in vain
		}
		return nil, fmt.Errorf("the agent is still working on it: repeat the request to get its answer: "+
			"%w", context.Cause(ctx))
	}
}

func (a *Agent) reply(call Call, e Effect) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if reply := a.waiting[call]; reply != nil {
		select {
		case reply <- e: // has room for the only one
		default:
		}
	}
}

// Validate refuses a record that no session of the resource can have written.
func (a *Agent) Validate(b txn.Branch) error {
	if d := a.hosted[b.Resource]; d != nil {
		return d.Validate(b)
	}
	return nil // which the core refuses
}
