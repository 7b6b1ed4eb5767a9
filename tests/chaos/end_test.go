// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/txn"
)

// settleLimit is how long it may take after everything has healed until nothing is left. It is 10 s where
// the machine has nothing else to do; what it took is printed.
const settleLimit = 30 * time.Second

// gather reads what everything holds once it has come to rest.
func (w *world) gather() (f final) {
	w.Helper()
	f = final{rows: map[string]map[string]string{}, sums: map[string]int64{}, lists: map[int][]int{},
		drawn: map[string]map[int]string{}, keyed: map[string]map[string]int{}, outcomes: map[string]string{},
		reported: map[string]string{}, injected: w.injected, canaries: w.missingCanaries()}
	for name, d := range w.dbs {
		f.rows[name] = map[string]string{}
		for _, row := range w.rows(d, "SELECT gid, payload FROM uniq") {
			f.rows[name][row[0]] = row[1]
		}
		sum, err := sumOf(w.texts(d, "SELECT balance FROM account"))
		require.NoError(w, err)
		f.sums[name] = sum
		f.drawn[name] = map[int]string{}
		for _, row := range w.rows(d, "SELECT n, gid FROM drawn") {
			n, err := strconv.Atoi(row[0])
			require.NoError(w, err)
			if before := f.drawn[name][n]; before != "" {
				w.Errorf("ORDER: %s has drawn %d for %s and for %s", name, n, before, row[1])
			}
			f.drawn[name][n] = row[1]
		}
		f.keyed[name] = map[string]int{}
		for _, key := range w.texts(d, "SELECT k FROM keyed") {
			f.keyed[name][key]++
		}
	}
	for k := range lists {
		all, err := elements(w.texts(w.dbs[sqlNames[k%3]], fmt.Sprintf("SELECT elems FROM list WHERE k = %d", k)))
		require.NoError(w, err)
		f.lists[k] = all
	}
	w.gatherLedger(&f)
	w.gatherOutcomes(&f)
	return f
}

// gatherLedger reads the embedded store through the agent: whatever anybody may have written.
func (w *world) gatherLedger(f *final) {
	w.Helper()
	p, err := openAgent(ledger, w.agent.addr)
	require.NoError(w, err)
	f.rows[ledger], f.keyed[ledger] = map[string]string{}, map[string]int{}
	var keys []string
	for i := range accounts {
		keys = append(keys, fmt.Sprintf("account%d", i))
	}
	seen := map[string]bool{}
	for _, r := range w.history.records {
		switch {
		case r.Op != begun:
		case r.Key != "" && !seen[r.Key]:
			seen[r.Key] = true
			keys = append(keys, r.Key)
		case slices.Contains(r.Rows, ledger):
			keys = append(keys, r.GID)
		}
	}
	for chunk := range slices.Chunk(keys, 200) {
		for i, value := range w.values(p, chunk) {
			key := chunk[i]
			switch {
			case value == "":
			case strings.HasPrefix(key, "account"):
				n, err := strconv.ParseInt(value, 10, 64)
				require.NoError(w, err)
				f.sums[ledger] += n
			case seen[key]:
				n, err := strconv.Atoi(value)
				require.NoError(w, err)
				f.keyed[ledger][key] = n
			default:
				f.rows[ledger][key] = value
			}
		}
	}
}

// values reads keys of the ledger in one branch, which is rolled back.
func (w *world) values(p place, keys []string) (all []string) {
	w.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	h := &hand{cluster: w.id, id: txn.NewID(time.Now()).WithClass(txn.Recorded)}
	for _, key := range keys {
		got, err := p.first(ctx, h, "get ?", key)
		require.NoError(w, err)
		all = append(all, strings.Join(got, ""))
	}
	for _, s := range h.sessions {
		require.NoError(w, s.Rollback(ctx))
	}
	return all
}

// most told transactions of which the cluster is asked again.
const askedAgain = 1000

// gatherOutcomes asks for the outcome of everything that nobody was told, and of a part of the rest; and what
// the cluster reports.
func (w *world) gatherOutcomes(f *final) {
	w.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	caller := w.caller()
	answered, all := map[string]bool{}, map[string]bool{} // all: whether several databases changed
	for _, r := range w.history.records {
		if r.GID == "" || r.Key != "" {
			continue
		}
		if r.Op == begun {
			all[r.GID] = len(r.Rows) > 1 || r.Kind == "counter"
		}
		if r.Op == told && definite(r.Outcome) {
			answered[r.GID] = true
		}
	}
	group, asking := errgroup.WithContext(ctx)
	group.SetLimit(8)
	again := 0
	for gid, several := range all {
		if answered[gid] {
			if again++; again > askedAgain {
				continue
			}
		}
		group.Go(func() error {
			// Who asks knows whether it was one database alone that may have decided.
			res, err := caller.Outcome(asking, &concordv1.OutcomeRequest{Gid: gid, Cluster: w.id.String(),
				Several: several && !answered[gid]})
			if err != nil {
				return fmt.Errorf("outcome of %s: %w", gid, err)
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			f.outcomes[gid] = res.GetOutcome()
			return nil
		})
	}
	require.NoError(w, group.Wait())
	f.reported = w.reported(ctx, caller)
}

// reported are the heuristic outcomes that the cluster shows.
func (w *world) reported(ctx context.Context, caller *api.Client) map[string]string {
	w.Helper()
	found := map[string]string{}
	page, err := caller.List(ctx, &concordv1.ListRequest{State: "heuristic", Limit: 10_000})
	require.NoError(w, err)
	require.Empty(w, page.GetNext())
	for _, x := range page.GetTransactions() {
		full, err := caller.Get(ctx, &concordv1.GetRequest{Gid: x.GetGid()})
		require.NoError(w, err)
		for _, h := range full.GetTransaction().GetHeuristics() {
			found[fmt.Sprintf("%s/%d", x.GetGid(), h.GetNo())] = h.GetOutcome()
		}
	}
	return found
}

// said are texts that no log may have. None of the faults is a reason for one.
var said = []string{"panic:", "DATA RACE", "fatal error:", "this is a bug", "ALARM", "differs from that of"}

// logs looks for texts that must not be there, and for those that tell what happened.
func (w *world) logs() (bad []string, truncated, snapshots int) {
	w.Helper()
	paths, err := filepath.Glob(w.path("*.log"))
	require.NoError(w, err)
	for _, path := range paths {
		b, err := os.ReadFile(path)
		require.NoError(w, err)
		for line := range strings.Lines(string(b)) {
			for _, text := range said {
				if strings.Contains(line, text) && len(bad) < most {
					bad = append(bad, filepath.Base(path)+": "+strings.TrimSpace(line))
				}
			}
			if strings.Contains(line, ": TRUNC:") {
				truncated++
			}
			if strings.Contains(line, ": SNAP:") {
				snapshots++
			}
		}
	}
	return bad, truncated, snapshots
}

// The bounds on what a node may hold at any time and at the end.
const (
	mostMemory = 512 << 20
	mostFiles  = 400
)

// watch follows the diaries, and the memory of the nodes, until it is over.
func (w *world) watch(over <-chan struct{}) {
	for {
		select {
		case <-over:
			return
		case <-time.After(250 * time.Millisecond):
		}
		if err := w.history.poll(); err != nil {
			w.Errorf("%v", err)
			return
		}
		for _, n := range w.nodes {
			if n.alive() {
				w.mu.Lock()
				w.resident = max(w.resident, n.resident())
				w.mu.Unlock()
			}
		}
	}
}
