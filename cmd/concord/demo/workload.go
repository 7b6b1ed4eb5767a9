// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/txn"
)

// settleTimeout bounds the wait for the end of all transactions after the last transfer.
const settleTimeout = 30 * time.Second

// workload moves money between banks.
type workload struct {
	o       Options
	banks   *banks
	cluster *cluster
	client  *concord.Client
	events  chan string // what happened to nodes; the newest are dropped when nobody reads

	mu        sync.Mutex
	started   time.Time
	next      int
	committed int
	aborted   int
	unknown   []concord.ID
	kills     int
	latencies []time.Duration

	outage outage // owned by loseCoordinators until it has ended
}

func newWorkload(ctx context.Context, o Options, b *banks, c *cluster) (*workload, error) {
	client, err := concord.Dial(ctx, c.api())
	if err != nil {
		return nil, err
	}
	return &workload{o: o, banks: b, cluster: c, client: client, events: make(chan string, 64), started: time.Now(),
		outage: outage{finished: map[concord.ID]txn.Decision{}}}, nil
}

func (w *workload) close() { _ = w.client.Close() }

// run makes all transfers and kills, waits for the dust to settle, and adds up.
func (w *workload) run(ctx context.Context) (result, error) {
	g, gctx := errgroup.WithContext(ctx)
	for range w.o.Workers {
		g.Go(func() error { return w.transfers(gctx) })
	}
	if w.o.KillCoordinators {
		g.Go(func() error { return w.loseCoordinators(gctx) })
	} else {
		g.Go(func() error { return w.killLeaders(gctx) })
	}
	if err := g.Wait(); err != nil {
		return result{}, err
	}
	elapsed := time.Since(w.started)
	if err := w.settle(ctx); err != nil {
		return result{}, err
	}
	sum, err := w.banks.sum(ctx)
	if err != nil {
		return result{}, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	slices.Sort(w.latencies)
	r := result{Transfers: w.o.Transfers, Committed: w.committed, Aborted: w.aborted, Unknown: len(w.unknown),
		LeaderKills: w.kills,
		SumExpected: w.banks.expected(), Sum: sum, InDoubt: w.cluster.inDoubt(), Seconds: elapsed.Seconds(),
		PerSecond: float64(w.committed) / elapsed.Seconds(), P50: quantile(w.latencies, .5),
		P99: quantile(w.latencies, .99)}
	if w.o.agents() {
		finished := len(w.outage.finished)
		r.CoordinatorsKilled, r.FinishedByAgents = &w.outage.killed, &finished
	}
	return r, nil
}

// transfers is one worker.
func (w *workload) transfers(ctx context.Context) error {
	for w.take() {
		if err := ctx.Err(); err != nil {
			return err
		}
		begin := time.Now()
		err := w.transfer(ctx)
		var unknown *concord.UnknownError
		w.mu.Lock()
		switch {
		case err == nil:
			w.committed++
			w.latencies = append(w.latencies, time.Since(begin))
		case errors.As(err, &unknown):
			w.unknown = append(w.unknown, unknown.GID)
		case errors.Is(err, concord.ErrAborted):
			w.aborted++
		default:
			w.mu.Unlock()
			return err
		}
		w.mu.Unlock()
	}
	return nil
}

func (w *workload) take() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.next++
	return w.next <= w.o.Transfers
}

// transfer moves some money from one bank to another, in one transaction. Chance is all that is asked of its numbers.
func (w *workload) transfer(ctx context.Context) error {
	from := rand.IntN(len(w.banks.list))                                  // #nosec G404
	to := (from + 1 + rand.IntN(len(w.banks.list)-1)) % len(w.banks.list) // #nosec G404
	amount := int64(1 + rand.IntN(10))                                    // #nosec G404
	if from > to {                                                        // always in the order of the list
		from, to, amount = to, from, -amount
	}
	return w.client.Run(ctx, func(ctx context.Context, tx *concord.Tx) error {
		if err := w.banks.list[from].Add(ctx, tx, rand.IntN(accountsPerBank), -amount); err != nil { // #nosec G404
			return err
		}
		return w.banks.list[to].Add(ctx, tx, rand.IntN(accountsPerBank), amount) // #nosec G404
	}, w.protocol(to), concord.WithTimeout(transferTime))
}

// protocol is how a transfer to a bank is decided.
func (w *workload) protocol(to int) concord.TxOption {
	if w.o.Protocol == LastResource {
		return concord.WithLastResource(w.banks.list[to].Name())
	}
	return concord.WithProtocol(w.o.Protocol)
}

// transferTime is more than the loss of all coordinators takes here.
const transferTime = time.Minute

// killLeaders stops the leader whenever another part of the transfers is done.
func (w *workload) killLeaders(ctx context.Context) error {
	for n := 1; n <= w.o.Kills; n++ {
		for w.progress().done < n*w.o.Transfers/(w.o.Kills+1) {
			if err := pause(ctx, 10*time.Millisecond); err != nil {
				return nil
			}
		}
		killed, err := w.cluster.killLeader(ctx, w.say)
		if err != nil {
			return err
		}
		w.mu.Lock()
		if killed {
			w.kills++
		}
		w.mu.Unlock()
	}
	return nil
}

func (w *workload) say(event string) {
	select {
	case w.events <- event:
	default:
	}
}

// settle asks for outcomes that were unknown and waits until nothing is in doubt.
func (w *workload) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	for _, id := range w.unknown {
		if _, err := w.client.Outcome(ctx, id); err != nil {
			return err
		}
	}
	for !w.settled(ctx) {
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return nil // the result says what is in doubt
		}
	}
	return nil
}

// settled asks the leader and every bank.
func (w *workload) settled(ctx context.Context) bool {
	if n := w.cluster.inDoubt(); n == nil || *n > 0 {
		return false
	}
	for _, r := range w.banks.resources() {
		if listing, err := r.Recover(ctx); err != nil || len(listing) > 0 {
			return false
		}
	}
	return true
}

// progress is where a workload stands.
type progress struct {
	elapsed            time.Duration
	done, kills        int
	committed, aborted int
	unknown            int
	inDoubt            string
	rate               float64
	leader             string
}

func (w *workload) progress() progress {
	s := w.cluster.snapshot()
	w.mu.Lock()
	defer w.mu.Unlock()
	p := progress{elapsed: time.Since(w.started), committed: w.committed, aborted: w.aborted, unknown: len(w.unknown),
		kills: w.kills, inDoubt: "unknown", leader: "none"}
	if f := s.Known(time.Now()); f != nil {
		p.inDoubt = fmt.Sprint(f.InDoubt)
	}
	p.done = p.committed + p.aborted + p.unknown
	p.rate = float64(p.committed) / p.elapsed.Seconds()
	if s.Leader != 0 {
		p.leader = fmt.Sprint(s.Leader)
	}
	return p
}

// quantile returns milliseconds; sorted must be in order.
func quantile(sorted []time.Duration, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return float64(sorted[int(q*float64(len(sorted)-1))].Microseconds()) / 1000
}
