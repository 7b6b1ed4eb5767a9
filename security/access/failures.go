// SPDX-License-Identifier: Apache-2.0

package access

import (
	"log/slog"
	"sync"
	"time"
)

const (
	// maxFailures wrong tokens may come from one address in failureWindow. Guessing is hopeless anyway;
	// this is for who tries it all the same, and for programs in a loop.
	maxFailures   = 20
	failureWindow = time.Minute
	// maxAddresses are remembered. One more, and all are forgotten: whoever has so many has no use for that.
	maxAddresses = 10_000
)

// failures counts wrong tokens by address.
type failures struct {
	mu   sync.Mutex
	from map[string]failed
}

type failed struct {
	count int
	since time.Time
}

func (f *failures) mayTry(addr string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	x := f.from[addr]
	return x.count < maxFailures || time.Since(x.since) > failureWindow
}

func (f *failures) add(addr string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.from == nil || len(f.from) >= maxAddresses {
		f.from = map[string]failed{}
	}
	x := f.from[addr]
	if x.count == 0 || time.Since(x.since) > failureWindow {
		x = failed{since: time.Now()}
	}
	x.count++
	f.from[addr] = x
}

// sampled logs some of what may come in floods: a line in a second.
type sampled struct {
	mu     sync.Mutex
	logged time.Time
	quiet  int // since then
}

const sampleInterval = time.Second

func (s *sampled) warn(log *slog.Logger, what string, why error, more ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if now.Sub(s.logged) < sampleInterval {
		s.quiet++
		return
	}
	log.Warn(what, append(more, "why", why, "others_since_last_line", s.quiet)...)
	s.logged, s.quiet = now, 0
}
