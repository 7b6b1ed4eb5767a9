// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/cmd/internal/bank"
	"github.com/concordtx/concord/cmd/internal/config"
	"github.com/concordtx/concord/txn"
)

// doomedEnv holds the order of a client that is to be killed: this program, run again.
const doomedEnv = "CONCORD_BENCH_DOOMED"

// doomedOrder says what a client prepares before it is killed.
type doomedOrder struct {
	Databases [2]doomedDatabase
	Cluster   txn.ClusterID
	Lease     txn.Lease
	First     int // account of each database that its first transaction changes
	Count     int // transactions, each on sessions of its own
}

type doomedDatabase struct{ Name, Driver, DSN string }

// prepared is one transaction that a doomed client has left in doubt.
type prepared struct {
	ID       txn.ID
	Branches []txn.Branch
}

// runDoomed prepares branches, tells which, and waits to be killed or to be alone.
func runDoomed(ctx context.Context, text string, in io.Reader, out io.Writer) error {
	var order doomedOrder
	if err := json.Unmarshal([]byte(text), &order); err != nil {
		return err
	}
	all, err := order.prepare(ctx)
	if err != nil {
		return err
	}
	if err := json.NewEncoder(out).Encode(all); err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, in)
	return nil
}

func (o doomedOrder) prepare(ctx context.Context) ([]prepared, error) {
	var banks [2]bank.Bank
	for i, d := range o.Databases {
		var err error
		if banks[i], err = bank.OpenDSN(ctx, d.Name, d.Driver, d.DSN,
			bank.Ledger{Table: benchTable, Accounts: benchAccounts, Conns: o.Count}); err != nil {
			return nil, err
		}
	}
	all := make([]prepared, o.Count)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for i := range all {
		g.Go(func() (err error) {
			all[i], err = o.one(gctx, banks, o.First+i)
			return err
		})
	}
	return all, g.Wait()
}

// one moves money from an account to the one of the same number, as far as both votes.
func (o doomedOrder) one(ctx context.Context, banks [2]bank.Bank, account int) (prepared, error) {
	h := &halfway{cluster: o.Cluster, id: txn.NewID(time.Now()).WithLease(o.Lease)}
	for i, b := range banks {
		amount := int64(1)
		if i == 0 {
			amount = -1
		}
		if err := b.Add(ctx, h, account, amount); err != nil {
			return prepared{}, err
		}
	}
	p := prepared{ID: h.id}
	for i, s := range h.sessions {
		if s, ok := s.(adapters.Counted); ok {
			s.Siblings([]txn.BranchNo{0, 1})
		}
		vote, branch, err := s.Prepare(ctx)
		if err != nil {
			return prepared{}, err
		}
		if vote != txn.VoteYes {
			return prepared{}, fmt.Errorf("prepare at %s: the vote is %v", banks[i].Name(), vote)
		}
		branch.No, branch.Resource = txn.BranchNo(i), banks[i].Name()
		p.Branches = append(p.Branches, branch)
	}
	return p, nil
}

// halfway is a global transaction that gets as far as its votes.
type halfway struct {
	cluster  txn.ClusterID
	id       txn.ID
	opened   []adapters.Opener
	sessions []adapters.Session // by branch number
}

// Enlist opens one branch for each database.
func (h *halfway) Enlist(ctx context.Context, r adapters.Opener) (adapters.Session, error) {
	for i, o := range h.opened {
		if o == r {
			return h.sessions[i], nil
		}
	}
	s, err := r.Open(ctx, txn.XID{Cluster: h.cluster, ID: h.id, Branch: txn.BranchNo(len(h.sessions))})
	if err != nil {
		return nil, err
	}
	h.opened, h.sessions = append(h.opened, r), append(h.sessions, s)
	return s, nil
}

// doom runs a client until it has prepared what it was ordered to, and kills it.
func doom(ctx context.Context, order doomedOrder) (all []prepared, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(order)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(os.Environ(), doomedEnv+"="+string(text))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if _, err := cmd.StdinPipe(); err != nil { // stays open for as long as this process lives
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	err = json.NewDecoder(out).Decode(&all)
	kill := cmd.Process.Kill() // with signal 9
	_ = cmd.Wait()             // that it was killed is how it is meant
	if err != nil {
		return nil, fmt.Errorf("a client that was to prepare %d transactions: %w: %s", order.Count, err, &stderr)
	}
	if errors.Is(kill, os.ErrProcessDone) {
		return nil, fmt.Errorf("a client that was to be killed has ended by itself: %s", &stderr)
	}
	return all, kill
}

// doomedDatabases are the two databases as a client process opens them.
func doomedDatabases(chosen []config.Resource) (all [2]doomedDatabase, err error) {
	for i, r := range chosen[:2] {
		dsn, err := r.Secret()
		if err != nil {
			return all, err
		}
		all[i] = doomedDatabase{r.Name, r.Driver, dsn.Reveal()}
	}
	return all, nil
}
