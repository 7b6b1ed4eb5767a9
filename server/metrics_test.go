// SPDX-License-Identifier: Apache-2.0

package server

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/coordinator"
	"github.com/concordtx/concord/coordinator/commit"
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/wal"
)

// kept are the metrics that are not made of the status.
var kept = []*described{ofCalls, ofStreams, ofEnded, ofPanics, ofTurns}

// row is how docs/operations.md shows a metric.
func (d *described) row() string {
	labels := strings.Join(d.labels, ", ")
	if labels == "" {
		labels = "-"
	}
	return fmt.Sprintf("| `%s` | %s | %s | %s |", d.name, labels, d.across, strings.TrimSuffix(d.help, "."))
}

func TestEveryMetricIsInTheTableOfTheDocumentation(t *testing.T) {
	text, err := os.ReadFile("../docs/operations.md")
	require.NoError(t, err)
	var rows []string
	for _, d := range slices.Concat(fromStatus, kept) {
		rows = append(rows, d.row())
	}
	table := "|---|---|---|---|\n" + strings.Join(rows, "\n") + "\n\n"
	require.True(t, strings.Contains(string(text), table), "the table is, as a whole:\n%s", table)
	for line := range strings.Lines(string(text)) {
		for _, word := range strings.FieldsFunc(line, func(r rune) bool { return r != '_' && (r < 'a' || r > 'z') }) {
			if name := strings.TrimSuffix(word, "_bucket"); strings.HasPrefix(name, "concord_") &&
				name != "concord_branch" && name != "concord_rec" {
				require.True(t, slices.ContainsFunc(slices.Concat(fromStatus, kept),
					func(d *described) bool { return d.name == name }), "there is no metric %s", name)
			}
		}
	}
}

// What /metrics shows is what is described, and every counter may be summed over the nodes.
func TestMetricsAreThoseThatAreDescribed(t *testing.T) {
	n := follower(time.Now().Add(time.Minute))
	n.snapshot.Disk = coordinator.Disk{Space: wal.Space{Total: 1}}
	n.snapshot.Nodes = []coordinator.NodeState{{Member: replica.Member{ID: zab.NodeID(1)}}}
	n.snapshot.Decided = commit.Decided{Commit: 3, Abort: 1}
	s := serve(t, n, nil)
	decide(t, s, "", bare())
	knock(t, h2(t), s.URL, procedures()[0])
	registry := prometheus.NewRegistry()
	s.metrics.register(registry)
	families, err := registry.Gather()
	require.NoError(t, err)
	var shown []string
	for _, f := range families {
		shown = append(shown, f.GetName())
	}
	var all []string
	for _, d := range slices.Concat(fromStatus, kept) {
		if d == ofExpiry { // of a node with certificates: TestMetricsOfTheDoor
			continue
		}
		all = append(all, d.name)
		if strings.HasSuffix(d.name, "_total") {
			require.Equal(t, summed, d.across, "%s: a counter counts at one node what happens once", d.name)
			require.True(t, d.kind == counter, d.name)
		}
	}
	require.ElementsMatch(t, all, shown)
	commits, _ := s.value(t, `concord_transactions_decided_total{decision="commit"}`)
	require.EqualValues(t, 3, commits)
}
