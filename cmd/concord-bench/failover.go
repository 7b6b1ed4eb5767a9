// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/bench/meter"
	"github.com/concordtx/concord/cmd/internal/terminal"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

const (
	// steadyTime is how long the three nodes work together before the next kill.
	steadyTime = 500 * time.Millisecond
	// failoverLimit is when waiting for another leader is given up.
	failoverLimit = time.Minute
)

// failoverResult is the contract of "failover -o json".
type failoverResult struct {
	Kills   int       `json:"kills"`
	Workers int       `json:"workers"`
	Min     float64   `json:"min_ms"`
	Median  float64   `json:"median_ms"`
	P90     float64   `json:"p90_ms"`
	Worst   float64   `json:"worst_ms"`
	ByKill  []float64 `json:"by_kill_ms"`
	Commits int64     `json:"commits"`
	Errors  int64     `json:"errors"`
	Failure string    `json:"failure,omitempty"` // one of the errors
	// Verified counts commits that were acknowledged just before a kill and asked for again
	// at the end. All are still committed, or there is no result.
	Verified int `json:"verified"`
}

func (c *cli) failoverCommand() *cobra.Command {
	var kills, workers int
	var dir string
	cmd := &cobra.Command{
		Use: "failover", Short: "How long commits stop when the leader is killed", Args: terminal.NoArgs,
		Long: "Starts three node processes and a steady stream of commits without branches, and kills the\n" +
			"leader with signal 9 again and again. What is measured is the time from just before the kill to\n" +
			"the first commit that another leader acknowledges, as a client of all three nodes sees it. Then\n" +
			"the node is started again, and the next kill follows when all three have worked together for\n" +
			"half a second. At the end the cluster is asked for the commits that were acknowledged last\n" +
			"before each kill: if one is not committed there is no result and the exit code is 1.\n\n" +
			"A process that is killed closes its connections, so everybody notices at once. A machine that\n" +
			"vanishes does not: then the time-outs of the cluster and of the client come on top.",
		Example: "  concord-bench failover --kills 50\n  concord-bench failover --kills 5 -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if kills < 1 {
				return terminal.Usagef("--kills: %d is less than 1", kills)
			}
			if workers < 1 || workers > maxWorkers {
				return terminal.Usagef("--workers: %d is not between 1 and %d", workers, maxWorkers)
			}
			r, err := c.benchFailover(cmd.Context(), kills, workers, dir)
			if err != nil {
				return err
			}
			return c.printFailover(r)
		},
	}
	cmd.Flags().IntVar(&kills, "kills", 20, "how often the leader is killed")
	cmd.Flags().IntVar(&workers, "workers", 8, "how many commit at the same time")
	dirFlag(cmd, &dir)
	return cmd
}

func (c *cli) benchFailover(ctx context.Context, kills, workers int, dir string) (_ *failoverResult, err error) {
	folder, remove, err := workFolder(dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	n, err := startNodes(ctx, c.concord, folder, nil)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, n.stop()) }()
	d, err := newDecider(ctx, n.addresses())
	if err != nil {
		return nil, err
	}
	defer d.close()

	s := newStream(d, workers)
	g, gctx := errgroup.WithContext(ctx)
	streaming, stop := context.WithCancel(gctx)
	for i := range workers {
		g.Go(func() error { s.commits(streaming, i); return nil })
	}
	var pauses []time.Duration
	var before []txn.ID // acknowledged last before the kills
	g.Go(func() error {
		defer stop()
		for kill := 1; kill <= kills; kill++ {
			pause, acknowledged, err := s.failover(gctx, n)
			if err != nil {
				return fmt.Errorf("kill %d: %w", kill, err)
			}
			pauses, before = append(pauses, pause), append(before, acknowledged...)
			fmt.Fprintf(c.err, "kill %d: %v\n", kill, pause.Round(time.Millisecond))
		}
		return nil
	})
	if err := g.Wait(); err != nil {
		return nil, err
	}
	if _, err := n.await(ctx); err != nil {
		return nil, err
	}
	for _, id := range before {
		if err := d.verify(ctx, id); err != nil {
			return nil, err
		}
	}
	return s.result(pauses, len(before)), nil
}

// verify makes sure that a commit that was acknowledged has stayed one.
func (d *decider) verify(ctx context.Context, id txn.ID) error {
	res, err := d.client.Outcome(ctx, &concordv1.OutcomeRequest{Gid: id.String()})
	if err != nil {
		return err
	}
	if res.GetOutcome() != txn.Committed.String() {
		return &terminal.ExitError{Code: terminal.ExitFailed,
			Text: fmt.Sprintf("no result: transaction %v was acknowledged as committed and is %s now: this is a "+
				"bug, please report it", id, res.GetOutcome())}
	}
	return nil
}

// stream is commits that go on whatever happens to the nodes.
type stream struct {
	decider *decider
	done    atomic.Int64
	failed  atomic.Int64

	mu      sync.Mutex
	last    []txn.ID // acknowledged, by worker
	failure error
	epoch   uint64         // the latest that acknowledged something
	arrived chan time.Time // gets the time, once, when a later one does
}

func newStream(d *decider, workers int) *stream {
	return &stream{decider: d, last: make([]txn.ID, workers)}
}

// commits is one worker.
func (s *stream) commits(ctx context.Context, worker int) {
	for ctx.Err() == nil {
		id := txn.NewID(time.Now())
		zxid, err := s.decider.commit(ctx, id, "")
		switch {
		case err == nil:
			s.acknowledged(worker, id, zxid)
		case ctx.Err() == nil:
			s.refused(err)
		}
	}
}

func (s *stream) acknowledged(worker int, id txn.ID, zxid string) {
	now, epoch := time.Now(), epochOf(zxid)
	s.done.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last[worker] = id
	if epoch <= s.epoch {
		return
	}
	s.epoch = epoch
	if s.arrived != nil {
		s.arrived <- now
		s.arrived = nil
	}
}

func (s *stream) refused(err error) {
	s.failed.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failure = err
}

// epochOf returns the epoch of "epoch.counter", 0 if it has another form. Each leader
// has an epoch of its own.
func epochOf(zxid string) uint64 {
	text, _, _ := strings.Cut(zxid, ".")
	epoch, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return 0
	}
	return epoch
}

// expect returns where the first acknowledgement of another leader than this epoch's
// arrives, and what was acknowledged last before.
func (s *stream) expect(epoch uint64) (<-chan time.Time, []txn.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	arrived := make(chan time.Time, 1)
	s.epoch, s.arrived = max(s.epoch, epoch), arrived
	return arrived, slices.DeleteFunc(slices.Clone(s.last), txn.ID.IsZero)
}

// failover kills the leader of a cluster that is well, waits for the next
// acknowledgement, and starts the node again.
func (s *stream) failover(ctx context.Context, n *nodes) (pause time.Duration, acknowledged []txn.ID, err error) {
	if _, err := n.await(ctx); err != nil {
		return 0, nil, err
	}
	select {
	case <-time.After(steadyTime):
	case <-ctx.Done():
		return 0, nil, context.Cause(ctx)
	}
	status, err := n.await(ctx)
	if err != nil {
		return 0, nil, err
	}
	leader := zab.NodeID(status.GetLeader())
	arrived, acknowledged := s.expect(uint64(status.GetEpoch()))
	begin := time.Now()
	if err := n.end(leader, syscall.SIGKILL); err != nil {
		return 0, nil, err
	}
	select {
	case at := <-arrived:
		pause = at.Sub(begin)
	case <-time.After(failoverLimit):
		return 0, nil, fmt.Errorf("no commit was acknowledged in %v after node %v, the leader, was killed: %w",
			failoverLimit, leader, s.lastFailure())
	case <-ctx.Done():
		return 0, nil, context.Cause(ctx)
	}
	return pause, acknowledged, n.start(leader)
}

func (s *stream) lastFailure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failure == nil {
		return errors.New("the client is still waiting for an answer")
	}
	return s.failure
}

func (s *stream) result(pauses []time.Duration, verified int) *failoverResult {
	r := &failoverResult{Kills: len(pauses), Workers: len(s.last), Commits: s.done.Load(), Errors: s.failed.Load(),
		Verified: verified}
	for _, p := range pauses {
		r.ByKill = append(r.ByKill, millisOf(p))
	}
	slices.Sort(pauses)
	r.Min, r.Worst = millisOf(pauses[0]), millisOf(pauses[len(pauses)-1])
	r.Median, r.P90 = meter.Median(r.ByKill), atLeast(pauses, .9)
	if s.failure != nil {
		r.Failure = s.failure.Error()
	}
	return r
}

func millisOf(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// atLeast returns the smallest value, in milliseconds, that a part q of all does not
// exceed; sorted must be in order and not empty.
func atLeast(sorted []time.Duration, q float64) float64 {
	n := int(q * float64(len(sorted)))
	if float64(n) < q*float64(len(sorted)) {
		n++
	}
	return millisOf(sorted[max(n, 1)-1])
}

func (c *cli) printFailover(r *failoverResult) error {
	if c.output == "json" {
		return terminal.PrintJSON(c.out, r)
	}
	ms := func(v float64) string { return fmt.Sprintf("%.0f", v) }
	err := terminal.PrintTable(c.out, []string{"KILLS", "MIN MS", "MEDIAN MS", "P90 MS", "WORST MS"},
		[][]string{{fmt.Sprint(r.Kills), ms(r.Min), ms(r.Median), ms(r.P90), ms(r.Worst)}})
	if err != nil {
		return err
	}
	fmt.Fprintf(c.out, "\n%d commits, %s; all of the %d that were acknowledged last before a kill are committed\n",
		r.Commits, terminal.Plural(int(r.Errors), "error", "errors"), r.Verified)
	if r.Failure != "" {
		fmt.Fprintf(c.out, "one of the errors: %s\n", r.Failure)
	}
	return nil
}
