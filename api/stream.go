// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"errors"
	"runtime"
	"sync"

	"connectrpc.com/connect"

	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/txn"
)

const (
	// maxStreamQueue requests may wait for one stream; further ones are refused with txn.ErrBusy.
	maxStreamQueue = 16384
	// streamBatch requests or answers are sent in one message.
	streamBatch = 256
)

// commitStream carries the commit requests of a client to one node. Requests that
// wait while another message is written share the next one, so the more there are, the
// less each costs.
type commitStream struct {
	seen *highWater // of the client
	// token is what the stream was opened with, or empty.
	token string
	bidi  *connect.BidiStreamForClientSimple[concordv1.DecideRequest, concordv1.DecideResponse]
	end   context.CancelFunc
	wake  chan struct{} // capacity 1: "look again"; when full, one is there already

	mu      sync.Mutex
	next    uint64
	queue   []*concordv1.NumberedCommit
	waiting map[uint64]chan<- answer // each with room for its answer
	answers bool                     // there was one
	retired bool                     // no further requests come: it ends with the last answer
	broken  error
}

type answer struct {
	res *concordv1.CommitResponse
	err error
}

func openStream(s stub, seen *highWater) (*commitStream, error) {
	ctx, info := connect.NewClientContext(context.Background())
	ctx, end := context.WithCancel(ctx)
	info.RequestHeader().Set(RedirectHeader, "1")
	bidi, err := s.Decide(ctx)
	if err != nil {
		end()
		return nil, err
	}
	c := &commitStream{seen: seen, bidi: bidi, end: end, wake: make(chan struct{}, 1),
		waiting: map[uint64]chan<- answer{}}
	// The end of the context alone is not noticed while HTTP/2 waits for more of the request.
	context.AfterFunc(ctx, func() { _ = bidi.CloseRequest() })
	go c.send(ctx)
	go c.receive()
	return c, nil
}

// commit makes one request. When ctx ends first it may be carried out all the same.
func (c *commitStream) commit(ctx context.Context, r *concordv1.CommitRequest) (*concordv1.CommitResponse, error) {
	reply := make(chan answer, 1)
	c.mu.Lock()
	if err := c.broken; err != nil {
		c.mu.Unlock()
		return nil, notSent(err)
	}
	if len(c.waiting) >= maxStreamQueue {
		c.mu.Unlock()
		return nil, connect.NewError(connect.CodeResourceExhausted, txn.ErrBusy)
	}
	c.next++
	number := c.next
	c.waiting[number] = reply
	c.queue = append(c.queue, &concordv1.NumberedCommit{Number: number, Request: r})
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
	select {
	case a := <-reply:
		return a.res, a.err
	case <-ctx.Done():
		c.mu.Lock()
		delete(c.waiting, number)
		c.endIfRetired()
		c.mu.Unlock()
		return nil, ctx.Err()
	}
}

// send is the only goroutine that writes.
func (c *commitStream) send(ctx context.Context) {
	for {
		select {
		case <-c.wake:
		case <-ctx.Done():
			return
		}
		// Who is ready to commit at this moment shares the message.
		runtime.Gosched()
		for {
			c.mu.Lock()
			n := min(len(c.queue), streamBatch)
			batch := c.queue[:n:n]
			c.queue = c.queue[n:]
			c.mu.Unlock()
			if n == 0 {
				break
			}
			if err := c.bidi.Send(&concordv1.DecideRequest{Commits: batch, Seen: c.seen.String()}); err != nil {
				return // receive hears why
			}
		}
	}
}

// receive is the only goroutine that reads. It ends with the stream.
func (c *commitStream) receive() {
	for {
		m, err := c.bidi.Receive()
		if err != nil {
			c.close(err)
			return
		}
		for _, a := range m.GetAnswers() {
			c.seen.raise(a.GetResponse().GetZxid())
			c.mu.Lock()
			c.answers = true
			reply, ok := c.waiting[a.GetNumber()]
			delete(c.waiting, a.GetNumber())
			c.endIfRetired()
			c.mu.Unlock()
			if !ok {
				continue // nobody waits any more
			}
			if e := a.GetError(); e != nil {
				reply <- answer{err: fromCommitError(e)}
			} else {
				reply <- answer{res: a.GetResponse()}
			}
		}
	}
}

// retire ends the stream as soon as what was asked on it is answered. Whoever has it yet and asks
// later hears that it is broken, and that the request was not sent.
func (c *commitStream) retire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.retired = true
	c.endIfRetired()
}

// endIfRetired is called with mu held.
func (c *commitStream) endIfRetired() {
	if c.retired && len(c.waiting) == 0 {
		c.broken = connect.NewError(connect.CodeUnavailable,
			errors.New("the stream has ended: another one takes its place"))
		c.end()
	}
}

// errNotSent is wrapped by the error of a request that was not written to the stream.
var errNotSent = errors.New("the request was not sent")

func notSent(broken error) error {
	return connect.NewError(connect.CodeUnavailable, errors.Join(errNotSent, broken))
}

// close answers everybody who waits: what is not in the queue any more may have been heard.
func (c *commitStream) close(err error) {
	c.end()
	_ = c.bidi.CloseRequest() // it is broken already
	_ = c.bidi.CloseResponse()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.broken = connect.NewError(connect.CodeUnavailable, errors.Join(errors.New("the stream to the node broke"), err))
	for _, unsent := range c.queue {
		if reply, ok := c.waiting[unsent.GetNumber()]; ok {
			delete(c.waiting, unsent.GetNumber())
			reply <- answer{err: notSent(c.broken)}
		}
	}
	for _, reply := range c.waiting {
		reply <- answer{err: c.broken}
	}
	clear(c.waiting)
	c.queue = nil
}

// useful reports whether the node has answered on the stream, or may still.
func (c *commitStream) useful() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.answers || c.broken == nil
}

func (c *commitStream) alive() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.broken == nil
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

// fromCommitError is the inverse of CommitError, as far as FromStatus.
func fromCommitError(e *concordv1.CommitError) error {
	status := connect.NewError(connect.Code(e.GetCode()), errors.New(e.GetMessage()))
	if e.GetNotLeader() != nil {
		if detail, err := connect.NewErrorDetail(e.GetNotLeader()); err == nil {
			status.AddDetail(detail)
		}
	}
	return status
}
