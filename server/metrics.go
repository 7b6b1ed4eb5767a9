// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"path"
	"strconv"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/concordtx/concord/coordinator"
)

// metrics shows a node to Prometheus: what the status says, read at each scrape, and
// how calls went. Labels are bounded: never a gid.
type metrics struct {
	node  *coordinator.Node
	calls *prometheus.HistogramVec
}

func newMetrics(n *coordinator.Node) *metrics {
	return &metrics{node: n, calls: prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "concord_rpc_duration_seconds", Help: "How long calls took, by method and status code.",
		Buckets: []float64{.0005, .001, .002, .005, .01, .02, .05, .1, .25, .5, 1, 2.5, 5, 10},
	}, []string{"method", "code"})}
}

func gauge(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("concord_"+name, help, labels, nil)
}

var (
	descDecided   = gauge("transactions_decided_total", "First decisions delivered since the node started.", "decision")
	descInDoubt   = gauge("in_doubt", "Transactions that are not finished everywhere, as far as this node knows; the leader knows best.")
	descHeuristic = gauge("heuristic", "Transactions with a heuristic outcome that nobody has dealt with.")
	descHasLeader = gauge("cluster_has_leader", "1 if this node knows an established leader.")
	descIsLeader  = gauge("is_leader", "1 if this node leads.")
	descCutOff    = gauge("cut_off_seconds", "For how long this node has known no established leader, if that is too long; else 0.")
	descEpoch     = gauge("epoch", "The epoch of the log that this node is in.")
	descLag       = gauge("member_lag_entries", "Log entries that a member is behind the leader.", "member")
	descReachable = gauge("member_reachable", "1 if this node has a connection to the member.", "member")
	descUp        = gauge("resource_up", "1 if the resource is fit to take part.", "resource")
	descPrepared  = gauge("resource_in_doubt", "Prepared branches of this cluster that the last scan listed (leader only).", "resource")
	descOldest    = gauge("resource_in_doubt_oldest_age_seconds", "Age of the oldest of them (leader only).", "resource")
	descFree      = gauge("store_free_bytes", "Free space on the file system of this node's store.")
	descFull      = gauge("store_full", "1 if that is below the reserve: while this node leads, new transactions are refused.")
	descSync      = gauge("store_sync_seconds", "How long the last sync of this node's log took.")
	descSlowest   = gauge("store_sync_slowest_seconds", "The slowest sync of the last minute, one that is under way included.")
	descLogBytes  = gauge("log_bytes", "About how many bytes this node's log has; it is cut behind what is applied.")
	descLogLength = gauge("log_entries", "How many entries this node's log has.")
	descRefused   = gauge("peer_connections_refused_total", "Connections to the peer port that were refused since the node started.")
	descTurn      = gauge("loop_turn_seconds", "How long the turns of this node's loop took; a client gets no answer while one goes on.")
	descForeign   = gauge("resource_foreign", "Prepared branches of other clusters that the last scan listed (leader only).", "resource")
)

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descDecided, descInDoubt, descHeuristic, descHasLeader, descIsLeader, descCutOff, descEpoch,
		descLag, descReachable, descUp, descPrepared, descOldest, descForeign,
		descFree, descFull, descSync, descSlowest, descLogBytes, descLogLength, descRefused, descTurn} {
		ch <- d
	}
	m.calls.Describe(ch)
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	s := m.node.Status()
	set := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	ch <- prometheus.MustNewConstMetric(descDecided, prometheus.CounterValue, float64(s.Committed), "commit")
	ch <- prometheus.MustNewConstMetric(descDecided, prometheus.CounterValue, float64(s.Aborted), "abort")
	ch <- prometheus.MustNewConstMetric(descRefused, prometheus.CounterValue, float64(s.TurnedAway))
	set(descInDoubt, float64(s.InDoubt))
	set(descHeuristic, float64(s.Heuristic))
	cutOff := s.CutOff(time.Now())
	set(descHasLeader, oneIf(s.Leader != 0 && cutOff == 0))
	set(descIsLeader, oneIf(s.Leader == s.Node && cutOff == 0))
	set(descCutOff, cutOff.Seconds())
	set(descEpoch, float64(s.Epoch))
	if s.Disk.Total > 0 {
		set(descFree, float64(s.Disk.Free))
	}
	set(descFull, oneIf(s.Disk.Low))
	set(descSync, s.Disk.Last.Seconds())
	set(descSlowest, s.Disk.Slowest.Seconds())
	set(descLogBytes, float64(s.Log.Bytes))
	set(descLogLength, float64(s.Log.Entries))
	for _, n := range s.Nodes {
		member := strconv.FormatUint(uint64(n.ID), 10)
		set(descLag, float64(n.Lag), member)
		set(descReachable, oneIf(n.Reachable), member)
	}
	for _, r := range s.Resources {
		set(descUp, oneIf(r.OK), r.Name)
		set(descPrepared, float64(r.Scan.InDoubt), r.Name)
		set(descForeign, float64(r.Scan.Foreign), r.Name)
		age := 0.0
		if !r.Scan.Oldest.IsZero() {
			age = max(0, time.Since(r.Scan.Oldest).Seconds())
		}
		set(descOldest, age, r.Name)
	}
	ch <- turnHistogram(m.node.Turns())
	m.calls.Collect(ch)
}

func turnHistogram(t coordinator.Turns) prometheus.Metric {
	buckets := make(map[float64]uint64, len(t.Upto))
	for bound, n := range t.Upto {
		buckets[bound.Seconds()] = n
	}
	return prometheus.MustNewConstHistogram(descTurn, t.Count, t.Sum.Seconds(), buckets)
}

func oneIf(v bool) float64 {
	if v {
		return 1
	}
	return 0
}

func (m *metrics) interceptor() connect.UnaryInterceptorFunc {
	return func(next connect.UnaryFunc) connect.UnaryFunc {
		return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
			start := time.Now()
			res, err := next(ctx, req)
			code := "ok"
			if err != nil {
				code = connect.CodeOf(err).String()
			}
			m.calls.WithLabelValues(path.Base(req.Spec().Procedure), code).Observe(time.Since(start).Seconds())
			return res, err
		}
	}
}
