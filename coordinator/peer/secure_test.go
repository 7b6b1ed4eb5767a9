// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"bufio"
	"crypto/tls"
	"log/slog"
	"net"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/security"
	"github.com/concordtx/concord/txn"
)

// certified is a directory with the certificates of some nodes and of a client.
func certified(t *testing.T, nodes int) (security.Dir, *security.Authority) {
	t.Helper()
	dir := security.Dir(filepath.Join(t.TempDir(), "certs"))
	a, err := security.NewAuthority(dir, filepath.Join(t.TempDir(), "ca.key"), "shop", security.AuthorityLifetime,
		false)
	require.NoError(t, err)
	for id := 1; id <= nodes; id++ {
		_, err := a.Issue(dir, security.Node, strconv.Itoa(id), []string{"127.0.0.1"}, security.CertificateLifetime,
			false)
		require.NoError(t, err)
	}
	_, err = a.Issue(dir, security.Client, "alice", nil, security.CertificateLifetime, false)
	require.NoError(t, err)
	return dir, a
}

// securedNode runs the transport of one node, and returns it, what it hears and its log.
func securedNode(t *testing.T, dir security.Dir, id zab.NodeID, l net.Listener, members []replica.Member) (*Transport,
	chan Inbound, *lines) {
	t.Helper()
	keys, err := security.Load(dir.Node(uint64(id)), nil)
	require.NoError(t, err)
	received, log := make(chan Inbound, 1024), &lines{}
	var list atomic.Pointer[replica.List]
	list.Store(&replica.List{Members: members})
	self := Hello{From: id, Level: txn.Newest, Needs: txn.LevelBase, Store: txn.StoreID{byte(id)}, Cluster: 7,
		Dial: 1 << 32}
	p := New(Config{Self: func() Hello { return self }, List: &list, Configured: members, Listener: l, Keys: keys,
		Log: slog.New(slog.NewTextHandler(log, nil)), Received: received})
	runUntilEnd(t, p.Run)
	return p, received, log
}

// pair is two nodes that are to talk, of which only the first runs; the second is called by address.
func pair(t *testing.T) (dir security.Dir, a *security.Authority, one, two net.Listener, members []replica.Member) {
	t.Helper()
	dir, a = certified(t, 3)
	for _, l := range []*net.Listener{&one, &two} {
		var err error
		*l, err = net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
	}
	members = []replica.Member{{ID: 1, Peer: one.Addr().String()}, {ID: 2, Peer: two.Addr().String()}}
	return dir, a, one, two, members
}

func TestNodesTalkThroughTLS(t *testing.T) {
	dir, _, one, two, members := pair(t)
	p, _, _ := securedNode(t, dir, 1, one, members)
	q, heard, _ := securedNode(t, dir, 2, two, members)
	require.Eventually(t, func() bool { return p.Reachable(2) && q.Reachable(1) }, 20*time.Second, 10*time.Millisecond)
	p.Tell(2, &Report{Epoch: 9}, &Standing{})
	deadline := time.After(20 * time.Second)
	for {
		select {
		case in := <-heard:
			if in.Report != nil {
				require.EqualValues(t, 9, in.Report.Epoch)
				require.EqualValues(t, 1, in.From)
				return
			}
		case <-deadline:
			t.Fatal("nothing is heard")
		}
	}
}

// as dials a transport with somebody's certificate, whoever answers.
func as(t *testing.T, addr string, files security.Files) (*tls.Conn, error) {
	t.Helper()
	own, err := tls.LoadX509KeyPair(files.Cert, files.Key)
	require.NoError(t, err)
	conn := dialRaw(t, addr)
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	c := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{own}})
	return c, c.Handshake()
}

func TestOnlyANodeGetsPastTheHandshake(t *testing.T) {
	dir, _, one, two, members := pair(t)
	require.NoError(t, two.Close())
	p, heard, log := securedNode(t, dir, 1, one, members)
	addr := one.Addr().String()
	refused := func(before uint64) {
		t.Helper()
		require.Eventually(t, func() bool { return p.TurnedAway() > before }, 10*time.Second, 10*time.Millisecond)
	}

	plain := dialRaw(t, addr) // who says hello without TLS
	require.NoError(t, writeFrame(plain, frameHello, asPeer(p, 2).append(nil)))
	closed(t, plain)
	refused(0)

	alice, err := dir.Client("alice") // who belongs to the cluster, and is no node
	require.NoError(t, err)
	c, err := as(t, addr, alice)
	require.NoError(t, err, "with TLS 1.3 the client hears it later")
	require.NoError(t, writeFrame(c, frameHello, asPeer(p, 2).append(nil)))
	_, _, err = readFrame(bufio.NewReader(c))
	require.Error(t, err)
	refused(1)

	c, err = as(t, addr, dir.Node(3)) // node 3 with node 2's name
	require.NoError(t, err)
	require.NoError(t, writeFrame(c, frameHello, asPeer(p, 2).append(nil)))
	_, _, err = readFrame(bufio.NewReader(c))
	require.Error(t, err)
	refused(2)
	require.Empty(t, heard, "nothing of that came as far as the log")
	require.Empty(t, p.Refusals(), "nor is it said of node 2 that it is wrong")

	c, err = as(t, addr, dir.Node(2)) // the real one
	require.NoError(t, err)
	require.NoError(t, writeFrame(c, frameHello, asPeer(p, 2).append(nil)))
	kind, _, err := readFrame(bufio.NewReader(c))
	require.NoError(t, err)
	require.Equal(t, frameHello, kind)
	require.Contains(t, log.String(), "connection to the peer port refused")
}

// A connection that stands is given up when the certificate at its other end is not accepted any more.
func TestARevokedPeerLosesItsConnection(t *testing.T) {
	dir, a, one, two, members := pair(t)
	require.NoError(t, two.Close())
	p, _, log := securedNode(t, dir, 1, one, members)
	c, err := as(t, one.Addr().String(), dir.Node(2))
	require.NoError(t, err)
	require.NoError(t, writeFrame(c, frameHello, asPeer(p, 2).append(nil)))
	kind, _, err := readFrame(bufio.NewReader(c))
	require.NoError(t, err)
	require.Equal(t, frameHello, kind)
	require.NoError(t, a.Revoke(dir, string(dir)+"/node.2.crt"))
	require.NoError(t, p.config.Keys.Reload())
	go func() { // it goes on to talk, so that nothing else ends the connection
		often := time.NewTicker(50 * time.Millisecond)
		defer often.Stop()
		for range often.C {
			if _, err := c.Write(appendOutbound(nil, outbound{report: &Report{Epoch: 1}, standing: &Standing{}},
				protocolVersion)); err != nil {
				return
			}
		}
	}()
	closed(t, c)
	require.Contains(t, log.String(), "its certificate is no longer accepted")
}

// Whoever says a connection number that is far too high is not heard in a node's place for ever.
func TestAHighNumberMutesNobodyForGood(t *testing.T) {
	var v voices
	now := time.Now()
	h := Hello{From: 2, Store: txn.StoreID{2}, Dial: 1<<64 - 1}
	forged, _ := v.take(h, nil, now)
	require.NotNil(t, forged)
	h.Dial = 1<<32 | 7
	real, _ := v.take(h, nil, now.Add(time.Hour))
	require.Nil(t, real, "the other one is heard still")
	v.end(forged, now.Add(time.Hour))
	real, _ = v.take(h, nil, now.Add(time.Hour+voiceMemory-1))
	require.Nil(t, real, "bytes may be late")
	real, old := v.take(h, nil, now.Add(time.Hour+voiceMemory))
	require.NotNil(t, real)
	require.Same(t, forged, old)
}
