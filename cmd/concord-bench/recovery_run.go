// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/adapters/agent"
	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/cmd/internal/bank"
	"github.com/concordtx/concord/cmd/internal/config"
	"github.com/concordtx/concord/cmd/internal/terminal"
	"github.com/concordtx/concord/txn"
)

const (
	// doomedClients are so many processes at a time.
	doomedClients = 4
	// newWorkers make new transactions while the old ones are settled.
	newWorkers = 8
	// recoveryLimit is when waiting for the end is given up.
	recoveryLimit = 10 * time.Minute
	// unreachable is a resource whose agent nobody reaches: nothing listens at the port.
	unreachable, nowhere = "unreachable", "127.0.0.1:1"
)

// recoveryBench is one measurement.
type recoveryBench struct {
	branches, connections int
	cases                 []string
	restart, program      string
	say                   func(string, ...any)

	banks     [2]bank.Bank
	databases [2]doomedDatabase
	nodes     *nodes
	client    *api.Client
	cluster   txn.ClusterID
	lease     txn.Lease // of the clients that die
}

// open makes the accounts and starts the nodes.
func (b *recoveryBench) open(ctx context.Context, file, dir string) error {
	_, chosen, err := twoDatabases(file)
	if err != nil {
		return err
	}
	if err := openBanks(ctx, &b.banks, chosen, newWorkers); err != nil {
		return err
	}
	if b.databases, err = doomedDatabases(chosen); err != nil {
		return err
	}
	chosen = append(chosen, config.Resource{Name: unreachable, Driver: agent.Driver, Addr: nowhere})
	// Their lease says that the clients live: nothing is due because of its age.
	if b.nodes, err = startNodesWith(ctx, &nodes{maxAge: time.Hour}, b.program, dir, chosen); err != nil {
		return err
	}
	if b.cluster, err = clusterAt(ctx, b.nodes.addresses()); err != nil {
		return err
	}
	b.client, err = api.Dial(b.nodes.addresses(), api.ClientOptions{})
	return err
}

func (b *recoveryBench) close() error {
	var errs []error
	if b.client != nil {
		errs = append(errs, b.client.Close())
	}
	return errors.Join(append(errs, closeCluster(nil, b.nodes), closeBanks(&b.banks))...)
}

// round prepares, decides, kills, and measures.
func (b *recoveryBench) round(ctx context.Context, r *recoveryRound) error {
	begin := time.Now()
	l, err := b.hold(ctx)
	if err != nil {
		return err
	}
	defer l.letGo()
	b.lease = l.number
	all, err := b.doomed(ctx, l.number)
	if err != nil {
		return err
	}
	if err := b.decide(ctx, all[:len(all)/2], r.Poisoned); err != nil {
		return err
	}
	r.Prepared = time.Since(begin).Seconds()
	b.say("%s: %d branches are prepared in each database after %.0f s", r.Case, b.branches, r.Prepared)
	l.letGo()
	if r.Case == caseEverything {
		if err := b.killEverything(ctx); err != nil {
			return err
		}
	}
	return b.measure(ctx, r, l.length)
}

// held is a lease that is renewed until it is let go.
type held struct {
	number txn.Lease
	length time.Duration
	letGo  func()
}

// hold takes a lease as the SDK does, for all of the clients.
func (b *recoveryBench) hold(ctx context.Context) (*held, error) {
	res, err := b.client.Lease(ctx, &concordv1.LeaseRequest{})
	// A cluster that was founded a moment ago has not switched them on.
	for begin := time.Now(); err != nil && ctx.Err() == nil && time.Since(begin) < readyTimeout; {
		time.Sleep(pollInterval)
		res, err = b.client.Lease(ctx, &concordv1.LeaseRequest{})
	}
	if err != nil {
		return nil, err
	}
	l := &held{number: txn.Lease(res.GetLease()), length: time.Duration(res.GetLengthMs()) * time.Millisecond}
	renewing, stop := context.WithCancel(ctx)
	var ended sync.WaitGroup
	ended.Go(func() {
		for {
			select {
			case <-renewing.Done():
				return
			case <-time.After(l.length / 4):
			}
			// A renewal that fails is followed by another one in time.
			_, _ = b.client.Lease(renewing, &concordv1.LeaseRequest{Lease: uint32(l.number)})
		}
	})
	l.letGo = func() { stop(); ended.Wait() }
	return l, nil
}

// doomed has clients prepare all branches, and kills each of them.
func (b *recoveryBench) doomed(ctx context.Context, l txn.Lease) (all []prepared, err error) {
	var mu sync.Mutex
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(doomedClients)
	size := max(1, b.connections/doomedClients)
	for first := 0; first < b.branches; first += size {
		g.Go(func() error {
			some, err := doom(gctx, doomedOrder{Databases: b.databases, Cluster: b.cluster, Lease: l, First: first,
				Count: min(size, b.branches-first)})
			mu.Lock()
			defer mu.Unlock()
			all = append(all, some...)
			return err
		})
	}
	return all, g.Wait()
}

// decide has transactions decided to commit; the first of them, if there is to be a poisoned one, has one more
// branch, which nobody can end.
func (b *recoveryBench) decide(ctx context.Context, all []prepared, poisoned bool) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(64)
	for i, p := range all {
		if i == 0 && poisoned {
			p.Branches = append(p.Branches, txn.Branch{No: 2, Resource: unreachable})
		}
		g.Go(func() error {
			res, err := b.client.Commit(gctx, api.CommitRequest(txn.CommitRequest{ID: p.ID, Cluster: b.cluster,
				Branches: p.Branches}))
			if err == nil && res.GetDecision() != txn.Commit.String() {
				err = fmt.Errorf("transaction %v: the decision is %s: %s", p.ID, res.GetDecision(), res.GetReason())
			}
			return err
		})
	}
	return g.Wait()
}

// killEverything kills the nodes and the databases with signal 9, and starts them again.
func (b *recoveryBench) killEverything(ctx context.Context) error {
	for _, m := range b.nodes.members {
		if err := b.nodes.end(m.ID, syscall.SIGKILL); err != nil {
			return err
		}
	}
	if b.restart != "" {
		if out, err := exec.CommandContext(ctx, "sh", "-c", b.restart).CombinedOutput(); err != nil {
			return fmt.Errorf("--restart: %w: %s", err, out)
		}
	}
	for _, m := range b.nodes.members {
		if err := b.nodes.start(m.ID); err != nil {
			return err
		}
	}
	return nil
}

// measure looks at what is left, and has new transactions made meanwhile, from now on.
func (b *recoveryBench) measure(ctx context.Context, r *recoveryRound, lease time.Duration) error {
	begin := time.Now()
	ctx, cancel := context.WithTimeout(ctx, recoveryLimit)
	defer cancel()
	due := begin.Add(lease)
	g, gctx := errgroup.WithContext(ctx)
	coming, stop := context.WithCancel(gctx)
	defer stop()
	n := &newcomers{bench: b, result: r, begin: begin}
	g.Go(func() error { return n.run(coming) })
	g.Go(func() error {
		defer stop()
		return b.watch(gctx, r, due)
	})
	if err := g.Wait(); err != nil {
		return err
	}
	return b.addUp(ctx)
}

// watch counts what is left until nothing is, and samples the memory of the nodes.
func (b *recoveryBench) watch(ctx context.Context, r *recoveryRound, due time.Time) error {
	for next := due; ; {
		left, err := b.left(ctx)
		if err != nil && ctx.Err() != nil {
			return fmt.Errorf("%d branches are left after %v: %w", left, recoveryLimit, context.Cause(ctx))
		}
		for _, pid := range b.nodes.pids() {
			if m, err := residentMemory(pid); err == nil { // else it has just ended
				r.Memory = max(r.Memory, m)
			}
		}
		now := time.Now()
		for ; err == nil && !next.After(now); next = next.Add(time.Second) {
			r.BySeconds = append(r.BySeconds, left)
		}
		if err == nil && left == 0 {
			r.Settled = max(0, now.Sub(due).Seconds())
			return nil
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("%d branches are left after %v: %w", left, recoveryLimit, context.Cause(ctx))
		}
	}
}

// left is how many branches of the clients that died are prepared.
func (b *recoveryBench) left(ctx context.Context) (n int, err error) {
	for _, k := range b.banks {
		list, err := k.Recover(ctx)
		if err != nil {
			return 0, fmt.Errorf("bank %s: count what is prepared: %w", k.Name(), err)
		}
		for _, p := range list {
			if p.XID.Cluster == b.cluster && p.XID.ID.Lease() == b.lease {
				n++
			}
		}
	}
	return n, nil
}

// newcomers make new transactions.
type newcomers struct {
	bench  *recoveryBench
	result *recoveryRound
	begin  time.Time

	done, failed atomic.Int64
	mu           sync.Mutex
	worst        time.Duration
}

func (n *newcomers) run(ctx context.Context) error {
	client, err := concord.Dial(ctx, n.bench.nodes.addresses())
	for err != nil && ctx.Err() == nil { // the nodes have just been started
		time.Sleep(pollInterval)
		client, err = concord.Dial(ctx, n.bench.nodes.addresses())
	}
	if err != nil {
		return err
	}
	var workers sync.WaitGroup
	for range newWorkers {
		workers.Go(func() {
			for ctx.Err() == nil {
				n.one(ctx, client)
			}
		})
	}
	workers.Wait()
	n.result.New, n.result.Errors, n.result.Worst = n.done.Load(), n.failed.Load(), n.worst.Seconds()
	return client.Close()
}

// one makes a transfer between accounts that no old branch holds.
func (n *newcomers) one(ctx context.Context, client *concord.Client) {
	account := benchAccounts/2 + rand.IntN(benchAccounts/2)
	begin := time.Now()
	err := client.Run(context.WithoutCancel(ctx), func(ctx context.Context, tx *concord.Tx) error {
		for i, k := range n.bench.banks {
			if err := k.Add(ctx, tx, account, int64(2*i-1)); err != nil {
				return err
			}
		}
		return nil
	}, concord.WithTimeout(30*time.Second))
	took := time.Since(begin)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.worst = max(n.worst, took)
	if err != nil {
		n.failed.Add(1)
		n.result.Failure = err.Error()
		return
	}
	if n.done.Add(1) == 1 {
		n.result.Admitted = time.Since(n.begin).Seconds()
	}
}

// addUp makes sure that no money was made or lost.
func (b *recoveryBench) addUp(ctx context.Context) error {
	var sum int64
	for _, k := range b.banks {
		one, err := k.Sum(ctx)
		if err != nil {
			return fmt.Errorf("bank %s: add up: %w", k.Name(), err)
		}
		sum += one
	}
	if want := int64(2 * benchAccounts * bank.FirstBalance); sum != want {
		return &terminal.ExitError{Code: terminal.ExitFailed,
			Text: fmt.Sprintf("no result: the sum of all balances is %d instead of %d: something was committed by half",
				sum, want)}
	}
	return nil
}
