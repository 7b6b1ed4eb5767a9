// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

const (
	longest    = int64(5 * time.Minute / time.Microsecond)
	writeLimit = time.Minute
)

// drive lets clients write again and again, as "concord bench decisions" does, and
// measures in the same way.
func drive(ctx context.Context, clients int, d time.Duration, write func(ctx context.Context, client int) error) (figures, error) {
	type client struct {
		done, failed int64
		failure      error
		raw          *hdrhistogram.Histogram
	}
	all := make([]client, clients)
	begin := time.Now()
	var wg sync.WaitGroup
	for i := range all {
		c := &all[i]
		c.raw = hdrhistogram.New(1, longest, 3)
		wg.Go(func() {
			for ctx.Err() == nil && time.Since(begin) < d {
				ctx, cancel := context.WithTimeout(ctx, writeLimit)
				start := time.Now()
				err := write(ctx, i)
				cancel()
				if err != nil {
					c.failed, c.failure = c.failed+1, err
					continue
				}
				c.done++
				record(c.raw, time.Since(start).Microseconds(), 1)
			}
		})
	}
	wg.Wait()
	elapsed := time.Since(begin)
	raw := hdrhistogram.New(1, longest, 3)
	var f figures
	var done int64
	var failure error
	for i := range all {
		done += all[i].done
		f.errors += all[i].failed
		failure = errors.Join(failure, all[i].failure)
		raw.Merge(all[i].raw)
	}
	if done == 0 {
		return f, fmt.Errorf("no write succeeded: %w", failure)
	}
	h := correct(raw, elapsed.Microseconds()*int64(clients)/done)
	f.perSecond = float64(done) / elapsed.Seconds()
	f.p50, f.p99 = float64(h.ValueAtPercentile(50))/1000, float64(h.ValueAtPercentile(99))/1000
	return f, nil
}

// correct adds what a closed loop leaves out: to a value longer than interval, one for
// every further interval that it lasted.
func correct(raw *hdrhistogram.Histogram, interval int64) *hdrhistogram.Histogram {
	h := hdrhistogram.New(1, longest, 3)
	for _, bar := range raw.Distribution() {
		if bar.Count == 0 {
			continue
		}
		record(h, bar.To, bar.Count)
		for missing := bar.To - interval; interval > 0 && missing >= interval; missing -= interval {
			record(h, missing, bar.Count)
		}
	}
	return h
}

// record cannot fail: the value is brought into the range.
func record(h *hdrhistogram.Histogram, micros, count int64) {
	_ = h.RecordValues(min(max(micros, 1), longest), count)
}
