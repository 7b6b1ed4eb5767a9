// SPDX-License-Identifier: Apache-2.0

package attack

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord"
)

// spare is how much memory a node may have more at the end of an attack on it than before.
const spare = 192 << 20

// A09: requests whose body never comes, more than the node has descriptors for.
func TestSlowBodies(t *testing.T) {
	const descriptors = 600
	c := start(t, settings{descriptors: descriptors})
	h := c.honest(4, concord.WithCertsDir(string(c.certs)), concord.WithUser("app"))
	h.goOn(100)
	target := c.leader(false)
	before := target.resident(t)
	var sent, refused int
	for range 500 {
		conn, err := c.as("client.evil", target.api)
		if err != nil {
			refused++
			continue
		}
		_, err = fmt.Fprintf(conn, "POST /concord.v1.CoordinatorService/Commit HTTP/1.1\r\nHost: x\r\nContent-Type: "+
			"application/json\r\nContent-Length: 1000000\r\n\r\n{")
		if err != nil {
			refused++
			continue
		}
		sent++
	}
	t.Logf("%d unfinished requests, %d refused; the node has %d descriptors", sent, refused, target.descriptors(t))
	require.Greater(t, sent, 300)
	require.Less(t, target.descriptors(t), descriptors)
	h.goOn(100) // during the attack
	eventually(t, "unfinished requests are given up", func() bool { return target.descriptors(t) < 200 })
	h.goOn(100)
	require.Less(t, target.resident(t), before+spare)
	c.alive()
}

// Strangers open connections and say nothing, or not even hello.
func TestSilentStrangers(t *testing.T) {
	const descriptors = 600
	c := start(t, settings{descriptors: descriptors})
	h := c.honest(4, concord.WithCertsDir(string(c.certs)), concord.WithUser("app"))
	h.goOn(100)
	target := c.leader(false)
	for range 400 {
		conn, err := c.as("", target.api)
		if err == nil {
			_, _ = fmt.Fprintf(conn, "POST /") // half a line
		}
	}
	require.Less(t, target.descriptors(t), descriptors)
	h.goOn(100)
	eventually(t, "silent connections are given up", func() bool { return target.descriptors(t) < 200 })
	h.goOn(100)
	c.alive()
}

// A10 and A12: answers that nobody reads, and more watchers than anybody needs.
func TestAnswersThatNobodyReads(t *testing.T) {
	c := start(t, settings{})
	h := c.honest(4, concord.WithCertsDir(string(c.certs)), concord.WithUser("app"))
	h.goOn(3000) // something to list
	target := c.leader(false)
	before := target.resident(t)
	for range 100 {
		conn, err := c.as("client.alice", target.api)
		require.NoError(t, err)
		body := `{"limit": 10000}`
		_, err = fmt.Fprintf(conn, "POST /concord.v1.CoordinatorService/List HTTP/1.1\r\nHost: x\r\nContent-Type: "+
			"application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		require.NoError(t, err)
	}
	watching := c.http("client.evil", true)
	watching.Timeout = 0
	ctx, hangUp := context.WithCancel(t.Context())
	defer hangUp()
	var group sync.WaitGroup
	defer group.Wait()
	defer hangUp()
	for range 200 {
		group.Go(func() {
			body := append([]byte{0, 0, 0, 0, 18}, `{"intervalMs":"50"}`[:18]...)
			r, err := http.NewRequestWithContext(ctx, http.MethodPost,
				"https://"+target.api+"/concord.v1.CoordinatorService/Watch", bytes.NewReader(body))
			if err != nil {
				return
			}
			r.Header.Set("Content-Type", "application/connect+json")
			if res, err := watching.Do(r); err == nil {
				<-ctx.Done() // it is not read
				_ = res.Body.Close()
			}
		})
	}
	h.goOn(100)
	grown := target.resident(t) - before
	t.Logf("the node has %d MiB more", grown>>20)
	require.Less(t, grown, 3*spare)
	hangUp()
	h.goOn(100)
	c.alive()
}

// A13: a request that is small until it is unpacked is not unpacked, for whoever may come in neither.
func TestGzipBomb(t *testing.T) {
	c := start(t, settings{})
	target := c.leader(false)
	before := target.resident(t)
	var member bytes.Buffer
	w := gzip.NewWriter(&member)
	_, err := w.Write(make([]byte, 8<<20))
	require.NoError(t, err)
	require.NoError(t, w.Close())
	bomb := bytes.Repeat(member.Bytes(), 64) // members one behind the other are unpacked as one: 512 MiB
	for _, who := range []string{"", "client.app"} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost,
			"https://"+target.api+"/concord.v1.CoordinatorService/Commit", bytes.NewReader(bomb))
		require.NoError(t, err)
		r.Header.Set("Content-Type", "application/proto")
		r.Header.Set("Content-Encoding", "gzip")
		res, err := c.http(who, false).Do(r)
		require.NoError(t, err)
		text, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		want := "unknown compression"
		if who == "" {
			want = "unauthenticated"
		}
		require.Contains(t, string(text), want)
	}
	require.Less(t, target.resident(t), before+spare)
	c.alive()
}

// A11: one stream with as much as it carries, of transactions that are not granted.
func TestMemoryOfDecide(t *testing.T) {
	c := start(t, settings{})
	h := c.honest(4, concord.WithCertsDir(string(c.certs)), concord.WithUser("app"))
	h.goOn(100)
	target := c.leader(false)
	before := target.resident(t)
	client := c.http("client.evil", true)
	ctx, hangUp := context.WithTimeout(t.Context(), 10*time.Second)
	defer hangUp()
	label := strings.Repeat("x", 900)
	message := fmt.Sprintf(`{"commits":[{"number":"1","request":{"gid":"nonsense","label":%q}}]}`, label)
	frame := append([]byte{0, 0, 0, byte(len(message) >> 8), byte(len(message))}, message...)
	pipe, feed := io.Pipe()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost,
		"https://"+target.api+"/concord.v1.CoordinatorService/Decide", pipe)
	require.NoError(t, err)
	r.Header.Set("Content-Type", "application/connect+json")
	var sent int
	var group sync.WaitGroup
	group.Go(func() {
		for {
			if _, err := feed.Write(frame); err != nil {
				return
			}
			sent++
		}
	})
	res, err := client.Do(r) // the answers are not read
	if err == nil {
		defer res.Body.Close()
	}
	h.goOn(200)
	<-ctx.Done()
	_ = feed.CloseWithError(io.ErrClosedPipe)
	group.Wait()
	grown := target.resident(t) - before
	t.Logf("%d requests were taken, the node has %d MiB more", sent, grown>>20)
	require.Less(t, grown, spare)
	c.alive()
}
