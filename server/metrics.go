// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"strconv"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"

	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/coordinator"
	"github.com/concordtx/concord/security/access"
)

// metrics shows a node to Prometheus: what the status says, read at each scrape, and
// how calls went. Labels are bounded: never a gid. What is unknown here has no series.
type metrics struct {
	node    Node
	door    *access.Guard
	calls   *prometheus.HistogramVec
	streams *prometheus.GaugeVec
	ended   *prometheus.CounterVec
	panics  prometheus.Counter
	// decided is the cell of calls for answers on streams that are no errors: the hot one.
	decided prometheus.Observer
}

// methodDecide is the label of the decisions on streams, which are measured one by one.
const methodDecide = "Decide"

// across says what a metric of several nodes is together.
type across string

const (
	summed  across = "sum"      // each node counts its own: the sum is that of the cluster
	agreed  across = "max"      // every node that knows it says what the leader knows: take the max, or any
	perNode across = "per node" // it is about the node that says it: look at each
)

// described is one metric, as docs/operations.md lists it.
type described struct {
	name, help string
	kind       prometheus.ValueType
	labels     []string
	across     across
	desc       *prometheus.Desc
}

func describe(name string, kind prometheus.ValueType, a across, help string, labels ...string) *described {
	return &described{name: "concord_" + name, help: help, kind: kind, labels: labels, across: a,
		desc: prometheus.NewDesc("concord_"+name, help, labels, nil)}
}

const (
	gauge   = prometheus.GaugeValue
	counter = prometheus.CounterValue
)

var (
	ofDecided = describe("transactions_decided_total", counter, summed,
		"First decisions that this node made as the leader since it started.", "decision")
	ofDeadlocks = describe("deadlocks_total", counter, summed,
		"Deadlocks between databases that this node has found as the leader since it started; each had one victim.")
	ofViewKnown = describe("leader_view_known", gauge, perNode,
		"1 if this node knows what the leader knows; if 0, the series that come from the leader are absent.")
	ofViewAge = describe("leader_view_age_seconds", gauge, perNode, "Age of what this node knows from the leader.")
	ofInDoubt = describe("in_doubt", gauge, agreed, "Transactions that are not finished everywhere, according to "+
		"the leader.")
	ofOldestTxn = describe("in_doubt_oldest_age_seconds", gauge, agreed,
		"Age of the oldest of them, 0 if there is none, according to the leader.")
	ofHeuristic = describe("heuristic", gauge, agreed,
		"Transactions with a heuristic outcome that nobody has dealt with, according to the leader.")
	ofLeases = describe("leases", gauge, agreed,
		"Clients that have a lease, as far as this node has read the log: those with transactions in the last seconds.")
	ofHasLeader = describe("cluster_has_leader", gauge, perNode, "1 if this node knows an established leader.")
	ofIsLeader  = describe("is_leader", gauge, summed, "1 if this node leads.")
	ofCutOff    = describe("cut_off_seconds", gauge, perNode,
		"How long this node has known no established leader, if that is too long; otherwise 0.")
	ofEpoch = describe("epoch", gauge, perNode, "The epoch of the log that this node is in.")
	ofLag   = describe("member_lag_entries", gauge, perNode,
		"Log entries that a member is behind the leader, as this node sees it.", "member")
	ofReachable = describe("member_reachable", gauge, perNode, "1 if this node has a connection to the member.",
		"member")
	ofUp = describe("resource_up", gauge, agreed, "1 if the leader finds the resource fit to take part.",
		"resource")
	ofOwnUp = describe("resource_reachable", gauge, perNode,
		"1 if this node itself finds the resource fit, as it would have to if it led.", "resource")
	ofPrepared = describe("resource_in_doubt", gauge, agreed,
		"Branches of the resource that are not finished, whether or not it can be asked for them, according to the "+
			"leader.",
		"resource")
	ofOldest = describe("resource_in_doubt_oldest_age_seconds", gauge, agreed,
		"Age of the oldest of them, 0 if there is none, according to the leader.", "resource")
	ofForeign = describe("resource_foreign", gauge, agreed,
		"Prepared branches of other clusters, according to the leader's last listing.", "resource")
	ofListed = describe("resource_listed_age_seconds", gauge, agreed,
		"Age of the leader's last listing of the resource; absent if it has made none since it became the "+
			"leader.", "resource")
	ofQuarantined = describe("resource_quarantined", gauge, agreed,
		"1 if the database of the resource was set back, and nothing is finished there until an operator accepts it.",
		"resource")
	ofFree = describe("store_free_bytes", gauge, perNode, "Free space on the file system of this node's store.")
	ofFull = describe("store_full", gauge, perNode,
		"1 if that is below the reserve: while this node leads, new transactions are refused.")
	ofSync    = describe("store_sync_seconds", gauge, perNode, "How long the last sync of this node's log took.")
	ofSlowest = describe("store_sync_slowest_seconds", gauge, perNode,
		"The slowest sync of the last minute, including one still under way.")
	ofLogBytes = describe("log_bytes", gauge, perNode,
		"Approximate size of this node's log in bytes; it is cut behind what has been applied.")
	ofLogLength = describe("log_entries", gauge, perNode, "Number of entries in this node's log.")
	ofRefused   = describe("peer_connections_refused_total", counter, summed,
		"Connections to this node's peer port that were refused since it started.")

	ofInsecure = describe("insecure", gauge, perNode,
		"1 if this node serves other machines without asking who they are (--insecure).")
	ofExpiry = describe("certificate_expiry_seconds", gauge, perNode,
		"How long this node's certificate, and the first of the authorities that it trusts to expire, remain valid.",
		"which")
	ofDenied = describe("calls_denied_total", counter, summed,
		"Calls to this node whose caller was unknown, or was not allowed to make them.")

	ofTurns = describe("loop_turn_seconds", prometheus.UntypedValue, summed,
		"How long the turns of this node's loop took; a client gets no answer while one goes on.")
	ofCalls = describe("rpc_duration_seconds", prometheus.UntypedValue, summed,
		"How long calls to this node took, by method and status code; for Decide, each decision. A call that was "+
			"passed on counts at both nodes.", "method", "code")
	ofStreams = describe("rpc_streams", gauge, summed, "Streams that are open at this node.", "method")
	ofEnded   = describe("rpc_streams_ended_total", counter, summed,
		"Streams that have ended at this node since it started.", "method", "code")
	ofPanics = describe("panics_total", counter, summed, "Calls to this node that ended in a panic; each is a bug.")
)

// fromStatus are the metrics that Collect makes of the status; the others are kept here.
var fromStatus = []*described{ofDecided, ofDeadlocks, ofViewKnown, ofViewAge, ofInDoubt, ofOldestTxn, ofHeuristic,
	ofLeases, ofHasLeader, ofIsLeader, ofCutOff, ofEpoch,
	ofLag, ofReachable, ofUp, ofOwnUp, ofPrepared, ofOldest, ofForeign, ofListed, ofQuarantined,
	ofFree, ofFull, ofSync, ofSlowest, ofLogBytes, ofLogLength, ofRefused, ofInsecure, ofExpiry, ofDenied}

func newMetrics(n Node, door *access.Guard) *metrics {
	m := &metrics{node: n, door: door,
		calls: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: ofCalls.name, Help: ofCalls.help,
			Buckets: []float64{.0005, .001, .002, .005, .01, .02, .05, .1, .25, .5, 1, 2.5, 5, 10}}, ofCalls.labels),
		streams: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: ofStreams.name, Help: ofStreams.help},
			ofStreams.labels),
		ended: prometheus.NewCounterVec(prometheus.CounterOpts{Name: ofEnded.name, Help: ofEnded.help},
			ofEnded.labels),
		panics: prometheus.NewCounter(prometheus.CounterOpts{Name: ofPanics.name, Help: ofPanics.help})}
	m.decided = m.calls.WithLabelValues(methodDecide, codeOf(nil))
	return m
}

func (m *metrics) register(r prometheus.Registerer) {
	r.MustRegister(m, m.calls, m.streams, m.ended, m.panics)
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range fromStatus {
		ch <- d.desc
	}
	ch <- ofTurns.desc
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	s, now := m.node.Status(), time.Now()
	set := func(d *described, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d.desc, d.kind, v, labels...)
	}
	set(ofDecided, float64(s.Decided.Commit), "commit")
	set(ofDecided, float64(s.Decided.Abort), "abort")
	set(ofDeadlocks, float64(s.Deadlocks))
	set(ofRefused, float64(s.TurnedAway))
	set(ofEpoch, float64(s.Epoch))
	if s.Disk.Total > 0 {
		set(ofFree, float64(s.Disk.Free))
	}
	set(ofFull, oneIf(s.Disk.Low))
	set(ofSync, s.Disk.Last.Seconds())
	set(ofSlowest, s.Disk.Slowest.Seconds())
	set(ofLogBytes, float64(s.Log.Bytes))
	set(ofLogLength, float64(s.Log.Entries))
	for _, r := range s.Resources {
		set(ofOwnUp, oneIf(r.OK), r.Name)
	}
	told := statusMessage(s, now) // so that both say the same
	set(ofHasLeader, oneIf(told.GetLeader() != 0))
	set(ofIsLeader, oneIf(told.GetLeader() == told.GetNode()))
	set(ofCutOff, seconds(told.GetCutOffMs()))
	for _, n := range told.GetNodes() {
		member := strconv.FormatUint(n.GetId(), 10)
		set(ofLag, float64(n.GetLag()), member)
		set(ofReachable, oneIf(n.GetReachable()), member)
	}
	set(ofViewKnown, oneIf(told.GetKnown()))
	if told.GetKnown() {
		set(ofLeases, float64(s.Leases))
		set(ofViewAge, seconds(told.GetKnownAgeMs()))
		set(ofInDoubt, float64(told.GetInDoubt()))
		set(ofOldestTxn, seconds(told.GetOldestMs()))
		set(ofHeuristic, float64(told.GetHeuristic()))
	}
	for _, r := range told.GetResources() {
		collectResource(r, set)
	}
	m.collectDoor(set)
	ch <- turnHistogram(s.Turns)
}

func (m *metrics) collectDoor(set func(*described, float64, ...string)) {
	set(ofInsecure, oneIf(m.door.Insecure()))
	set(ofDenied, float64(m.door.Denied()))
	if keys := m.door.Keys(); keys != nil {
		own, authority := keys.Expiry()
		set(ofExpiry, time.Until(own).Seconds(), "own")
		set(ofExpiry, time.Until(authority).Seconds(), "authority")
	}
}

func collectResource(r *concordv1.ResourceStatus, set func(*described, float64, ...string)) {
	if !r.GetKnown() {
		return
	}
	set(ofUp, oneIf(r.GetOk()), r.GetName())
	set(ofQuarantined, oneIf(r.GetQuarantine() != nil), r.GetName())
	set(ofPrepared, float64(r.GetInDoubt()), r.GetName())
	set(ofOldest, seconds(r.GetOldestMs()), r.GetName())
	if r.GetListed() {
		set(ofForeign, float64(r.GetForeign()), r.GetName())
		set(ofListed, seconds(r.GetListedAgeMs()), r.GetName())
	}
}

func seconds(ms int64) float64 { return (time.Duration(ms) * time.Millisecond).Seconds() }

func turnHistogram(t coordinator.Turns) prometheus.Metric {
	buckets := make(map[float64]uint64, len(t.Upto))
	for bound, n := range t.Upto {
		buckets[bound.Seconds()] = n
	}
	return prometheus.MustNewConstHistogram(ofTurns.desc, t.Count, t.Sum.Seconds(), buckets)
}

func oneIf(v bool) float64 {
	if v {
		return 1
	}
	return 0
}

// layer measures calls. How long a stream was open says nothing; what happens on it is measured
// by its handler.
func (m *metrics) layer(ctx context.Context, c call, next func(context.Context) error) error {
	if c.stream {
		open := m.streams.WithLabelValues(c.method())
		open.Inc()
		defer open.Dec()
		err := next(ctx)
		m.ended.WithLabelValues(c.method(), codeOf(err)).Inc()
		return err
	}
	start := time.Now()
	err := next(ctx)
	m.calls.WithLabelValues(c.method(), codeOf(err)).Observe(time.Since(start).Seconds())
	return err
}

// answered measures the answer to one request of a stream of decisions.
func (m *metrics) answered(a *concordv1.NumberedAnswer, took time.Duration) {
	if e := a.GetError(); e != nil {
		m.calls.WithLabelValues(methodDecide, connect.Code(e.GetCode()).String()).Observe(took.Seconds())
		return
	}
	m.decided.Observe(took.Seconds())
}
