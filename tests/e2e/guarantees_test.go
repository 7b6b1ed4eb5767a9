// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"sync"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

// The five guarantees that a service like this is expected to give, on the API of real
// nodes. The decisions are bare, without branches, so no database is needed.

// A client that waits for each answer finds its decisions in the log in its order, whoever
// led. One that does not wait has the order of its stream.
func TestSequentialConsistency(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	c := startCluster(t, settings{})
	caller := c.caller()
	decidedAt := func(id txn.ID) zab.Zxid {
		res, err := caller.Get(ctx, &concordv1.GetRequest{Gid: id.String()})
		require.NoError(t, err)
		require.Equal(t, "committed", res.GetTransaction().GetState())
		return position(t, res.GetTransaction().GetZxid())
	}

	t.Run("one after the other while leaders die", func(t *testing.T) {
		c := c.in(t)
		var last zab.Zxid
		for i := range 90 {
			var down *node
			if i%30 == 10 {
				down = c.leader()
				c.kill(down)
			}
			id, zxid := c.decide(ctx, caller)
			at := decidedAt(id)
			require.True(t, before(last, at), "%v is not after %v", at, last)
			require.False(t, before(position(t, zxid), at), "the answer reflects its decision")
			last = at
			if down != nil {
				c.start(down)
			}
		}
		c.ready()
	})

	t.Run("without waiting", func(t *testing.T) {
		const requests, each = 1000, 7
		stream, err := c.leader().streaming().Decide(ctx)
		require.NoError(t, err)
		ids := make([]txn.ID, requests)
		for i := range ids {
			ids[i] = txn.NewID(time.Now())
		}
		go func() {
			for i := 0; i < requests; i += each {
				m := &concordv1.DecideRequest{}
				for j := i; j < min(i+each, requests); j++ {
					m.Commits = append(m.Commits, &concordv1.NumberedCommit{Number: uint64(j), Request: c.bare(ids[j])})
				}
				if stream.Send(m) != nil {
					return // the receiver hears why
				}
			}
			_ = stream.CloseRequest()
		}()
		answered := 0
		for {
			m, err := stream.Receive()
			if errors.Is(err, io.EOF) {
				break
			}
			require.NoError(t, err)
			for _, a := range m.GetAnswers() {
				require.Nil(t, a.GetError())
				require.Equal(t, "commit", a.GetResponse().GetDecision())
				answered++
			}
		}
		require.Equal(t, requests, answered)
		last := zab.Zxid{}
		for i, id := range ids {
			at := decidedAt(id)
			require.False(t, before(at, last), "request %d took effect before request %d", i, i-1)
			last = at
		}
	})
}

// Everybody who asks, at whichever node, hears the same decision, and the one that was told.
func TestAtomicity(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	c := startCluster(t, settings{})
	type told struct{ commit, outcome string }
	ids := make([]txn.ID, 200)
	answers := make([]told, len(ids))
	var group sync.WaitGroup
	one, two := c.caller(), c.caller()
	work := make(chan int)
	for range 8 {
		group.Go(func() {
			for i := range work {
				var race sync.WaitGroup
				race.Go(func() { // the client wants to commit
					if res, err := one.Commit(ctx, c.bare(ids[i])); err == nil {
						answers[i].commit = res.GetDecision()
					}
				})
				race.Go(func() { // somebody thinks that it is dead
					if res, err := two.Outcome(ctx, &concordv1.OutcomeRequest{Gid: ids[i].String()}); err == nil {
						answers[i].outcome = res.GetOutcome()
					}
				})
				race.Wait()
			}
		})
	}
	for i := range ids {
		ids[i] = recordedID()
		if i == 60 || i == 130 {
			leader := c.leader()
			c.kill(leader)
			c.start(leader)
		}
		work <- i
	}
	close(work)
	group.Wait()
	c.ready()
	count := map[string]int{}
	for i, id := range ids {
		require.NotEmpty(t, answers[i].commit)
		require.NotEmpty(t, answers[i].outcome)
		want := map[string]string{"commit": "committed", "abort": "aborted"}[answers[i].commit]
		require.Equal(t, want, answers[i].outcome, "both were told the same of %v", id)
		count[want]++
		for _, n := range c.nodes {
			c.agree(ctx, n, id, want)
		}
	}
	t.Logf("%v", count)
	for _, n := range c.nodes {
		s, ok := n.status(t)
		require.True(t, ok)
		require.Empty(t, s.Warnings, "nodes compare their states")
	}
}

// agree checks what one node says of a decided transaction.
func (c *cluster) agree(ctx context.Context, n *node, id txn.ID, want string) {
	c.Helper()
	outcome, err := n.raw().Outcome(itself(ctx), &concordv1.OutcomeRequest{Gid: id.String()})
	require.NoError(c, err, "node %d answers by itself", n.id)
	require.Equal(c, want, outcome.GetOutcome(), "at node %d", n.id)
	got, err := n.raw().Get(ctx, &concordv1.GetRequest{Gid: id.String()})
	require.NoError(c, err)
	require.Equal(c, want, got.GetTransaction().GetState(), "at node %d", n.id)
}

func TestSingleSystemImage(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	c := startCluster(t, settings{})
	caller := c.caller()

	// never asks a node everything, as a client that has seen a decision, and checks that it
	// shows nothing older: it answers from a state that has it, or refuses. It returns how
	// many of the answers were refusals.
	never := func(t *testing.T, n *node, id txn.ID, seen string) (refused int) {
		at := position(t, seen)
		check := func(what, zxid string, err error) bool {
			if err != nil {
				assert.Contains(t, []connect.Code{connect.CodeUnavailable, connect.CodeDeadlineExceeded},
					connect.CodeOf(err), "%s: %v", what, err)
				refused++
				return false
			}
			assert.False(t, before(position(t, zxid), at), "%s at node %d shows %s after %s was seen", what, n.id, zxid,
				seen)
			return true
		}
		status, err := n.raw().Status(ctx, &concordv1.StatusRequest{Seen: seen})
		check("status", status.GetZxid(), err)
		resources, err := n.raw().Resources(ctx, &concordv1.ResourcesRequest{Seen: seen})
		check("resources", resources.GetZxid(), err)
		outcome, err := n.raw().Outcome(ctx, &concordv1.OutcomeRequest{Gid: id.String(), Seen: seen})
		if check("outcome", outcome.GetZxid(), err) {
			assert.Equal(t, "committed", outcome.GetOutcome())
		}
		got, err := n.raw().Get(ctx, &concordv1.GetRequest{Gid: id.String(), Seen: seen})
		if check("get", got.GetZxid(), err) {
			assert.Equal(t, "committed", got.GetTransaction().GetState())
		}
		list, err := n.raw().List(ctx, &concordv1.ListRequest{Seen: seen, Limit: 10000})
		if check("list", list.GetZxid(), err) {
			found := false
			for _, x := range list.GetTransactions() {
				found = found || x.GetGid() == id.String()
			}
			assert.True(t, found, "%v is listed by node %d", id, n.id)
		}
		watch, err := n.raw().Watch(ctx, &concordv1.WatchRequest{Seen: seen})
		if !assert.NoError(t, err) {
			return refused
		}
		if watch.Receive() {
			check("watch", watch.Msg().GetZxid(), nil)
		} else {
			check("watch", "", watch.Err())
		}
		assert.NoError(t, watch.Close())
		return refused
	}

	t.Run("from node to node", func(t *testing.T) {
		c := c.in(t)
		for range 40 {
			id, zxid := c.decide(ctx, caller)
			for _, n := range c.nodes {
				require.Zero(t, never(t, n, id, zxid), "nodes that are connected catch up")
			}
		}
	})

	t.Run("to a node that was held back", func(t *testing.T) {
		c := c.in(t)
		for range 5 {
			held := c.others(c.leader())[0]
			c.signal(syscall.SIGSTOP, held)
			var id txn.ID
			var zxid string
			for range 50 {
				id, zxid = c.decide(ctx, caller)
			}
			var group sync.WaitGroup
			group.Go(func() { never(t, held, id, zxid) }) // waits in its sockets already
			c.signal(syscall.SIGCONT, held)
			for range 4 {
				group.Go(func() { never(t, held, id, zxid) })
			}
			group.Wait()
			c.ready()
		}
	})

	t.Run("a client moves by itself", func(t *testing.T) {
		c := c.in(t)
		held := c.others(c.leader())[0]
		moving, err := api.Dial(append([]string{held.api}, c.addrs()...), api.ClientOptions{})
		require.NoError(t, err)
		defer moving.Close()
		var last zab.Zxid
		for i := range 12 {
			switch i % 4 {
			case 1:
				c.signal(syscall.SIGSTOP, held)
			case 3:
				c.signal(syscall.SIGCONT, held)
			}
			_, zxid := c.decide(ctx, moving)
			last = position(t, zxid)
			s, err := moving.Status(ctx, &concordv1.StatusRequest{})
			require.NoError(t, err)
			require.False(t, before(position(t, s.GetZxid()), last), "node %d", s.GetNode())
		}
		c.ready()
	})

	t.Run("what no node can reach is refused soon", func(t *testing.T) {
		for _, n := range c.nodes {
			for _, seen := range []string{fmt.Sprintf("%d.1", uint32(math.MaxUint32)),
				"1." + fmt.Sprint(uint64(math.MaxUint64))} {
				s, err := n.raw().Status(ctx, &concordv1.StatusRequest{})
				require.NoError(t, err)
				if p := position(t, s.GetZxid()); seen[0] == '1' && p.Epoch > 1 {
					seen = fmt.Sprintf("%d.%d", p.Epoch, uint64(math.MaxUint64))
				}
				_, err = n.raw().Status(ctx, &concordv1.StatusRequest{Seen: seen})
				require.Equal(t, connect.CodeUnavailable, connect.CodeOf(err), "%v", err)
				require.ErrorContains(t, err, "you have seen "+seen)
				_, err = n.raw().Commit(ctx,
					&concordv1.CommitRequest{Gid: txn.NewID(time.Now()).String(), Cluster: c.id.String(), Seen: seen})
				require.Equal(t, connect.CodeUnavailable, connect.CodeOf(err), "%v", err)
			}
			for _, seen := range []string{"3", "3.x", "-1.1", "03.1", "a.b", "1.1.1"} {
				_, err := n.raw().Outcome(ctx,
					&concordv1.OutcomeRequest{Gid: txn.NewID(time.Now()).String(), Seen: seen})
				require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err), "%v", err)
				require.ErrorContains(t, err, "seen: ")
			}
		}
		c.in(t).decide(ctx, caller)
	})
}

// What was told is kept, when all nodes die at once and whoever asks again.
func TestReliability(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	c := startCluster(t, settings{})
	var mu sync.Mutex
	told := map[txn.ID]string{} // decision, empty if nobody heard it
	sofar := func() (n int) {
		mu.Lock()
		defer mu.Unlock()
		for _, d := range told {
			if d != "" {
				n++
			}
		}
		return n
	}
	for range 3 {
		load, stop := context.WithCancel(ctx)
		var group sync.WaitGroup
		for range 6 {
			caller := c.caller()
			group.Go(func() {
				for load.Err() == nil {
					id := recordedID()
					res, err := caller.Commit(load, c.bare(id))
					mu.Lock()
					told[id] = ""
					if err == nil {
						told[id] = res.GetDecision()
					}
					mu.Unlock()
				}
			})
		}
		was := sofar()
		eventually(t, "decisions are told", func() bool { return sofar() > was+100 })
		c.signal(syscall.SIGKILL, c.nodes...)
		stop()
		group.Wait()
		for _, n := range c.nodes {
			c.buried(n)
			c.start(n)
		}
		c.ready()
	}
	caller := c.caller()
	unheard := 0
	for id, decision := range told {
		if decision == "" { // asking settles it
			unheard++
			res, err := caller.Outcome(ctx, &concordv1.OutcomeRequest{Gid: id.String()})
			require.NoError(t, err)
			decision = map[string]string{"committed": "commit", "aborted": "abort"}[res.GetOutcome()]
		}
		res, err := caller.Commit(ctx, c.bare(id))
		require.NoError(t, err)
		require.Equal(t, decision, res.GetDecision(), "%v, asked again", id)
		for _, n := range c.nodes {
			outcome, err := n.raw().Outcome(itself(ctx), &concordv1.OutcomeRequest{Gid: id.String()})
			require.NoError(t, err)
			require.Equal(t, map[string]string{"commit": "committed", "abort": "aborted"}[decision],
				outcome.GetOutcome(), "%v at node %d", id, n.id)
		}
	}
	t.Logf("%d decisions were told, %d were not heard", len(told)-unheard, unheard)
}

// A node shows the present, or says that it is cut off, and refuses what needs the present.
func TestTimeliness(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	c := startCluster(t, settings{})
	caller := c.caller()
	id, zxid := c.decide(ctx, caller)

	leader := c.leader()
	c.signal(syscall.SIGSTOP, c.others(leader)...)
	var cut statusJSON
	eventually(t, "the node that is left says that it is cut off", func() bool {
		cut, _ = leader.status(t)
		return cut.CutOff != ""
	})
	require.Zero(t, cut.Leader)
	require.False(t, before(position(t, cut.Zxid), position(t, zxid)), "it says of when its state is")
	r := command(t, "status", "--addr", leader.api)
	require.Equal(t, 4, r.code, "%v", r)
	require.Contains(t, r.stdout, fmt.Sprintf("node %d has been cut off for ", leader.id))
	probe, err := http.Get("http://" + leader.api + "/readyz")
	require.NoError(t, err)
	text, err := io.ReadAll(probe.Body)
	require.NoError(t, err)
	require.NoError(t, probe.Body.Close())
	require.Equal(t, http.StatusServiceUnavailable, probe.StatusCode)
	require.Contains(t, string(text), "its state is that of zxid")
	for what, err := range map[string]error{
		"outcome": second(leader.raw().Outcome(ctx, &concordv1.OutcomeRequest{Gid: id.String()})),
		"get":     second(leader.raw().Get(ctx, &concordv1.GetRequest{Gid: id.String()})),
		"list":    second(leader.raw().List(ctx, &concordv1.ListRequest{})),
		"commit":  second(leader.raw().Commit(ctx, c.bare(txn.NewID(time.Now())))),
	} {
		require.Equal(t, connect.CodeUnavailable, connect.CodeOf(err), "%s: %v", what, err)
	}

	c.signal(syscall.SIGCONT, c.others(leader)...)
	c.ready()
	for range 100 {
		id, zxid = c.decide(ctx, caller)
	}
	for _, n := range c.nodes {
		eventually(t, "the node has come as far and says so", func() bool {
			s, ok := n.status(t)
			return ok && s.CutOff == "" && s.Leader != 0 && !before(position(t, s.Zxid), position(t, zxid)) &&
				s.Nodes[n.id-1].Lag == 0
		})
		c.agree(ctx, n, id, "committed")
	}

	// All of them stop at once, as a host of virtual machines does. Nobody knows for how long.
	c.signal(syscall.SIGSTOP, c.nodes...)
	stopped := time.Now()
	eventually(t, "that lasts", func() bool { return time.Since(stopped) > 3*time.Second })
	c.signal(syscall.SIGCONT, c.nodes...)
	for _, n := range c.nodes {
		for range 20 {
			s, err := n.raw().Status(ctx, &concordv1.StatusRequest{})
			require.NoError(t, err)
			require.False(t, before(position(t, s.GetZxid()), position(t, zxid)))
		}
	}
	c.ready()
	c.decide(ctx, caller)
}

func second[T any](_ T, err error) error { return err }

// A leader that was stopped while another took its place does not know that. Whatever
// waits in its sockets when it goes on, it contradicts nobody.
func TestStoppedLeaderNeverAnswersFromOldState(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	c := startCluster(t, settings{})
	for round := range 3 {
		old := c.leader()
		rest := c.others(old)
		caller, err := api.Dial([]string{rest[0].api, rest[1].api}, api.ClientOptions{})
		require.NoError(t, err)
		defer caller.Close()
		committed, aborted := recordedID(), recordedID()

		var group sync.WaitGroup
		var mu sync.Mutex
		answered := map[string]int{}
		heard := func(what string, err error) bool {
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				assert.Contains(t, []connect.Code{connect.CodeUnavailable, connect.CodeFailedPrecondition,
					connect.CodeDeadlineExceeded, connect.CodeUnknown},
					connect.CodeOf(err), "%s: %v", what, err)
				answered["refused"]++
				return false
			}
			answered[what]++
			return true
		}
		ask := func(of func(context.Context) context.Context) { // each call has a context of its own
			for id, want := range map[txn.ID]string{committed: "committed", aborted: "aborted"} {
				group.Go(func() {
					res, err := old.raw().Outcome(of(ctx), &concordv1.OutcomeRequest{Gid: id.String()})
					if heard("outcome", err) {
						assert.Equal(t, want, res.GetOutcome())
					}
				})
				group.Go(func() {
					res, err := old.raw().Get(of(ctx), &concordv1.GetRequest{Gid: id.String()})
					if heard("get", err) {
						assert.Equal(t, want, res.GetTransaction().GetState())
					}
				})
			}
			group.Go(func() {
				res, err := old.raw().List(of(ctx), &concordv1.ListRequest{Limit: 10000})
				if !heard("list", err) {
					return
				}
				states := map[string]string{}
				for _, x := range res.GetTransactions() {
					states[x.GetGid()] = x.GetState()
				}
				assert.Equal(t, "committed", states[committed.String()])
				assert.Equal(t, "aborted", states[aborted.String()])
			})
			group.Go(func() {
				res, err := old.raw().Commit(of(ctx), c.bare(aborted))
				if heard("commit", err) {
					assert.Equal(t, "abort", res.GetDecision())
				}
			})
		}

		c.signal(syscall.SIGSTOP, old)
		for i := range 20 { // they wait in the sockets of the old leader
			if i%2 == 0 {
				ask(itself)
			} else {
				ask(asIs)
			}
		}
		_, err = caller.Commit(ctx, c.bare(committed))
		require.NoError(t, err)
		res, err := caller.Outcome(ctx, &concordv1.OutcomeRequest{Gid: aborted.String()})
		require.NoError(t, err)
		require.Equal(t, "aborted", res.GetOutcome())
		c.signal(syscall.SIGCONT, old)
		for range 30 {
			ask(itself)
		}
		group.Wait()
		t.Logf("round %d: %v", round, answered)
		c.ready()
		for _, n := range c.nodes {
			c.agree(ctx, n, committed, "committed")
			c.agree(ctx, n, aborted, "aborted")
		}
	}
}
