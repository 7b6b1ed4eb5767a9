// SPDX-License-Identifier: Apache-2.0

package attack

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord"
)

// What honest clients get through before, during and five seconds after attacks that go on for as long as they are
// measured, and what the node that is attacked uses. It is a report and judges nothing: where the attacker, the nodes
// and the clients share a machine, maybe with others, rates say more about that than about the nodes.
//
//	go test -run '^$' -bench BenchmarkHonestClients -benchtime 1x ./tests/attack
func BenchmarkHonestClients(b *testing.B) {
	const length, pause = 5 * time.Second, 5 * time.Second
	c := start(b, settings{})
	h := c.honest(4, concord.WithCertsDir(string(c.certs)), concord.WithUser("app"))
	target := c.leader(false)
	var used float64 // by the node that is attacked, in percent of a core
	rate := func() float64 {
		began, before := time.Now(), h.commits.Load()
		used = target.cpu(b, length)
		return float64(h.commits.Load()-before) / time.Since(began).Seconds()
	}
	rate() // connections, and what is compiled or cached at first
	for b.Loop() {
		var during, after []float64
		for _, a := range attacks {
			calm, idle := rate(), used
			ctx, stop := context.WithCancel(b.Context())
			ended := make(chan struct{})
			go func() { defer close(ended); a.run(ctx, c, target) }()
			attacked, busy := rate(), used
			stop()
			<-ended
			<-time.After(pause)
			again := rate()
			during, after = append(during, attacked/calm), append(after, again/calm)
			b.Logf("%-52s before %5.0f/s, during %5.0f/s (%.2f), after %5.0f/s (%.2f); the node used %.0f and "+
				"%.0f %% of a core; machine's load %s", a.name, calm, attacked, attacked/calm, again, again/calm,
				idle, busy, load(b))
		}
		b.ReportMetric(median(during), "during/before")
		b.ReportMetric(median(after), "after/before")
	}
	c.alive()
}

// attacks go on until ctx ends, and leave nothing open then.
var attacks = []struct {
	name string
	run  func(ctx context.Context, c *cluster, target *node)
}{
	{"A09 250 requests whose bodies never come", func(ctx context.Context, c *cluster, target *node) {
		c.hold(ctx, 250, "client.evil", target.api, "POST /concord.v1.CoordinatorService/Commit HTTP/1.1\r\n"+
			"Host: x\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n{")
	}},
	{"A09 400 strangers that say half a line", func(ctx context.Context, c *cluster, target *node) {
		c.hold(ctx, 400, "", target.api, "POST /")
	}},
	{"A10 100 lists that nobody reads", func(ctx context.Context, c *cluster, target *node) {
		const body = `{"limit": 10000}`
		c.hold(ctx, 100, "client.vera", target.api, fmt.Sprintf("POST /concord.v1.CoordinatorService/List HTTP/1.1\r\n"+
			"Host: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body))
	}},
	{"A01 and A23 connections at the peer port, with nonsense", func(ctx context.Context, _ *cluster, target *node) {
		for ctx.Err() == nil {
			conn, err := net.DialTimeout("tcp", target.peer, time.Second)
			if err != nil {
				continue
			}
			_ = conn.SetDeadline(time.Now().Add(time.Second))
			_, _ = conn.Write(bytes.Repeat([]byte("nonsense"), 1000))
			_, _ = io.Copy(io.Discard, conn)
			_ = conn.Close()
		}
	}},
	{"A11 one stream, as many requests as it takes", func(ctx context.Context, c *cluster, target *node) {
		message := fmt.Sprintf(`{"commits":[{"number":"1","request":{"gid":"nonsense","label":%q}}]}`,
			strings.Repeat("x", 900))
		frame := append([]byte{0, 0, 0, byte(len(message) >> 8), byte(len(message))}, message...)
		evil := c.http("client.evil", true)
		for ctx.Err() == nil {
			target.post(ctx, evil, "Decide", "application/connect+json", "", endless(frame))
		}
	}},
	{"A13 requests that are small until they are unpacked", func(ctx context.Context, c *cluster, target *node) {
		var member bytes.Buffer
		w := gzip.NewWriter(&member)
		_, _ = w.Write(make([]byte, 8<<20))
		_ = w.Close()
		bomb := bytes.Repeat(member.Bytes(), 64)
		evil := c.http("client.evil", true)
		for ctx.Err() == nil {
			target.post(ctx, evil, "Commit", "application/proto", "gzip", bytes.NewReader(bomb))
		}
	}},
	{"SEC13 wrong tokens, one after the other", func(ctx context.Context, c *cluster, target *node) {
		client := c.http("", true)
		for ctx.Err() == nil {
			r, err := http.NewRequestWithContext(ctx, http.MethodPost,
				"https://"+target.api+"/concord.v1.CoordinatorService/Status", strings.NewReader("{}"))
			if err != nil {
				return
			}
			r.Header.Set("Content-Type", "application/json")
			r.Header.Set("Authorization", "Bearer "+c.token[:len(c.token)-1]+"!")
			if res, err := client.Do(r); err == nil {
				_, _ = io.Copy(io.Discard, res.Body)
				_ = res.Body.Close()
			}
		}
	}},
}

// endless is what it is made of, over and over again.
type endless []byte

func (e endless) Read(p []byte) (n int, err error) {
	for len(p)-n >= len(e) {
		n += copy(p[n:], e)
	}
	if n == 0 {
		return 0, io.ErrShortBuffer
	}
	return n, nil
}

// post makes a request, and does not read the answer; that to a stream it lets wait.
func (n *node) post(ctx context.Context, as *http.Client, method, kind, encoding string, body io.Reader) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost,
		"https://"+n.api+"/concord.v1.CoordinatorService/"+method, body)
	if err != nil {
		return
	}
	r.Header.Set("Content-Type", kind)
	if encoding != "" {
		r.Header.Set("Content-Encoding", encoding)
	}
	res, err := as.Do(r)
	if err != nil {
		return
	}
	if method == "Decide" {
		<-ctx.Done()
	}
	_ = res.Body.Close()
}

// hold opens connections with somebody's certificate, begins something on each, and keeps them.
func (c *cluster) hold(ctx context.Context, connections int, who, addr, begun string) {
	for range connections {
		conn, err := c.as(who, addr)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			continue
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, begun)
	}
	<-ctx.Done()
}

// The report takes each attack for one that goes on: an attack that ends by itself measures nothing.
func TestAttacksGoOnUntilTheyAreEnded(t *testing.T) {
	c := start(t, settings{})
	target := c.leader(false)
	for _, a := range attacks {
		ctx, stop := context.WithTimeout(t.Context(), 300*time.Millisecond)
		a.run(ctx, c, target)
		require.Error(t, ctx.Err(), a.name)
		stop()
	}
	c.alive()
}
