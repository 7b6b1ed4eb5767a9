// SPDX-License-Identifier: Apache-2.0

package attack

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
)

// kept sends a request on a connection, reads the answer, and keeps the connection.
func kept(conn *tls.Conn, request string) (status int, err error) {
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(conn, request); err != nil {
		return 0, err
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(io.Discard, res.Body)
	return res.StatusCode, err
}

// Strangers ask for the pages that everybody may see, or are told that they may not come in, and keep their
// connections. That is no reason to turn others away.
func TestAnsweredStrangersTakeNobodysPlace(t *testing.T) {
	const descriptors = 400
	c := start(t, settings{descriptors: descriptors})
	h := c.honest(2, concord.WithCertsDir(string(c.certs)), concord.WithUser("app"))
	h.goOn(20)
	target := c.leader(false)
	answered := 0
	for i := range 300 {
		conn, err := c.as("", target.api)
		if err != nil {
			continue
		}
		page, want := "/livez", http.StatusOK
		if i%2 == 1 {
			page, want = "/metrics", http.StatusUnauthorized
		}
		status, err := kept(conn, "GET "+page+" HTTP/1.1\r\nHost: x\r\n\r\n")
		if err == nil {
			require.Equal(t, want, status)
			answered++
		}
	}
	require.Greater(t, answered, 250)
	require.Less(t, target.descriptors(t), descriptors)
	one, err := api.Dial([]string{target.api}, api.ClientOptions{Credentials: c.credentials("alice"),
		Patience: 5 * time.Second})
	require.NoError(t, err)
	defer one.Close()
	_, err = one.Status(t.Context(), &concordv1.StatusRequest{})
	require.NoError(t, err, "a new client is turned away")
	h.goOn(20)
	c.alive()
}

// A subject that begins with a page for everybody has no more connections than one that does not.
func TestASubjectHidesNoConnections(t *testing.T) {
	c := start(t, settings{})
	target := c.leader(false)
	refused := 0
	for range 280 {
		conn, err := c.as("client.evil", target.api)
		require.NoError(t, err)
		status, err := kept(conn, "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, status)
		status, err = kept(conn, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
		require.NoError(t, err)
		if status == http.StatusTooManyRequests {
			refused++
		}
	}
	require.Equal(t, 280-256, refused)
	c.alive()
}

// Handshakes that stop in the middle, at both ports, are given up, and cost others nothing.
func TestHalfHandshakes(t *testing.T) {
	const descriptors = 600
	c := start(t, settings{descriptors: descriptors})
	h := c.honest(2, concord.WithCertsDir(string(c.certs)), concord.WithUser("app"))
	h.goOn(20)
	target := c.leader(false)
	before := target.descriptors(t)
	hello := clientHello(t)
	for _, addr := range []string{target.api, target.peer} {
		for i := range 200 {
			conn, err := net.DialTimeout("tcp", addr, 10*time.Second)
			require.NoError(t, err)
			t.Cleanup(func() { _ = conn.Close() })
			// Some say half of a hello, some all of it and read no answer.
			_, _ = conn.Write(hello[:len(hello)/(1+i%2)])
		}
	}
	require.Less(t, target.descriptors(t), descriptors)
	h.goOn(20)
	eventually(t, "half handshakes are given up", func() bool { return target.descriptors(t) < before+50 })
	h.goOn(20)
	s, err := c.caller(false).Status(t.Context(), &concordv1.StatusRequest{})
	require.NoError(t, err)
	for _, n := range s.GetNodes() {
		require.True(t, n.GetReachable(), fmt.Sprintf("node %d is not heard", n.GetId()))
	}
	c.alive()
}

// Requests that are taken back as soon as they are made, as fast as they can be written.
func TestRapidResets(t *testing.T) {
	const requests = 50_000
	c := start(t, settings{})
	h := c.honest(2, concord.WithCertsDir(string(c.certs)), concord.WithUser("app"))
	h.goOn(20)
	target := c.leader(false)
	before := target.resident(t)
	for _, who := range []string{"", "client.app"} {
		conn, err := c.as(who, target.api, "h2")
		require.NoError(t, err)
		require.Equal(t, "h2", conn.ConnectionState().NegotiatedProtocol)
		go func() { _, _ = io.Copy(io.Discard, conn) }()
		frame := func(kind, flags byte, stream uint32, body []byte) []byte {
			b := []byte{0, byte(len(body) >> 8), byte(len(body)), kind, flags}
			b = append(b, byte(stream>>24), byte(stream>>16), byte(stream>>8), byte(stream))
			return append(b, body...)
		}
		path := "/concord.v1.CoordinatorService/Commit"
		// POST, https, the path and an authority as a literal each, of names that every table has.
		headers := append([]byte{0x83, 0x87, 0x04, byte(len(path))}, path...)
		headers = append(headers, 0x01, 1, 'x')
		out := append([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), frame(4, 0, 0, nil)...)
		sent := 0
		for i := range uint32(requests) {
			out = append(out, frame(1, 4, 2*i+1, headers)...)            // headers, which end here
			out = append(out, frame(3, 0, 2*i+1, []byte{0, 0, 0, 8})...) // taken back
			if len(out) > 32<<10 || i == requests-1 {
				_ = conn.SetWriteDeadline(time.Now().Add(10 * time.Second))
				if _, err := conn.Write(out); err != nil {
					break // the node has had enough of it
				}
				sent, out = int(i)+1, out[:0]
			}
		}
		t.Logf("%q: %d requests were taken", who, sent)
		require.Positive(t, sent)
		h.goOn(20)
	}
	grown := target.resident(t) - before
	t.Logf("the node has %d MiB more", grown>>20)
	require.Less(t, grown, spare)
	c.alive()
}

// clientHello is what a client of TLS says first.
func clientHello(t *testing.T) []byte {
	t.Helper()
	ours, theirs := net.Pipe()
	defer ours.Close()
	go func() {
		_ = tls.Client(theirs, &tls.Config{InsecureSkipVerify: true}).Handshake()
	}()
	defer theirs.Close()
	head := make([]byte, 5)
	_, err := io.ReadFull(ours, head)
	require.NoError(t, err)
	body := make([]byte, int(head[3])<<8|int(head[4]))
	_, err = io.ReadFull(ours, body)
	require.NoError(t, err)
	return append(head, body...)
}
