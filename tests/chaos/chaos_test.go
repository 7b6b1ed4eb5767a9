// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	concordv1 "github.com/concordtx/concord/api/concord/v1"
)

// The load: 16 clients with the SDK in processes of four, and four of the HTTP API.
const (
	processes    = 4
	workersOfOne = 4
	httpClients  = 4
)

// mostFailed is after how many wrong faults a run ends early.
const mostFailed = 3

func TestChaos(t *testing.T) {
	s := *seed
	if s == 0 {
		s = uint64(time.Now().UnixNano())
	}
	dir, err := os.MkdirTemp("", "concord-chaos-")
	require.NoError(t, err)
	t.Cleanup(func() { // the last: everything has ended
		if t.Failed() || *keep {
			t.Logf("seed %d; everything is in %s", s, dir)
			return
		}
		require.NoError(t, os.RemoveAll(dir))
	})
	t.Logf("seed %d, directory %s", s, dir)
	began := time.Now()
	w := startWorld(t, dir, s)
	w.startLoad()
	t.Logf("everything runs after %v", time.Since(began).Round(time.Millisecond))

	over := make(chan struct{})
	watched := make(chan struct{})
	go func() { w.watch(over); close(watched) }()
	struck := w.storm(rand.New(rand.NewPCG(s, 1)))
	w.stopLoad()
	took, left := w.settled(settleLimit)
	close(over)
	<-watched
	require.NoError(t, w.history.poll())
	t.Logf("nothing is left after %v", took.Round(time.Millisecond))
	f := w.gather()
	f.left = left
	for _, v := range check(w.history.records, f) {
		t.Error(v)
	}
	bad, truncated, snapshots := w.logs()
	for _, line := range bad {
		t.Errorf("LOG: %s", line)
	}
	w.bounds()
	if !t.Failed() {
		w.forget(f)
		w.putBackOne(rand.New(rand.NewPCG(s, 2)))
	}
	begun, commits := w.history.sofar()
	text, run := matrix(w.met(truncated, snapshots), !t.Failed())
	t.Logf("seed %d: %d faults in %d strikes, %d transactions began, %d committed, %v in all; answers %v; "+
		"at most %d MiB in a node\n%s", s, w.faults(), struck, begun, commits, time.Since(began).Round(time.Second),
		w.history.answers, w.resident>>20, text)
	t.Logf("%d of %d cells were met", run, len(cells))
	require.NoError(t, os.WriteFile(w.path("matrix.md"), []byte(text), 0o600))
	require.GreaterOrEqual(t, commits, *leastCommits)
	require.GreaterOrEqual(t, w.faults(), *leastFaults)
}

func (w *world) startLoad() {
	w.Helper()
	for range processes {
		require.NoError(w, w.startClient(workersOfOne, ""))
	}
	w.startHTTP(httpClients)
}

func (w *world) faults() (n int) {
	for _, times := range w.ran {
		n += times
	}
	return n
}

// storm strikes again and again until there was enough of everything, and returns how often.
func (w *world) storm(r *rand.Rand) (strikes int) {
	w.Helper()
	began, failed := time.Now(), 0
	w.goesOn()
	for {
		_, commits := w.history.sofar()
		if time.Since(began) >= *length && w.faults() >= *leastFaults && commits >= *leastCommits ||
			time.Since(began) > *length+25*time.Minute || failed >= mostFailed {
			return strikes
		}
		strikes++
		for _, n := range w.nodes {
			if n.Alive() {
				if bytes, err := n.Resident(); err == nil { // else it has just ended
					w.resident = max(w.resident, bytes)
				}
			}
		}
		chosen := draw(r)
		err := w.strike(r, chosen)
		if err == nil && slices.ContainsFunc(chosen, func(f fault) bool { return f.domain == ofNodes }) {
			err = w.ready(patience)
		}
		if err != nil {
			w.Errorf("strike %d: %v", strikes, err)
			failed++
		}
		if !w.goesOn() {
			failed++
		}
		time.Sleep(time.Duration(100+r.IntN(900)) * time.Millisecond)
	}
}

// goesOn waits until transactions commit again.
func (w *world) goesOn() bool {
	w.Helper()
	_, before := w.history.sofar()
	for start := time.Now(); time.Since(start) < patience; time.Sleep(20 * time.Millisecond) {
		if _, now := w.history.sofar(); now >= before+10 {
			if took := time.Since(start); took > 5*time.Second {
				w.say("transactions commit again only after %v", took.Round(time.Millisecond))
			}
			return true
		}
	}
	w.Errorf("no transactions commit within %v after everything has healed", patience)
	w.say("no transactions commit within %v", patience)
	return false
}

// bounds looks at what nodes hold.
func (w *world) bounds() {
	w.Helper()
	if w.resident > mostMemory {
		w.Errorf("a node had %d MiB, and may have %d", w.resident>>20, mostMemory>>20)
	}
	for _, n := range w.nodes {
		if files, err := n.Files(); err == nil && files > mostFiles { // else it does not run
			w.Errorf("node %d has %d files open, and may have %d", n.id, files, mostFiles)
		}
		if _, err := os.Stat(filepath.Join(n.dir, "data", "DIVERGED")); err == nil {
			w.Errorf("DET: node %d has diverged", n.id)
		}
	}
	if !w.agent.Alive() {
		w.Errorf("the agent has ended by itself: %v", w.agent.Err())
	}
}

// forget says of every heuristic outcome that it was dealt with.
func (w *world) forget(f final) {
	w.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	caller := w.caller()
	for what := range f.reported {
		gid, _, _ := strings.Cut(what, "/")
		_, err := caller.Forget(ctx, &concordv1.ForgetRequest{Gid: gid, Who: "chaos", Reason: "made by hand"})
		require.NoError(w, err)
		w.forgotten++
	}
	page, err := caller.List(ctx, &concordv1.ListRequest{State: "heuristic", Limit: 10_000})
	require.NoError(w, err)
	require.Empty(w, page.GetTransactions(), fmt.Sprint("all were forgotten: ", f.reported))
}
