// SPDX-License-Identifier: Apache-2.0

package member

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/protocol/threepc"
	"github.com/concordtx/concord/txn"
)

const (
	// maxWaiting messages wait for one address; one more is lost.
	maxWaiting = 10_000
	// maxBytes are in one request, unless it has one message: less than anybody refuses to read.
	maxBytes = 512 << 10
	// sendTimeout bounds one request, and idleTime how long an address is remembered.
	sendTimeout, idleTime = 2 * time.Second, time.Minute
	// patience is how long a message that nobody waits for may wait for company.
	patience = 20 * time.Millisecond
	// pauseMin and pauseMost are between requests to an address that does not take them.
	pauseMin, pauseMost = 50 * time.Millisecond, time.Second
)

// Deliver carries one request to whoever is at an address.
type Deliver func(ctx context.Context, addr string, r *concordv1.DeliverRequest) error

// Sender sends messages to members, all that wait for one address in one request. What cannot be
// delivered is lost: whoever needs an answer asks again. Its methods may be called concurrently.
type Sender struct {
	deliver Deliver
	log     *slog.Logger
	// patience is how long a report waits for company.
	patience time.Duration
	ctx      context.Context
	stop     context.CancelFunc

	mu      sync.Mutex
	boxes   map[string]*box
	running sync.WaitGroup
}

// box is what waits for one address.
type box struct {
	letters []letter
	due     bool          // somebody waits for one of them, or they have waited
	ready   chan struct{} // has a token when they become due
}

type letter struct {
	cluster txn.ClusterID
	Envelope
}

// NewSender makes a sender, which works until Close.
func NewSender(deliver Deliver, log *slog.Logger) *Sender {
	ctx, stop := context.WithCancel(context.Background())
	return &Sender{deliver: deliver, log: log, patience: patience, ctx: ctx, stop: stop, boxes: map[string]*box{}}
}

// Send sends a message to an address, or loses it. It does not wait.
func (s *Sender) Send(cluster txn.ClusterID, addr string, e Envelope) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return
	}
	b := s.boxes[addr]
	if b == nil {
		b = &box{ready: make(chan struct{}, 1)}
		s.boxes[addr] = b
		s.running.Go(func() { s.run(addr, b) })
	}
	first := len(b.letters) == 0
	if len(b.letters) < maxWaiting {
		b.letters = append(b.letters, letter{cluster, e})
	}
	if _, report := e.Message.(threepc.Finished); !report {
		b.hurry()
	} else if first {
		time.AfterFunc(s.patience, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			b.hurry()
		})
	}
}

// hurry has what waits sent.
func (b *box) hurry() {
	if b.due = len(b.letters) > 0; !b.due {
		return
	}
	select {
	case b.ready <- struct{}{}:
	default:
	}
}

// Close loses what waits, and returns when nothing is under way.
func (s *Sender) Close() {
	s.stop()
	s.running.Wait()
}

func (s *Sender) run(addr string, b *box) {
	idle := time.NewTimer(idleTime)
	defer idle.Stop()
	pause := pauseMin
	for {
		idle.Reset(idleTime)
		select {
		case <-b.ready:
		case <-idle.C:
			if s.forget(addr, b) {
				return
			}
			continue
		case <-s.ctx.Done():
			return
		}
		for r := s.next(b); r != nil; r = s.next(b) {
			ctx, cancel := context.WithTimeout(s.ctx, sendTimeout)
			err := s.deliver(ctx, addr, r)
			cancel()
			if err == nil {
				pause = pauseMin
				continue
			}
			s.log.Debug("messages to a member of transactions were lost", "addr", addr, "messages",
				len(r.GetMessages()), "err", err)
			select {
			case <-time.After(pause):
			case <-s.ctx.Done():
				return
			}
			pause = min(2*pause, pauseMost)
		}
	}
}

// forget lets go of an address for which nothing waits.
func (s *Sender) forget(addr string, b *box) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(b.letters) > 0 {
		return false
	}
	delete(s.boxes, addr)
	return true
}

// next takes what waits, of one cluster and as much as fits into a request; nil if there is nothing.
func (s *Sender) next(b *box) *concordv1.DeliverRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !b.due {
		return nil
	}
	cluster := b.letters[0].cluster
	r := Request(cluster, nil)
	for size, n := 0, 0; n < min(MaxMessages, len(b.letters)) && b.letters[n].cluster == cluster; n++ {
		m := message(b.letters[n].Envelope)
		if size += proto.Size(m); size > maxBytes && n > 0 {
			break
		}
		r.Messages = append(r.Messages, m)
	}
	if b.letters = b.letters[len(r.Messages):]; len(b.letters) == 0 {
		b.letters, b.due = nil, false
	}
	return r
}
