// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/agent"
	"github.com/concordtx/concord/adapters/pebble"
	"github.com/concordtx/concord/api"
	"github.com/concordtx/concord/api/member"
	"github.com/concordtx/concord/cmd/internal/bank"
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/participant"
	"github.com/concordtx/concord/participant/service"
	"github.com/concordtx/concord/participant/statement"
	"github.com/concordtx/concord/security/access"
	"github.com/concordtx/concord/txn"
)

// agentBank is an embedded store behind an agent of its own, in this process.
type agentBank struct {
	*agent.Resource
	store  *pebble.Resource
	agent  *participant.Agent
	cancel context.CancelFunc
	ended  chan error
	opened []func() error // close what was opened, in its order
}

var _ bank.Bank = (*agentBank)(nil)

// openAgentBank opens the store, and starts the agent.
func openAgentBank(name, dir string, members []replica.Member) (_ *agentBank, err error) {
	b := &agentBank{ended: make(chan error, 1)}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.release())
		}
	}()
	if b.store, err = pebble.Open(name, filepath.Join(dir, name)); err != nil {
		return nil, err
	}
	b.opened = append(b.opened, b.store.Close)
	caller, err := api.Dial(apiAddresses(members), api.ClientOptions{})
	if err != nil {
		return nil, err
	}
	b.opened = append(b.opened, caller.Close)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	client, err := agent.Dial(l.Addr().String())
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	b.Resource = agent.New(name, client)
	b.opened = append(b.opened, b.Resource.Close)
	post := member.NewPost(nil)
	b.opened = append(b.opened, func() error { post.Close(); return nil })
	b.agent, err = participant.Open(participant.Config{Name: name, DataDir: filepath.Join(dir, name+"-agent"),
		Addr:      l.Addr().String(),
		Databases: []statement.Database{statement.Pebble(b.store)}, Cluster: service.Cluster(caller),
		Deliver: service.Deliver(caller, post),
		Scan:    time.Second, Logger: quiet()})
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	ctx, cancel := context.WithCancel(context.Background())
	b.cancel = cancel
	go func() {
		g, ctx := errgroup.WithContext(ctx)
		g.Go(func() error { return b.agent.Run(ctx) })
		g.Go(func() error { return service.Serve(ctx, b.agent, access.Open(), l, nil, quiet()) })
		b.ended <- g.Wait()
	}()
	return b, nil
}

func agentAccount(n int) string { return fmt.Sprintf("account/%03d", n) }

// Fill implements bank.Bank.
func (b *agentBank) Fill(ctx context.Context) error {
	tx := &bank.Local{}
	t, err := b.store.Tx(ctx, tx)
	for n := 0; n < accountsPerBank && err == nil; n++ {
		err = t.Set(ctx, []byte(agentAccount(n)), []byte(strconv.Itoa(bank.FirstBalance)))
	}
	if err != nil {
		return err
	}
	return tx.Commit(ctx)
}

// Add implements bank.Bank.
func (b *agentBank) Add(ctx context.Context, tx adapters.Global, account int, amount int64) error {
	t, err := b.Tx(ctx, tx)
	if err != nil {
		return err
	}
	_, err = t.Execute(ctx, agent.Statement{Text: "add ? ?", Args: []any{agentAccount(account), amount}})
	return err
}

// Sum implements bank.Bank.
func (b *agentBank) Sum(context.Context) (total int64, err error) {
	for n := range accountsPerBank {
		value, _, err := b.store.Get([]byte(agentAccount(n)))
		if err != nil {
			return 0, err
		}
		balance, err := strconv.ParseInt(string(value), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("account %d: %w", n, err)
		}
		total += balance
	}
	return total, nil
}

// Close ends the agent, and closes the store.
func (b *agentBank) Close() error {
	b.cancel()
	return errors.Join(<-b.ended, b.release())
}

// release closes what was opened, the last first.
func (b *agentBank) release() (err error) {
	for _, closeOne := range slices.Backward(b.opened) {
		err = errors.Join(err, closeOne())
	}
	return err
}

// inDoubt returns the transactions whose branch here is prepared, and waits for a decision.
func (b *agentBank) inDoubt(ctx context.Context) (ids []txn.ID, err error) {
	states, err := b.agent.States(ctx, txn.ID{})
	for _, s := range states {
		if s.Phase == "in-doubt" {
			ids = append(ids, s.Branch.XID.ID)
		}
	}
	return ids, err
}

// decision returns what was decided about the branch here; Undecided if it is in doubt, or was never
// prepared.
func (b *agentBank) decision(ctx context.Context, id txn.ID) (txn.Decision, error) {
	states, err := b.agent.States(ctx, id)
	for _, s := range states {
		return s.Decision, nil
	}
	return txn.Undecided, err
}
