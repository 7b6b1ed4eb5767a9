// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"time"

	"connectrpc.com/connect"

	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/txn"
)

const (
	// maxStreamQueue requests may wait for one stream; further ones are refused with txn.ErrBusy.
	maxStreamQueue = 16384
	// streamBatch requests or answers are sent in one message.
	streamBatch = 256
	// plainFor is how long a process whose stream does not come about, for example because of
	// a proxy that speaks HTTP/1.1 only, is asked by ordinary calls.
	plainFor = time.Minute
)

// Numbered is a request, or the answer to the request of that number.
type Numbered[T any] struct {
	Number uint64
	Of     T
	Err    error // in place of an answer
}

// Pipe carries messages of requests one way, and messages of answers the other. One goroutine sends,
// another one receives.
type Pipe[Req, Res any] interface {
	Send([]Numbered[Req]) error
	Receive() ([]Numbered[Res], error)
	CloseRequest() error
	CloseResponse() error
}

// Line carries requests of everybody here to one process: on a stream, or by ordinary calls if the
// process has never answered on one. All its methods may be called concurrently.
type Line[Req, Res any] struct {
	// Open opens the stream, which ends with ctx.
	Open func(ctx context.Context) (Pipe[Req, Res], error)
	// Call makes an ordinary call.
	Call func(ctx context.Context, r Req) (Res, error)
	// Token is that of the caller at this time, or empty.
	Token func() string

	mu         sync.Mutex
	now        *stream[Req, Res] // opened at first use, and again when it broke
	token      string            // that it was opened with
	plainUntil time.Time
	closed     bool
}

// Ask makes one request. When ctx ends first it may be carried out all the same.
func (l *Line[Req, Res]) Ask(ctx context.Context, r Req) (res Res, err error) {
	s := l.stream()
	if s != nil {
		res, err = s.ask(ctx, r)
		if err == nil || s.useful() || ctx.Err() != nil {
			return res, err
		}
	}
	res, err = l.Call(ctx, r)
	if err == nil && s != nil {
		l.mu.Lock()
		l.plainUntil = time.Now().Add(plainFor)
		l.mu.Unlock()
	}
	return res, err
}

// stream returns nil if there is none, or while the process is asked by ordinary calls.
func (l *Line[Req, Res]) stream() *stream[Req, Res] {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || time.Now().Before(l.plainUntil) {
		return nil
	}
	token := l.Token()
	if l.now != nil && l.token != token {
		l.now.retire() // who is called looks at the token of a stream as long as it lasts
		l.now = nil
	}
	if l.now == nil || !l.now.alive() {
		l.now, l.token = openStream(l.Open), token
	}
	return l.now
}

// Close ends the stream. Requests under way on it fail; those that come later are ordinary calls.
func (l *Line[Req, Res]) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	if l.now != nil {
		l.now.end()
	}
}

// stream is one of a line. Requests that wait while another message is written share the next one, so
// the more there are, the less each costs.
type stream[Req, Res any] struct {
	pipe Pipe[Req, Res]
	end  context.CancelFunc
	wake chan struct{} // capacity 1: "look again"; when full, one is there already

	mu      sync.Mutex
	next    uint64
	queue   []Numbered[Req]
	waiting map[uint64]chan<- Numbered[Res] // each with room for its answer
	answers bool                            // there was one
	retired bool                            // no further requests come: it ends with the last answer
	broken  error
}

func openStream[Req, Res any](open func(context.Context) (Pipe[Req, Res], error)) *stream[Req, Res] {
	ctx, end := context.WithCancel(context.Background())
	pipe, err := open(ctx)
	if err != nil {
		end()
		return nil // an ordinary call hears why
	}
	s := &stream[Req, Res]{pipe: pipe, end: end, wake: make(chan struct{}, 1),
		waiting: map[uint64]chan<- Numbered[Res]{}}
	// The end of the context alone is not noticed while HTTP/2 waits for more of the request.
	context.AfterFunc(ctx, func() { _ = pipe.CloseRequest() })
	go s.send(ctx)
	go s.receive()
	return s
}

// ask makes one request. When ctx ends first it may be carried out all the same.
func (s *stream[Req, Res]) ask(ctx context.Context, r Req) (res Res, err error) {
	reply := make(chan Numbered[Res], 1)
	s.mu.Lock()
	if err := s.broken; err != nil {
		s.mu.Unlock()
		return res, notSent(err)
	}
	if len(s.waiting) >= maxStreamQueue {
		s.mu.Unlock()
		return res, connect.NewError(connect.CodeResourceExhausted, txn.ErrBusy)
	}
	s.next++
	number := s.next
	s.waiting[number] = reply
	s.queue = append(s.queue, Numbered[Req]{Number: number, Of: r})
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
	select {
	case a := <-reply:
		return a.Of, a.Err
	case <-ctx.Done():
		s.mu.Lock()
		delete(s.waiting, number)
		s.endIfRetired()
		s.mu.Unlock()
		return res, ctx.Err()
	}
}

// send is the only goroutine that writes.
func (s *stream[Req, Res]) send(ctx context.Context) {
	for {
		select {
		case <-s.wake:
		case <-ctx.Done():
			return
		}
		// Who is ready to ask at this moment shares the message.
		runtime.Gosched()
		for {
			s.mu.Lock()
			n := min(len(s.queue), streamBatch)
			batch := s.queue[:n:n]
			s.queue = s.queue[n:]
			s.mu.Unlock()
			if n == 0 {
				break
			}
			if err := s.pipe.Send(batch); err != nil {
				return // receive hears why
			}
		}
	}
}

// receive is the only goroutine that reads. It ends with the stream.
func (s *stream[Req, Res]) receive() {
	for {
		list, err := s.pipe.Receive()
		if err != nil {
			s.close(err)
			return
		}
		for _, a := range list {
			s.mu.Lock()
			s.answers = true
			reply, ok := s.waiting[a.Number]
			delete(s.waiting, a.Number)
			s.endIfRetired()
			s.mu.Unlock()
			if ok { // else nobody waits any more
				reply <- a
			}
		}
	}
}

// retire ends the stream as soon as what was asked on it is answered. Whoever has it yet and asks
// later hears that it is broken, and that the request was not sent.
func (s *stream[Req, Res]) retire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retired = true
	s.endIfRetired()
}

// endIfRetired is called with mu held.
func (s *stream[Req, Res]) endIfRetired() {
	if s.retired && len(s.waiting) == 0 {
		s.broken = connect.NewError(connect.CodeUnavailable,
			errors.New("the stream has ended: another one takes its place"))
		s.end()
	}
}

// errNotSent is wrapped by the error of a request that was not written to the stream.
var errNotSent = errors.New("the request was not sent")

func notSent(broken error) error {
	return connect.NewError(connect.CodeUnavailable, errors.Join(errNotSent, broken))
}

// close answers everybody who waits: what is not in the queue any more may have been heard.
func (s *stream[Req, Res]) close(err error) {
	s.end()
	_ = s.pipe.CloseRequest() // it is broken already
	_ = s.pipe.CloseResponse()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken = connect.NewError(connect.CodeUnavailable, errors.Join(errors.New("the stream broke"), err))
	for _, unsent := range s.queue {
		if reply, ok := s.waiting[unsent.Number]; ok {
			delete(s.waiting, unsent.Number)
			reply <- Numbered[Res]{Err: notSent(s.broken)}
		}
	}
	for _, reply := range s.waiting {
		reply <- Numbered[Res]{Err: s.broken}
	}
	clear(s.waiting)
	s.queue = nil
}

// useful reports whether there was an answer on the stream, or may still be one.
func (s *stream[Req, Res]) useful() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.answers || s.broken == nil
}

func (s *stream[Req, Res]) alive() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.broken == nil
}

// decisions is the pipe of commit requests to a node.
type decisions struct {
	*connect.BidiStreamForClientSimple[concordv1.DecideRequest, concordv1.DecideResponse]
	seen *highWater // of the client
}

// Send implements Pipe.
func (d decisions) Send(batch []Numbered[*concordv1.CommitRequest]) error {
	m := &concordv1.DecideRequest{Seen: d.seen.String(), Commits: make([]*concordv1.NumberedCommit, len(batch))}
	for i, r := range batch {
		m.Commits[i] = &concordv1.NumberedCommit{Number: r.Number, Request: r.Of}
	}
	return d.BidiStreamForClientSimple.Send(m)
}

// Receive implements Pipe.
func (d decisions) Receive() ([]Numbered[*concordv1.CommitResponse], error) {
	m, err := d.BidiStreamForClientSimple.Receive()
	if err != nil {
		return nil, err
	}
	list := make([]Numbered[*concordv1.CommitResponse], len(m.GetAnswers()))
	for i, a := range m.GetAnswers() {
		d.seen.raise(a.GetResponse().GetZxid())
		list[i] = Numbered[*concordv1.CommitResponse]{Number: a.GetNumber(), Of: a.GetResponse()}
		if e := a.GetError(); e != nil {
			list[i].Err = FromCommitError(e)
		}
	}
	return list, nil
}

// CommitError puts the error of one request of a stream into its answer.
func CommitError(err error) *concordv1.CommitError {
	var status *connect.Error
	if !errors.As(ToStatus(err), &status) {
		return nil
	}
	e := &concordv1.CommitError{Code: uint32(status.Code()), Message: status.Message()}
	if notLeader := (*txn.NotLeaderError)(nil); errors.As(err, &notLeader) {
		e.NotLeader = notLeaderMessage(notLeader)
	}
	return e
}

// FromCommitError is the inverse of CommitError, as far as FromStatus.
func FromCommitError(e *concordv1.CommitError) error {
	status := connect.NewError(connect.Code(e.GetCode()), errors.New(e.GetMessage()))
	if e.GetNotLeader() != nil {
		if detail, err := connect.NewErrorDetail(e.GetNotLeader()); err == nil {
			status.AddDetail(detail)
		}
	}
	return status
}
