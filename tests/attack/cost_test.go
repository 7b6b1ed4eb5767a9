// SPDX-License-Identifier: Apache-2.0

package attack

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord"
)

// What doors cost: the same commits by 16 workers at a cluster with certificates and at one without, in turns. No
// database takes part, so that nothing but the cluster and the way to it is measured.
//
//	go test -run '^$' -bench BenchmarkCertificates -benchtime 1x ./tests/attack
func BenchmarkCertificates(b *testing.B) {
	const workers, rounds, length = 16, 7, 4 * time.Second
	open, locked := start(b, settings{plain: true}), start(b, settings{})
	plain, err := concord.Dial(b.Context(), open.addrs())
	require.NoError(b, err)
	defer plain.Close()
	secured, err := concord.Dial(b.Context(), locked.addrs(), concord.WithCertsDir(string(locked.certs)),
		concord.WithUser("app"))
	require.NoError(b, err)
	defer secured.Close()
	round := func(client *concord.Client) float64 {
		h := &honest{TB: b, client: client}
		var stop atomic.Bool
		began := time.Now()
		for range workers {
			h.group.Go(func() {
				for !stop.Load() {
					if err := h.commit(); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		<-time.After(length)
		stop.Store(true)
		h.group.Wait()
		return float64(h.commits.Load()) / time.Since(began).Seconds()
	}
	for b.Loop() {
		round(plain)
		round(secured)
		var without, with, ratios []float64
		for i := range rounds {
			first, second := plain, secured
			if i%2 == 1 {
				first, second = secured, plain
			}
			x, y := round(first), round(second)
			if i%2 == 1 {
				x, y = y, x
			}
			without, with, ratios = append(without, x), append(with, y), append(ratios, y/x)
		}
		b.Logf("machine's load: %s", load(b))
		b.Logf("without: %.0f, with: %.0f, of each pair: %.3f", without, with, ratios)
		b.ReportMetric(median(without), "plain/s")
		b.ReportMetric(median(with), "secured/s")
		b.ReportMetric(median(ratios), "ratio")
	}
}

// What 1,000 idle clients that have shown who they are cost a node.
//
//	go test -run '^$' -bench BenchmarkIdleClients -benchtime 1x ./tests/attack
func BenchmarkIdleClients(b *testing.B) {
	const clients, length = 1000, 20 * time.Second
	c := start(b, settings{})
	target := c.leader(false)
	who := []string{"client.app", "client.evil", "client.alice", "client.vera"} // a subject has 256 at most
	for b.Loop() {
		idle := target.cpu(b, length)
		before := target.resident(b)
		for i := range clients {
			conn, err := c.as(who[i%len(who)], target.api)
			require.NoError(b, err)
			status, err := kept(conn, "POST /concord.v1.CoordinatorService/Resources HTTP/1.1\r\nHost: "+
				"x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")
			require.NoError(b, err)
			require.Equal(b, 200, status)
		}
		busy := target.cpu(b, length)
		grown := target.resident(b) - before
		require.Greater(b, target.descriptors(b), clients)
		b.Logf("machine's load: %s", load(b))
		b.Logf("without clients %.2f %% of a core, with them %.2f %%, and %d MiB more", idle, busy, grown>>20)
		b.ReportMetric(busy-idle, "%-of-a-core")
		b.ReportMetric(float64(grown>>20), "MiB")
	}
}

// cpu is how much of a core a node uses, in percent, over some time.
func (n *node) cpu(t testing.TB, d time.Duration) float64 {
	t.Helper()
	ticks := func() (sum float64) {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", n.process.Pid()))
		require.NoError(t, err)
		_, rest, _ := strings.Cut(string(text), ") ")
		for _, f := range strings.Fields(rest)[11:13] { // in user mode and in the kernel, in hundredths of a second
			x, err := strconv.ParseFloat(f, 64)
			require.NoError(t, err)
			sum += x
		}
		return sum
	}
	before, began := ticks(), time.Now()
	<-time.After(d)
	return (ticks() - before) / time.Since(began).Seconds()
}

func load(t testing.TB) string {
	t.Helper()
	b, err := os.ReadFile("/proc/loadavg")
	require.NoError(t, err)
	return strings.TrimSpace(string(b))
}

func median(x []float64) float64 {
	x = slices.Sorted(slices.Values(x))
	return x[len(x)/2]
}
