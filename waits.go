// SPDX-License-Identifier: Apache-2.0

package concord

import (
	"context"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
)

const (
	// longWait is how long the cluster is not bothered with a wait.
	longWait = time.Second
	// waitsEvery is how often a client looks who waits, while it has transactions.
	waitsEvery = 250 * time.Millisecond
	// waitsPatience bounds telling the cluster. Nobody waits for it.
	waitsPatience = 2 * time.Second
)

// waits tells the cluster which transactions wait for their databases for long, and ends those that
// it finds to be victims of deadlocks. A transaction pays for it with an entry in a map.
type waits struct {
	client *Client
	wake   chan struct{} // capacity 1: "there are transactions again"; when full, one is there already

	mu     sync.Mutex
	txs    map[*Tx]bool // that have a branch that can tell whether it waits
	asleep bool         // nobody looks until there is a transaction

	// What follows is owned by run.

	heard uint64    // the last look of the cluster
	later time.Time // nothing is told before
}

func newWaits(c *Client) *waits {
	return &waits{client: c, wake: make(chan struct{}, 1), txs: map[*Tx]bool{}, asleep: true}
}

func (w *waits) add(tx *Tx) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.txs[tx] = true
	if w.asleep {
		w.asleep = false
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

func (w *waits) remove(tx *Tx) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.txs, tx)
}

// all returns the transactions to look at. If there are none the caller sleeps until it is woken.
func (w *waits) all() []*Tx {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asleep = len(w.txs) == 0
	txs := make([]*Tx, 0, len(w.txs))
	for tx := range w.txs {
		txs = append(txs, tx)
	}
	return txs
}

// run looks at the transactions until life ends.
func (w *waits) run(life context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-w.wake:
		case <-timer.C:
		case <-life.Done():
			return
		}
		if txs := w.all(); len(txs) > 0 {
			for w.look(life, txs) {
				txs = w.all()
			}
			timer.Reset(waitsEvery)
		}
	}
}

// look tells the cluster who waits, and reports whether to look once more at once: the cluster has looked at the
// databases meanwhile, and what it has seen there counts for transactions that still wait.
func (w *waits) look(life context.Context, txs []*Tx) (again bool) {
	req := &concordv1.WaitingRequest{Heard: w.heard}
	told := map[string]*Tx{}
	now := time.Now()
	for _, tx := range txs {
		if m := tx.waiting(now); m != nil && len(req.Transactions) < api.MaxWaiting {
			req.Transactions = append(req.Transactions, m)
			told[m.GetGid()] = tx
		}
	}
	if len(told) == 0 || now.Before(w.later) {
		return false
	}
	ctx, cancel := context.WithTimeout(life, waitsPatience)
	defer cancel()
	res, err := w.client.api.Waiting(ctx, req)
	if err != nil {
		w.later = time.Now().Add(waitsEvery)
		if connect.CodeOf(err) == connect.CodeUnimplemented {
			w.later = time.Now().Add(leaseNever) // the cluster does not know how
		}
		w.client.logger.Debug("lock waits could not be reported to the cluster", "err", err)
		return false
	}
	for _, d := range res.GetDeadlocks() {
		if tx := told[d.GetVictim()]; tx != nil {
			why := &DeadlockError{Resources: d.GetResources()}
			for _, text := range d.GetOthers() {
				if id, err := ParseID(text); err == nil {
					why.Others = append(why.Others, id)
				}
			}
			w.client.inBackground(func() { tx.sacrifice(why) }) // not after Close, which has no transactions left
		}
	}
	again = res.GetLook() != w.heard
	w.heard = res.GetLook()
	return again
}

// waiting is what the cluster is told of a transaction, or nil if it does not wait for long, or
// somebody is just changing it.
func (tx *Tx) waiting(now time.Time) *concordv1.WaitingTransaction {
	select {
	case <-tx.turn:
	default:
		return nil
	}
	defer tx.give()
	m := &concordv1.WaitingTransaction{Gid: tx.id.String(), Voting: tx.ended}
	long := false
	for _, b := range tx.branches {
		s, able := b.session.(adapters.Waiting)
		if !able || s.SessionName() == "" {
			continue
		}
		waits := b.waited(now, s, tx.ended) >= longWait
		long = long || waits
		m.Branches = append(m.Branches, &concordv1.WaitingBranch{Resource: b.resource, Session: s.SessionName(),
			Waits: waits})
	}
	if !long {
		return nil
	}
	return m
}

// waited returns for how long the branch has waited for its database, as far as it was seen.
func (b *branch) waited(now time.Time, s adapters.Waiting, ended bool) time.Duration {
	number, waits := s.Asked()
	if ended { // the application has nothing to say any more
		number, waits = ^uint64(0), b.voting.Load()
	}
	switch {
	case !waits:
		b.waits = time.Time{}
		return 0
	case b.waits.IsZero() || number != b.asked:
		b.asked, b.waits = number, now
	}
	return now.Sub(b.waits)
}

// sacrifice ends a transaction for the others of a deadlock, unless it is being ended already.
func (tx *Tx) sacrifice(why *DeadlockError) {
	<-tx.turn
	defer tx.give()
	if tx.ended {
		return
	}
	tx.client.logger.Info("the cluster ends a transaction because of a deadlock", "gid", tx.id, "label", tx.label,
		"resources", why.Resources, "others", why.Others)
	tx.victim.Store(&limitError{victim: why})
	tx.watch()
	tx.fall(tx.victim.Load())
}
