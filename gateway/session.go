// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"crypto/sha256"
	"fmt"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/adapters/agent"
	"github.com/concordtx/concord/api"
	"github.com/concordtx/concord/txn"
)

// session is one transaction that the node drives. What always holds:
//
//  1. One request is under way at a time, and each number is taken once.
//  2. What has taken a number ends with an answer, which stays the same.
//  3. Whoever sets ending ends the transaction, alone; over is set once, by him, and then ending is
//     closed.
type session struct {
	gateway *Gateway
	subject string // whose it is; empty where nobody asks
	id      txn.ID
	tx      *concord.Tx
	began   time.Time
	silence time.Duration // 0: as long as the transaction lasts

	mu      sync.Mutex // guards what follows
	number  uint64     // of the last request that was taken
	asked   sum        // what that was
	running chan struct{}
	answer  proto.Message // to it, once running is closed
	heard   time.Time
	timer   *time.Timer
	ending  chan struct{} // nil: nobody ends it
	over    *ended        // nil: it has not ended

	// Of the request under way.
	branches   []*agent.Branch
	byResource map[string]*agent.Branch
	savepoints []string // the oldest first
}

type sum [sha256.Size]byte

// ended is how a session ended.
type ended struct {
	outcome  string // of TransactionServiceCommitResponse
	reason   string
	resource string
}

func newSession(g *Gateway, subject string, tx *concord.Tx, silence time.Duration) *session {
	done := make(chan struct{})
	close(done)
	now := time.Now()
	return &session{gateway: g, subject: subject, id: tx.ID(), tx: tx, began: now, silence: silence, heard: now,
		running: done, byResource: map[string]*agent.Branch{}}
}

// do has a request done under its number, and returns its answer. The work goes on when ctx ends.
func (s *session) do(ctx context.Context, number uint64, asked proto.Message, work func() proto.Message) (proto.Message,
	error) {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(asked)
	if err != nil {
		return nil, err
	}
	running, err := s.take(number, sha256.Sum256(b), work)
	if err != nil {
		return nil, err
	}
	select {
	case <-running:
	case <-ctx.Done():
		return nil, fmt.Errorf("request %d of this transaction is under way: send it again to get its answer: %w",
			number, context.Cause(ctx))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.over != nil:
		return nil, s.refusal()
	case s.number != number:
		return nil, txn.Refusedf("request %d of this transaction has been followed by another one, so its answer is "+
			"gone: wait for each answer before the next request, or begin a new transaction", number)
	}
	return s.answer, nil
}

// refusal is what requests hear when the transaction is over.
func (s *session) refusal() error {
	why := s.over.reason
	if why == "" {
		why = "begin a new one"
	}
	return txn.Refusedf("transaction %v accepts no more requests: it is %s: %s", s.id, s.over.outcome, why)
}

// take begins a request, or joins one that was sent before. What it returns is closed when the answer
// is there.
func (s *session) take(number uint64, asked sum, work func() proto.Message) (<-chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	busy := !isClosed(s.running)
	switch {
	case number == 0:
		return nil, &api.FieldError{Field: "number", Detail: "is 0: the requests of a transaction are numbered from 1"}
	case s.over != nil:
		return nil, s.refusal()
	case number == s.number && asked != s.asked:
		return nil, &api.FieldError{Field: "number",
			Detail: fmt.Sprintf("request %d of this transaction was a different one: a repeated request must be "+
				"identical", number)}
	case number == s.number:
		return s.running, nil
	case s.ending != nil:
		return nil, txn.Refusedf("transaction %v is being ended: ask Commit or Rollback what became of it", s.id)
	case number == s.number+1 && busy:
		return nil, txn.Refusedf("request %d of this transaction is still under way: wait for its answer before you "+
			"send the next one", s.number)
	case number != s.number+1:
		return nil, txn.Refusedf("the next request of this transaction has number %d, not %d: number them from 1 "+
			"without a gap", s.number+1, number)
	}
	running := make(chan struct{})
	done := func() {
		answer := work()
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.heard = time.Now(); s.over == nil { // else nobody will read it, and it may be large
			s.answer = answer
		}
		close(running)
		s.armLocked()
	}
	if !s.gateway.work(done) {
		return nil, errClosing
	}
	s.number, s.asked, s.running, s.answer = number, asked, running, nil
	return running, nil
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// arm sets the time at which the transaction is rolled back if nothing is heard.
func (s *session) arm() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.armLocked()
}

func (s *session) armLocked() {
	if s.timer != nil {
		s.timer.Stop()
	}
	if s.ending == nil {
		s.timer = time.AfterFunc(time.Until(s.limit()), s.late)
	}
}

// limit is when the transaction is rolled back.
func (s *session) limit() time.Time {
	deadline := s.tx.Deadline()
	if quiet := s.heard.Add(s.silence); s.silence > 0 && quiet.Before(deadline) {
		return quiet
	}
	return deadline
}

// late rolls the transaction back at its limit. One with a request under way is looked at again when
// that is answered.
func (s *session) late() {
	s.mu.Lock()
	limit := s.limit()
	if s.ending != nil || !isClosed(s.running) || time.Now().Before(limit) {
		s.mu.Unlock()
		return
	}
	why := fmt.Sprintf("its time limit of %v was reached: allow more with timeout_ms, or do less in one "+
		"transaction; the cluster's limit is transaction.max_age on the nodes",
		s.tx.Deadline().Sub(s.began).Round(time.Millisecond))
	if limit.Before(s.tx.Deadline()) {
		why = fmt.Sprintf("it heard nothing for %v: send its requests sooner, or allow more with "+
			"silence_ms", s.silence)
	}
	ending := s.endLocked()
	s.mu.Unlock()
	s.abort(ending, why)
}

// endLocked takes the right to end the transaction.
func (s *session) endLocked() chan struct{} {
	s.ending = make(chan struct{})
	if s.timer != nil {
		s.timer.Stop()
	}
	return s.ending
}

// ended says how the transaction ended, and lets go of everything else.
func (s *session) ended(ending chan struct{}, how ended) {
	s.mu.Lock()
	s.over, s.answer = &how, nil
	close(ending)
	s.mu.Unlock()
	s.gateway.gone(s)
}
