// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/txn"
)

const (
	// aloneTime is how long the agents have to finish without coordinators, and waitTime how long
	// nobody can finish in two phases before the coordinators are started again.
	aloneTime, waitTime = 30 * time.Second, 8 * time.Second
	// heardTime is how long clients may take to finish what they know the decision of.
	heardTime = time.Second
	// outageTries is how often the coordinators are stopped if nothing was in doubt at that moment.
	outageTries = 10
)

// outage is the loss of every coordinator, and what the agents made of it.
type outage struct {
	killed   int                         // coordinators
	finished map[concord.ID]txn.Decision // by the agents, without them
}

// loseCoordinators stops all nodes at once when half of the transfers are done, at a moment when
// agents hold prepared branches; looks what the agents do; and starts the nodes again.
func (w *workload) loseCoordinators(ctx context.Context) error {
	for w.progress().done < w.o.Transfers/2 {
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return nil
		}
	}
	for range outageTries {
		killed, err := w.cluster.killAll()
		if err != nil {
			return err
		}
		w.outage.killed += killed
		// What clients have heard of already they finish themselves.
		if err := pause(ctx, heardTime); err != nil {
			return nil
		}
		open, err := w.inDoubt(ctx)
		if err != nil {
			return err
		}
		if len(open) > 0 {
			w.say(fmt.Sprintf("every coordinator is dead; %d transactions are in doubt at the agents", len(open)))
			if err := w.watchAgents(ctx, open); err != nil {
				return err
			}
		}
		if err := w.cluster.startAll(); err != nil {
			return err
		}
		w.say("the coordinators are back")
		if len(open) > 0 {
			return w.compare(ctx)
		}
		if err := pause(ctx, 500*time.Millisecond); err != nil {
			return nil
		}
	}
	return nil
}

// inDoubt returns the transactions that are in doubt at some agent.
func (w *workload) inDoubt(ctx context.Context) (map[concord.ID]bool, error) {
	open := map[concord.ID]bool{}
	for _, b := range w.banks.agents() {
		ids, err := b.inDoubt(ctx)
		if err != nil {
			return nil, err
		}
		for _, id := range ids {
			open[id] = true
		}
	}
	return open, nil
}

// watchAgents waits until nothing is in doubt, or the time is over, and notes what was finished.
func (w *workload) watchAgents(ctx context.Context, open map[concord.ID]bool) error {
	patience := waitTime
	if w.o.Protocol == concord.ThreePhase {
		patience = aloneTime
	}
	began := time.Now()
	left := open
	for len(left) > 0 && time.Since(began) < patience {
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
		var err error
		if left, err = w.inDoubt(ctx); err != nil {
			return err
		}
	}
	for id := range open {
		for _, b := range w.banks.agents() {
			d, err := b.decision(ctx, id)
			if err != nil {
				return err
			}
			if d != txn.Undecided && !left[id] {
				w.outage.finished[id] = d
			}
		}
	}
	if len(left) == 0 {
		w.say(fmt.Sprintf("%.1f s later the agents have finished all of them, without a coordinator",
			time.Since(began).Seconds()))
	} else {
		w.say(fmt.Sprintf("%.1f s later %d transactions are still in doubt: their locks stay until a coordinator "+
			"is back", time.Since(began).Seconds(), len(left)))
	}
	return nil
}

// compare asks the cluster about what the agents have finished.
func (w *workload) compare(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	for id, d := range w.outage.finished {
		o, err := w.client.Outcome(ctx, id)
		if err != nil {
			return err
		}
		want := concord.Committed
		if d == txn.Abort {
			want = concord.Aborted
		}
		if o != want {
			return fmt.Errorf("the agents have decided %v about %v, and the cluster says %v: this is a bug, please "+
				"report it", d, id, o)
		}
	}
	if n := len(w.outage.finished); n > 0 {
		w.say(fmt.Sprintf("the cluster says the same of all %d", n))
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// killAll stops all nodes at once, and returns how many were running.
func (c *cluster) killAll() (killed int, err error) {
	type outcome struct {
		was bool
		err error
	}
	ended := make(chan outcome, len(c.members))
	for _, m := range c.members {
		go func() {
			was, err := c.kill(m.ID)
			ended <- outcome{was, err}
		}()
	}
	for range c.members {
		o := <-ended
		if o.was {
			killed++
		}
		err = errors.Join(err, o.err)
	}
	return killed, err
}

// startAll starts all nodes.
func (c *cluster) startAll() error {
	for _, m := range c.members {
		if err := c.start(m); err != nil {
			return err
		}
	}
	return nil
}
