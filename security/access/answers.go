// SPDX-License-Identifier: Apache-2.0

package access

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// Message is one of a stream, with requests of which open ones are not answered. It is held until all are.
type Message struct {
	came time.Time
	size int64
	open atomic.Int64
}

// Answers are those to the requests of a stream, on their way to its client. One goroutine reads the stream
// (Came, Room), one writes it (Write), and any may Add.
type Answers[A any] struct {
	wake chan struct{} // capacity 1: "look again"; when full, one is there already
	// room holds a token for each request that is not written yet, which bounds the queue.
	room chan struct{}
	// measure is told how long each answer took, when it is written.
	measure func(A, time.Duration)
	held    *Held

	mu     sync.Mutex
	queue  []A
	of     []*Message // of the requests, in the order of queue
	ending bool
}

// NewAnswers are those of the stream of a context, whose client is not read while so many requests are unanswered.
func NewAnswers[A any](ctx context.Context, most int, measure func(A, time.Duration)) *Answers[A] {
	return &Answers[A]{wake: make(chan struct{}, 1), room: make(chan struct{}, most), measure: measure,
		held: HeldBy(ctx)}
}

// Came notes that a message with so many requests was read.
func (a *Answers[A]) Came(requests int) *Message {
	m := &Message{came: time.Now(), size: a.held.Took()}
	m.open.Store(int64(requests))
	if requests == 0 {
		a.held.Give(m.size)
	}
	return m
}

// Room waits for that of one request.
func (a *Answers[A]) Room(ctx context.Context) error {
	select {
	case a.room <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Add answers one request of a message.
func (a *Answers[A]) Add(answer A, from *Message) {
	a.mu.Lock()
	a.queue, a.of = append(a.queue, answer), append(a.of, from)
	a.mu.Unlock()
	a.notify()
}

// Finish says that no more is read.
func (a *Answers[A]) Finish() {
	a.mu.Lock()
	a.ending = true
	a.mu.Unlock()
	a.notify()
}

func (a *Answers[A]) notify() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// Write sends what is there, all at once, until the stream or the process ends, or all is answered.
func (a *Answers[A]) Write(ctx context.Context, closed <-chan struct{}, send func([]A) error) error {
	for {
		select {
		case <-a.wake:
		case <-closed:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		a.mu.Lock()
		queue, of := a.queue, a.of
		a.queue, a.of = nil, nil
		ended := a.ending && len(a.room) == len(queue)
		a.mu.Unlock()
		if len(queue) > 0 {
			if err := send(queue); err != nil {
				return err
			}
		}
		written := time.Now()
		for i, answer := range queue {
			a.measure(answer, written.Sub(of[i].came))
			if of[i].open.Add(-1) == 0 {
				a.held.Give(of[i].size)
			}
			<-a.room
		}
		if ended {
			return nil
		}
	}
}
