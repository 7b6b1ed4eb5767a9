// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/txn"
)

// attempt does a whole transfer between two agents as a coordinator would, and is cut short by
// whatever is killed meanwhile: then nobody tells the agents anything. It reports whether the
// cluster has said that it is committed.
func (d *driven) attempt(caller *api.Client, east, west *agent, ctx context.Context) (committed bool, err error) {
	for _, b := range []struct {
		a        *agent
		resource string
	}{{east, "orders"}, {west, "billing"}} {
		who, err := b.a.stub.Describe(ctx, &concordv1.DescribeRequest{})
		if err != nil {
			return false, err
		}
		branch := d.branch(b.a, b.resource)
		branch.address.Journal, branch.address.Epoch = who.GetJournal(), who.GetEpoch()
	}
	account := fmt.Sprint(d.id[15]>>5 + d.id[14]&7*8)
	for i, statements := range [][]string{
		{"update account set balance = balance - 5 where id = $1", "insert into transfer values ($1, 5)"},
		{"update account set balance = balance + 5 where id = ?", "insert into transfer values (?, 5)"},
	} {
		b := d.branches[i]
		for n, argument := range []string{account, d.id.String()} {
			r, err := b.a.stub.Execute(ctx,
				&concordv1.ExecuteRequest{Branch: b.address, Number: b.number + 1, Statement: statements[n],
					Arguments: []*concordv1.Value{text(argument)}})
			if err == nil && r.GetError() != "" {
				err = fmt.Errorf("execute: %s", r.GetError())
			}
			if err != nil {
				return false, err
			}
			b.number, b.digest = r.GetNumber(), r.GetDigest()
		}
	}
	request := &concordv1.CommitRequest{Gid: d.id.String(), Cluster: d.c.id.String()}
	for _, b := range d.branches {
		r, err := b.prepare(ctx)
		if err == nil && r.GetVote() != "yes" {
			err = fmt.Errorf("voted %s: %s", r.GetVote(), r.GetReason())
		}
		if err != nil {
			return false, err
		}
		b.yes = r.GetBranch()
		request.Branches = append(request.Branches, b.yes)
	}
	res, err := caller.Commit(ctx, request)
	if err != nil || res.GetDecision() != "commit" {
		return false, err
	}
	for _, b := range d.branches {
		if _, err := b.a.stub.Finish(ctx,
			&concordv1.FinishRequest{Branch: b.address, Decision: "commit", Record: b.yes}); err != nil {
			return true, nil // the agent asks
		}
	}
	return true, nil
}

// Agents are killed again and again under load. What the cluster called committed is committed in
// both databases, everything else in none, and nothing is left prepared although nobody but the
// agents ends anything.
func TestAgentsKilledUnderLoad(t *testing.T) {
	b := newBank(t)
	c := startCluster(t, settings{nodes: 1, resources: b.resources(), maxAge: 10 * time.Second, grace: time.Hour,
		scan: time.Hour})
	east := startAgent(t, c, "east", "silence: 3s\n",
		fmt.Sprintf("name: orders, driver: postgres, dsn: %q", b.left.dsn()))
	west := startAgent(t, c, "west", "silence: 3s\n",
		fmt.Sprintf("name: billing, driver: mysql, dsn: %q", b.right.dsn()))
	caller := c.caller()
	var mu sync.Mutex
	outcome := map[txn.ID]bool{} // whether it was called committed
	committed, failed := 0, 0
	sofar := func() int {
		mu.Lock()
		defer mu.Unlock()
		return committed
	}
	over := make(chan struct{})
	var workers sync.WaitGroup
	for range 8 {
		workers.Go(func() {
			for {
				select {
				case <-over:
					return
				default:
				}
				ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
				d := drive(t, c)
				ok, _ := d.attempt(caller, east, west, ctx)
				cancel()
				mu.Lock()
				if outcome[d.id] = ok; ok {
					committed++
				} else {
					failed++
				}
				mu.Unlock()
				if !ok { // as a client does before it tries again
					select {
					case <-over:
					case <-time.After(20 * time.Millisecond):
					}
				}
			}
		})
	}
	for _, a := range []*agent{east, west, east, west, east, west} {
		before := sofar()
		eventually(t, "transfers commit", func() bool { return sofar() > before+40 })
		a.kill()
		a.start()
	}
	close(over)
	workers.Wait()
	t.Logf("%d transfers committed, %d did not", committed, failed)
	b.settled(c)
	query := "select gid from transfer"
	left, right := b.left.texts(t, query), b.right.texts(t, query)
	require.ElementsMatch(t, left, right, "what is in one database is in the other")
	shown := map[string]bool{}
	for _, gid := range left {
		shown[gid] = true
	}
	for id, ok := range outcome {
		if ok {
			require.True(t, shown[id.String()], "%v was called committed", id)
		} else if shown[id.String()] { // its answer was lost
			require.Contains(t, []string{"committing", "committed"}, c.get(id).State)
		}
	}
	b.sumHolds()
}
