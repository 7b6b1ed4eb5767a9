// SPDX-License-Identifier: Apache-2.0

package concord

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/txn"
)

const (
	// beginPatience bounds how long Begin waits for a lease. Without one the cluster knows what
	// this client leaves behind by its age only.
	beginPatience = time.Second
	// leaseRetry is how long no other lease is asked for after the cluster gave none, and
	// leaseNever after one that does not know what a lease is.
	leaseRetry = time.Second
	leaseNever = time.Minute
	// leaseQuestion bounds asking whether a lease has ended, when it may have.
	leaseQuestion = 10 * time.Second
	// leaseGoodbye bounds giving a lease back.
	leaseGoodbye = time.Second
)

// errLeaseEnded is why transactions are aborted that were begun under a lease that ended.
var errLeaseEnded = errors.New("the cluster had not heard from this client for too long (was it stopped, or cut " +
	"off?), has ended its lease, and rolls back what it holds: begin again")

// lease is the one lease of a client. It is renewed while there are transactions, by their
// commit requests or by messages of its own, and lapses when there are none.
//
// What this client believes is never longer than what the cluster does: it counts from the
// moment at which it sent what the cluster has answered.
type lease struct {
	api       *api.Client
	logger    *slog.Logger
	resources *resources
	wake      chan struct{} // capacity 1: "look again"; when full, one is there already

	mu      sync.Mutex
	granted bool      // the cluster grants leases, as far as is known
	number  txn.Lease // 0: none
	length  time.Duration
	until   time.Time     // when it ends unless it is renewed
	users   int           // transactions that are not over
	wanted  chan struct{} // not nil while one is asked for at once; closed when that is over
	since   time.Time     // when that began
	later   time.Time     // nothing is asked for before
}

func newLease(c *api.Client, r *resources, l *slog.Logger) *lease {
	k := &lease{api: c, logger: l, resources: r, wake: make(chan struct{}, 1), granted: r.grantsLeases()}
	if !k.granted { // perhaps it will
		k.later = time.Now().Add(leaseRetry)
	}
	return k
}

// begin counts one more transaction and returns the lease to begin it under. If there is none
// that lasts long enough it waits a little for one, and then goes without.
func (l *lease) begin(ctx context.Context, patience time.Duration) txn.Lease {
	l.mu.Lock()
	l.users++
	if !l.granted && l.resources.grantsLeases() { // a new cluster has come to that
		l.granted, l.later = true, time.Time{}
	}
	number, now := l.lasting(), time.Now()
	if number == 0 && l.wanted == nil && now.After(l.later) {
		l.wanted, l.since = make(chan struct{}), now
	}
	if l.users == 1 || number == 0 {
		l.look()
	}
	wanted, since, granted := l.wanted, l.since, l.granted
	l.mu.Unlock()
	if number != 0 || wanted == nil || !granted { // who may not get one does not wait for it
		return number
	}
	over := time.NewTimer(time.Until(since.Add(patience)))
	defer over.Stop()
	select {
	case <-wanted:
	case <-over.C:
	case <-ctx.Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lasting()
}

// lasting returns the lease if there is time enough to renew it.
func (l *lease) lasting() txn.Lease {
	if time.Until(l.until) < l.length/3 {
		return 0
	}
	return l.number
}

func (l *lease) look() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// done counts one transaction less.
func (l *lease) done() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.users--
}

// run keeps the lease while there are transactions, until life ends.
func (l *lease) run(life context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		if wait, something := l.due(); something {
			timer.Reset(wait)
		}
		select {
		case <-l.wake:
		case <-timer.C:
		case <-life.Done():
			l.over(life.Err())
			return
		}
		if wait, something := l.due(); something && wait <= 0 {
			l.keep(life)
		}
	}
}

// due returns when there is something to do: a third of the time after the last word.
func (l *lease) due() (wait time.Duration, something bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.wanted != nil:
		return 0, true
	case l.users == 0 || l.number == 0:
		return 0, false
	}
	return max(time.Until(l.until)-l.length*2/3, time.Until(l.later)), true
}

// keep renews the lease, or asks for a new one.
func (l *lease) keep(life context.Context) {
	l.mu.Lock()
	number, length, wanted := l.number, l.length, l.wanted != nil
	l.mu.Unlock()
	ctx, cancel := context.WithTimeout(life, max(length, beginPatience))
	defer cancel()
	ended, err := number == 0, error(nil)
	if number != 0 {
		ended, err = l.renew(ctx, number)
	}
	if ended && wanted {
		_, err = l.renew(ctx, 0)
	}
	l.over(err)
}

// over lets those go on who wait for a lease.
func (l *lease) over(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err == nil:
	case connect.CodeOf(err) == connect.CodeUnimplemented:
		l.later = time.Now().Add(leaseNever)
	default:
		l.later = time.Now().Add(leaseRetry)
	}
	if l.wanted != nil {
		close(l.wanted)
		l.wanted = nil
	}
}

// renew renews a lease, or asks for a new one if number is 0. It reports whether the cluster
// says that the lease has ended.
func (l *lease) renew(ctx context.Context, number txn.Lease) (ended bool, err error) {
	sent := time.Now()
	res, err := l.api.Lease(ctx, &concordv1.LeaseRequest{Lease: uint32(number)})
	if err != nil {
		l.logger.Debug("the cluster could not be reached for a lease", "lease", number, "err", err)
		return false, err
	}
	l.resources.clock(res.GetNowMs())
	l.mu.Lock()
	defer l.mu.Unlock()
	l.length = time.Duration(res.GetLengthMs()) * time.Millisecond
	switch {
	case res.GetLease() != 0:
		if number == 0 {
			number = txn.Lease(res.GetLease())
			l.number, l.granted = number, true
		}
		l.hold(number, sent)
		return false, nil
	case number == l.number:
		l.logger.Warn("the cluster has ended the lease of this client: transactions that were begun under it are "+
			"aborted", "lease", number)
		l.number, l.until = 0, time.Time{}
	}
	return true, nil
}

// answered notes what the cluster decided when it was asked to commit under a lease. A decision
// to abort may come from the end of the lease, so that is asked for.
func (l *lease) answered(number txn.Lease, d txn.Decision, sent time.Time) {
	if number == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case d == txn.Commit:
		l.hold(number, sent)
	case number == l.number:
		l.until = time.Time{}
		l.look()
	}
}

func (l *lease) hold(number txn.Lease, sent time.Time) {
	if until := sent.Add(l.length); number == l.number && until.After(l.until) {
		l.until = until
	}
}

// alive returns nil if a lease is known to last at this moment, if need be by asking the
// cluster. An error says why nothing must be committed under it.
func (l *lease) alive(ctx context.Context, number txn.Lease) error {
	l.mu.Lock()
	held, until := l.number == number, l.until
	l.mu.Unlock()
	switch {
	case number == 0 || held && time.Now().Before(until):
		return nil
	case !held:
		return errLeaseEnded
	}
	ctx, cancel := context.WithTimeout(ctx, leaseQuestion)
	defer cancel()
	ended, err := l.renew(ctx, number)
	switch {
	case err != nil:
		return fmt.Errorf("this client may have lost its lease, and the cluster could not be asked: %w", err)
	case ended:
		return errLeaseEnded
	}
	return nil
}

// close gives the lease back, so that what is left of this client's transactions ends at once.
func (l *lease) close() {
	l.mu.Lock()
	number, until := l.number, l.until
	l.mu.Unlock()
	if number == 0 || time.Now().After(until) {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), leaseGoodbye)
	defer cancel()
	if _, err := l.api.Lease(ctx, &concordv1.LeaseRequest{Lease: uint32(number), End: true}); err != nil {
		l.logger.Debug("the lease could not be given back; it will end by itself", "lease", number, "err", err)
	}
}
