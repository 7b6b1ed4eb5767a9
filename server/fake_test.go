// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/api/concord/v1/concordv1connect"
	"github.com/concordtx/concord/api/member"
	"github.com/concordtx/concord/coordinator"
	"github.com/concordtx/concord/coordinator/commit"
	"github.com/concordtx/concord/coordinator/deadlock"
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/security/access"
	"github.com/concordtx/concord/txn"
)

const fakeCluster txn.ClusterID = 0xc0ffee01

// fakeNode is a node that knows what a test tells it. It decides to commit whatever it is
// asked, and has the answer ready that the real one would have.
type fakeNode struct {
	snapshot  *coordinator.Snapshot
	addresses map[uint64]string
	keyed     txn.Txn // under every key
	view      *commit.View
	finished  []txn.Txn
	deadlocks []deadlock.Deadlock
	err       error // of every call of the leader, if it is not nil
	behind    error // of Reach and StatusSince
	panics    bool  // in every call
	closed    chan struct{}

	calls []string
	who   string // of the last Forget
	acts  []*txn.Act

	recovers []coordinator.ActionResult
	examined coordinator.Examined
}

// newFake is a node that leads a cluster of two in which all is well.
func newFake() *fakeNode {
	now := time.Now()
	return &fakeNode{closed: make(chan struct{}), addresses: map[uint64]string{}, view: &commit.View{},
		snapshot: &coordinator.Snapshot{Cluster: fakeCluster, Node: 1, Leader: 1, Epoch: 3,
			Present: now.Add(time.Hour), Zxid: zab.Zxid{Epoch: 3, Counter: 9},
			Figures: &commit.Figures{At: now.Add(time.Hour), Clock: now.Add(time.Hour)}}}
}

func (f *fakeNode) did(call string) error {
	if f.panics {
		panic("a bug")
	}
	f.calls = append(f.calls, call)
	return f.err
}

func (f *fakeNode) Status() *coordinator.Snapshot { return f.snapshot }
func (f *fakeNode) StatusSince(context.Context, zab.Zxid) (*coordinator.Snapshot, error) {
	if f.panics {
		panic("a bug")
	}
	return f.snapshot, f.behind
}
func (f *fakeNode) Applied() zab.Zxid                                          { return f.snapshot.Zxid }
func (f *fakeNode) Reach(context.Context, zab.Zxid) error                      { return f.behind }
func (f *fakeNode) APIAddress(id uint64) string                                { return f.addresses[id] }
func (f *fakeNode) MaxTransaction() time.Duration                              { return time.Minute }
func (f *fakeNode) Closed() <-chan struct{}                                    { return f.closed }
func (f *fakeNode) LastDecided(txn.LastDecision, commit.Reporter)              { _ = f.did("LastDecided") }
func (f *fakeNode) Finished(txn.ID, txn.BranchNo, txn.Finish, commit.Reporter) { _ = f.did("Finished") }

func (f *fakeNode) Deliver([]member.Envelope) { _ = f.did("Deliver") }

func (f *fakeNode) ListThrough(context.Context, string) ([]adapters.Prepared, error) {
	_ = f.did("ListThrough") // of whom it follows
	return nil, nil
}

func (f *fakeNode) FinishThrough(context.Context, txn.XID, string) (txn.Finish, error) {
	_ = f.did("FinishThrough")
	return txn.Done, nil
}

func (f *fakeNode) Commit(context.Context, txn.CommitRequest) (commit.Reply, error) {
	return commit.Reply{Txn: txn.Txn{Decision: txn.Commit}, Zxid: f.snapshot.Zxid}, f.did("Commit")
}

func (f *fakeNode) CommitLater(_ txn.CommitRequest, done func(commit.Reply)) {
	done(commit.Reply{Txn: txn.Txn{Decision: txn.Commit}, Zxid: f.snapshot.Zxid, Err: f.did("CommitLater")})
}

func (f *fakeNode) KeyUse(context.Context, string, commit.KeyClaim) (commit.Reply, error) {
	return commit.Reply{Key: &txn.KeyUse{Key: "k", ID: known.ID, Result: []byte("kept")}, Txn: f.keyed}, f.did("KeyUse")
}

func (f *fakeNode) Outcome(context.Context, txn.Inquiry) (commit.Reply, error) {
	return commit.Reply{Txn: txn.Txn{Decision: txn.Abort}}, f.did("Outcome")
}

func (f *fakeNode) GrantLease(context.Context) (txn.Lease, error)   { return 1, f.did("GrantLease") }
func (f *fakeNode) RenewLease(l txn.Lease) (bool, error)            { return l == 1, f.did("RenewLease") }
func (f *fakeNode) EndLease(ctx context.Context, l txn.Lease) error { return f.did("EndLease") }
func (f *fakeNode) Waiting(_ context.Context, heard uint64, w []deadlock.Waiter) (commit.Reply, error) {
	return commit.Reply{Deadlocks: f.deadlocks, Look: heard + 1}, f.did(fmt.Sprintf("Waiting %d", len(w)))
}
func (f *fakeNode) HoldsLease(l txn.Lease) bool    { return l == 1 }
func (f *fakeNode) LeaseLength() time.Duration     { return 5 * time.Second }
func (f *fakeNode) FeatureLevel() txn.FeatureLevel { return txn.Newest }

func (f *fakeNode) Recheck(context.Context, string, string) { _ = f.did("Recheck") }

func (f *fakeNode) Examine(context.Context, txn.ID, bool, []txn.Branch) coordinator.Examined {
	_ = f.did("Examine")
	return f.examined
}

func (f *fakeNode) Settle(context.Context, txn.Settlement) (coordinator.Settled, error) {
	return coordinator.Settled{}, f.did("Settle")
}

func (f *fakeNode) Report(context.Context, string) (coordinator.SetBack, error) {
	return coordinator.SetBack{}, f.did("Report")
}

func (f *fakeNode) Accept(context.Context, string, string, string) error { return f.did("Accept") }

func (f *fakeNode) View(context.Context, txn.ID) (*commit.View, error) {
	if err := f.did("View"); err != nil {
		return nil, err
	}
	return f.view, nil
}

func (f *fakeNode) EachFinished(_ txn.ID, visit func(txn.Txn) bool) error {
	for _, x := range f.finished {
		if !visit(x) {
			break
		}
	}
	return nil
}

func (f *fakeNode) Act(_ context.Context, act txn.ActRecord, do func() (string, error)) error {
	if f.panics {
		panic("a bug")
	}
	if f.err != nil {
		return f.err
	}
	a := &txn.Act{No: uint64(len(f.acts) + 1), ActRecord: act, Outcome: txn.ActDone}
	f.acts = append(f.acts, a)
	says, err := do()
	a.Says = says
	return err
}

func (f *fakeNode) Acts(context.Context) ([]*txn.Act, error) { return f.acts, f.did("Acts") }

func (f *fakeNode) Resolve(_ context.Context, asked txn.Resolution) (commit.Reply, error) {
	return commit.Reply{Txn: txn.Txn{Decision: asked.Decision}}, f.did("Resolve")
}

func (f *fakeNode) Forget(_ context.Context, _ txn.ID, who, _ string) error {
	f.who = who
	return f.did("Forget")
}

func (f *fakeNode) Replace(context.Context, zab.NodeID, string, string) error {
	return f.did("Replace")
}

func (f *fakeNode) AddMember(context.Context, replica.Member, string, string, string) error {
	return f.did("AddMember")
}

func (f *fakeNode) RemoveMember(context.Context, zab.NodeID, string, string, string) error {
	return f.did("RemoveMember")
}

func (f *fakeNode) Lead(_ context.Context, node zab.NodeID, _, _ string) error {
	return f.did(fmt.Sprintf("Lead %d", node))
}

func (f *fakeNode) Recover(_ context.Context, _ txn.ID, _ bool, each func(coordinator.Progress) error) error {
	if err := f.did("Recover"); err != nil {
		return err
	}
	return each(coordinator.Progress{Actions: f.recovers})
}

func (f *fakeNode) Retry(context.Context, txn.ID, *txn.BranchNo) (int, error) {
	return 1, f.did("Retry")
}

func (f *fakeNode) Check(context.Context, string) (map[string]coordinator.CheckResult, error) {
	return map[string]coordinator.CheckResult{"orders": {Driver: "postgres", Report: adapters.Report{Version: "17"}}},
		f.did("Check")
}

// follows makes it a node that follows another one, whose API is at addr.
func (f *fakeNode) follows(leader uint64, addr string) {
	f.snapshot.Node, f.snapshot.Leader = 2, zab.NodeID(leader)
	f.addresses[leader] = addr
	f.err = &txn.NotLeaderError{Leader: leader, API: addr}
}

// served is a node on the network.
type served struct {
	*httptest.Server
	metrics *metrics
}

func serve(t *testing.T, n Node, wrap func(int, layer) layer, services ...Service) *served {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	m, r := newMetrics(n, access.Open()), newRelay(n, nil)
	all := layers(m, log, services...)
	for i := range all {
		if wrap != nil {
			all[i] = wrap(i, all[i])
		}
	}
	h := &handlers{node: n, relay: r, metrics: m, log: log, limits: access.DefaultLimits}
	s := &served{Server: httptest.NewUnstartedServer(handler(h, all, services...)), metrics: m}
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	return s
}

func (s *served) addr() string { return strings.TrimPrefix(s.URL, "http://") }

// h2 is a client that speaks HTTP/2, as streams need it.
func h2(t *testing.T) *http.Client {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: protocols}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: time.Minute}
}

func (s *served) stub(t *testing.T) concordv1connect.CoordinatorServiceClient {
	return concordv1connect.NewCoordinatorServiceClient(h2(t), s.URL)
}

// get returns status code and text of a plain page.
func (s *served) get(t *testing.T, path string) (int, string) {
	t.Helper()
	res, err := http.Get(s.URL + path)
	require.NoError(t, err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res.StatusCode, string(text)
}

// value returns one series of /metrics, which is named as it is written there.
func (s *served) value(t *testing.T, series string) (float64, bool) {
	t.Helper()
	code, text := s.get(t, "/metrics")
	require.Equal(t, http.StatusOK, code, text)
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), series+" "); ok {
			v, err := strconv.ParseFloat(rest, 64)
			require.NoError(t, err)
			return v, true
		}
	}
	return 0, false
}
