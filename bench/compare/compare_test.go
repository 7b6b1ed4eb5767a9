// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestFlagsThatMakeNoSenseAreRefused(t *testing.T) {
	for _, args := range [][]string{
		{"-clients", "0"}, {"-clients", "1,x"}, {"-systems", "etcd,consul"}, {"-rounds", "0"}, {"-duration", "0s"},
		{"-size", "-1"}, {"surplus"},
	} {
		_, err := parse(args)
		require.Error(t, err, "%v", args)
	}
	o, err := parse([]string{"-clients", "1,8", "-systems", "etcd"})
	require.NoError(t, err)
	require.Equal(t, []int{1, 8}, o.clients)
	require.Equal(t, []string{"etcd"}, o.systems)
	require.Equal(t, 256, o.size)
}

func TestTheReportShowsMediansRatiosAndWhatDidNotRun(t *testing.T) {
	r := newReport(options{clients: []int{4}, systems: []string{"concord", "etcd", "zookeeper"}, size: 256, rounds: 3,
		duration: time.Second})
	for _, rate := range []float64{100, 300, 200} {
		r.add("etcd", 4, figures{perSecond: rate, p50: rate / 100, p99: rate / 10, errors: 1})
		r.add("concord", 4, figures{perSecond: 3 * rate, p50: 1, p99: 2})
	}
	r.notRun("zookeeper", errors.New("no java"))
	rows := r.rows()
	require.Equal(t, []row{
		{Clients: 4, System: "concord", Size: 256, Rounds: 3, PerSecond: 600, Lowest: 300, Highest: 900, P50: 1, P99: 2,
			Ratio: 3},
		{Clients: 4, System: "etcd", Size: 256, Rounds: 3, PerSecond: 200, Lowest: 100, Highest: 300, P50: 2, P99: 20,
			Errors: 3, Ratio: 1.0 / 3},
		{Clients: 4, System: "zookeeper", Size: 256, NotRun: "no java"},
	}, rows)

	var table bytes.Buffer
	require.NoError(t, r.print(&table))
	require.Contains(t, table.String(), "zookeeper  NOT RUN")
	require.Contains(t, table.String(), "zookeeper: NOT RUN: no java")

	text, err := json.Marshal(rows[0])
	require.NoError(t, err)
	require.Contains(t, string(text), `"per_second":600`)
	require.NotContains(t, string(text), "not_run")
}

// Real clusters; what this machine does not have is skipped by name.
func TestEachSystemAcknowledgesWrites(t *testing.T) {
	for _, name := range []string{"concord", "etcd", "zookeeper"} {
		t.Run(name, func(t *testing.T) {
			if _, err := os.Stat(zookeeperJar); err != nil && name == "zookeeper" {
				t.Skip("ZooKeeper: NOT RUN (not installed)")
			}
			s, err := starter(name)(t.Context(), t.TempDir())
			require.NoError(t, err)
			defer func() { require.NoError(t, s.stop()) }()
			f, err := s.round(t.Context(), 2, 256, time.Second)
			require.NoError(t, err)
			require.Positive(t, f.perSecond)
			require.Positive(t, f.p50)
			require.LessOrEqual(t, f.p50, f.p99)
			require.Zero(t, f.errors)
		})
	}
}
