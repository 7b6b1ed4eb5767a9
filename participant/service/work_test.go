// SPDX-License-Identifier: Apache-2.0

package service_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	remote "github.com/concordtx/concord/adapters/agent"
	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/api/concord/v1/concordv1connect"
	"github.com/concordtx/concord/participant"
	"github.com/concordtx/concord/participant/service"
	"github.com/concordtx/concord/txn"
)

// door is an agent as processes call it, and counts what they call.
type door struct {
	*served
	addr   string
	server *http.Server
	hidden string // a procedure that it has not

	mu    sync.Mutex
	calls map[string]int
	conns []net.Conn
}

func openDoor(t *testing.T, hidden string) *door {
	t.Helper()
	d := &door{served: serve(t, participant.Rules{}, 7), hidden: hidden, calls: map[string]int{}}
	h := service.Handler(d.agent, nil, slog.New(slog.DiscardHandler))
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	d.server = &http.Server{Protocols: protocols, ConnState: d.state}
	d.server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		method := path.Base(r.URL.Path)
		d.mu.Lock()
		d.calls[method]++
		d.mu.Unlock()
		if method == d.hidden {
			http.NotFound(w, r)
			return
		}
		h.ServeHTTP(w, r)
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	d.addr = l.Addr().String()
	done := make(chan struct{})
	go func() { defer close(done); _ = d.server.Serve(l) }() // its error is that it was closed
	t.Cleanup(func() {
		require.NoError(t, d.server.Close())
		<-done
	})
	return d
}

func (d *door) state(c net.Conn, s http.ConnState) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s == http.StateNew {
		d.conns = append(d.conns, c)
	}
}

// cut ends all connections.
func (d *door) cut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.conns {
		_ = c.Close() // some are closed already
	}
}

func (d *door) called(method string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.calls[method]
}

// one is a transaction of one branch.
type one struct {
	adapters.Global
	id      txn.ID
	session adapters.Session
}

func (o *one) Enlist(ctx context.Context, r adapters.Opener) (s adapters.Session, err error) {
	o.session, err = r.Open(ctx, txn.XID{Cluster: 7, ID: o.id})
	return o.session, err
}

// transfer works in a branch, has it vote and finishes it.
func (d *door) transfer(r *remote.Resource, i int) {
	o := &one{id: newID()}
	b, err := r.Tx(d.Context(), o)
	require.NoError(d, err)
	for range 2 {
		_, err = b.Execute(d.Context(), remote.Statement{Text: fmt.Sprintf("add account%d 1", i)})
		require.NoError(d, err)
	}
	vote, _, err := o.session.Prepare(d.Context())
	require.NoError(d, err)
	require.Equal(d, txn.VoteYes, vote)
	found, err := o.session.Commit(d.Context())
	require.NoError(d, err)
	require.Equal(d, txn.Done, found)
}

func (d *door) transfers(n int) {
	d.Helper()
	client, err := remote.Dial(d.addr)
	require.NoError(d, err)
	defer client.Close()
	r := remote.New("ledger", client)
	_, err = r.Identity(d.Context())
	require.NoError(d, err)
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() { d.transfer(r, i) })
	}
	group.Wait()
}

// All branches of a process share one stream to an agent.
func TestBranchesShareAStream(t *testing.T) {
	d := openDoor(t, "")
	d.transfers(20)
	require.Equal(t, 1, d.called("Work"))
	for _, method := range []string{"Execute", "Prepare", "Finish"} {
		require.Zero(t, d.called(method), method)
	}
}

// An agent that knows no streams, or stands behind something that does not, is asked by ordinary calls.
func TestAnAgentWithoutStreams(t *testing.T) {
	d := openDoor(t, "Work")
	d.transfers(3)
	require.Equal(t, 6, d.called("Execute"))
	require.Equal(t, 3, d.called("Prepare"))
	require.Equal(t, 3, d.called("Finish"))
}

// A request of a stream that broke is sent again under its number, and done once.
func TestAStreamThatBreaksLosesNothing(t *testing.T) {
	d := openDoor(t, "")
	client, err := remote.Dial(d.addr)
	require.NoError(t, err)
	defer client.Close()
	r := remote.New("ledger", client)
	first, second := &one{id: newID()}, &one{id: newID()}
	holder, err := r.Tx(t.Context(), first)
	require.NoError(t, err)
	_, err = holder.Execute(t.Context(), remote.Statement{Text: "add account 1"})
	require.NoError(t, err)
	waiter, err := r.Tx(t.Context(), second)
	require.NoError(t, err)
	answered := make(chan error, 1)
	go func() {
		_, err := waiter.Execute(t.Context(), remote.Statement{Text: "add account 10"})
		answered <- err
	}()
	busy := func() bool {
		states, err := d.agent.States(t.Context(), second.id)
		return err == nil && len(states) == 1
	}
	require.Eventually(t, busy, 10*time.Second, time.Millisecond, "the second branch does not wait")
	d.cut()
	require.Eventually(t, func() bool { return d.called("Work") > 1 }, 10*time.Second, time.Millisecond,
		"the request is not sent again")
	require.NoError(t, first.session.Rollback(t.Context()))
	require.NoError(t, <-answered)
	result, err := waiter.Execute(t.Context(), remote.Statement{Text: "get account"})
	require.NoError(t, err)
	require.Equal(t, [][]any{{[]byte("10")}}, result.Rows)
	require.NoError(t, second.session.Rollback(t.Context()))
}

// Requests whose time is over leave their room to others, as calls do that are given up.
func TestRequestsWhoseTimeIsOverLeaveRoom(t *testing.T) {
	const more = 1200 // than there is room for
	d := openDoor(t, "")
	client, err := remote.Dial(d.addr)
	require.NoError(t, err)
	defer client.Close()
	first := &one{id: newID()}
	holder, err := remote.New("ledger", client).Tx(t.Context(), first)
	require.NoError(t, err)
	_, err = holder.Execute(t.Context(), remote.Statement{Text: "add account 1"})
	require.NoError(t, err)

	transport := api.HTTP2(nil, time.Minute)
	defer transport.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	stream, err := concordv1connect.NewParticipantServiceClient(&http.Client{Transport: transport},
		"http://"+d.addr).Work(ctx)
	require.NoError(t, err)
	second := &concordv1.BranchAddress{Cluster: txn.ClusterID(7).String(), Gid: newID().String(), Resource: "ledger",
		Journal: d.journal, Epoch: uint32(d.agent.Life().Epoch)}
	for i := range more {
		r := &concordv1.ExecuteRequest{Branch: second, Number: 1, Statement: "add account 10"}
		require.NoError(t, stream.Send(&concordv1.WorkRequest{Work: []*concordv1.NumberedWork{{Number: uint64(i + 1),
			TimeoutMs: 300, Call: &concordv1.NumberedWork_Execute{Execute: r}}}}))
	}
	for answers := 0; answers < more; {
		m, err := stream.Receive()
		require.NoError(t, err, "after %d answers", answers)
		for _, a := range m.GetResults() {
			require.EqualValues(t, connect.CodeDeadlineExceeded, a.GetError().GetCode(), "%v", a)
			answers++
		}
	}
	require.NoError(t, stream.CloseRequest())
	require.NoError(t, stream.CloseResponse())
	require.NoError(t, first.session.Rollback(t.Context()))
}
