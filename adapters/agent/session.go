// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/txn"
)

const (
	// repeatPause is how long a request whose answer was lost waits before it is sent again.
	repeatPause = 100 * time.Millisecond
	// collectLimit is the most that an agent lets votes be collected.
	collectLimit = 10 * time.Second
)

// session is the session half of one branch: the numbers and the digest of what the agent answered.
type session struct {
	client   *Client
	resource string
	xid      txn.XID

	// turn holds one token: who has it may send work, one request at a time.
	turn chan struct{}

	mu     sync.Mutex
	life   life // that opened the branch; the zero life before its first request
	number uint64
	digest []byte
	flying bool       // a request is on its way, and may be carried out
	ended  bool       // no work any more
	doubt  error      // an answer was lost for good: what the agent holds is not known
	lacks  error      // why a statement was refused that the branch must not commit without
	first  error      // what the application was told first
	failed error      // and last
	vote   txn.Vote   // once cast
	record txn.Branch // of a Yes
}

var (
	_ adapters.Session   = (*session)(nil)
	_ adapters.Failing   = (*session)(nil)
	_ adapters.Undecided = (*session)(nil)
	_ adapters.Claiming  = (*session)(nil)
)

func newSession(c *Client, resource string, x txn.XID) *session {
	s := &session{client: c, resource: resource, xid: x, turn: make(chan struct{}, 1)}
	s.turn <- struct{}{}
	return s
}

func (s *session) address(l life) *concordv1.BranchAddress {
	return &concordv1.BranchAddress{Cluster: s.xid.Cluster.String(), Gid: s.xid.ID.String(), No: uint32(s.xid.Branch),
		Resource: s.resource, Journal: l.journal, Epoch: l.epoch}
}

// NeedsDecision implements adapters.Undecided.
func (s *session) NeedsDecision() bool { return true }

// Failure implements adapters.Failing.
func (s *session) Failures() [2]error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return [2]error{s.first, s.failed}
}

// request sends one piece of work under a number.
type request func(ctx context.Context, at *concordv1.BranchAddress, number uint64) (*concordv1.ExecuteResponse, error)

// work sends one piece of work, and sends it again under its number as long as ctx lasts if its
// answer is lost.
func (s *session) work(ctx context.Context, what string, send request) (*concordv1.ExecuteResponse, error) {
	select {
	case <-s.turn:
	case <-ctx.Done():
		return nil, &notSent{fmt.Errorf("another request is under way in this branch: wait for its answer before you "+
			"send the next one: %w", context.Cause(ctx))}
	}
	defer func() { s.turn <- struct{}{} }()
	m, err := s.send(ctx, what, send)
	if err != nil {
		err = fmt.Errorf("%s: %w", s.resource, err)
		s.mu.Lock()
		if s.first == nil {
			s.first = err
		}
		s.failed = err
		s.mu.Unlock()
		return nil, err
	}
	return m, nil
}

func (s *session) send(ctx context.Context, what string, send request) (*concordv1.ExecuteResponse, error) {
	l, number, err := s.next(ctx)
	if err != nil {
		return nil, err
	}
	for described := false; ; {
		m, err := send(ctx, s.address(l), number)
		switch {
		case err == nil:
			return m, s.answered(l, m)
		case ctx.Err() != nil:
			return nil, s.lost(s.client.failed(what, context.Cause(ctx)))
		case connect.CodeOf(err) == connect.CodeFailedPrecondition && number == 1 && !described:
			// It may have started again since it was described; nothing is lost by that yet.
			described = true
			_, again, derr := s.client.describe(ctx)
			if derr != nil || again == l {
				return nil, s.refused(s.client.failed(what, err))
			}
			l = again
		case repeatable(err):
			if api.Wait(ctx, repeatPause) != nil {
				return nil, s.lost(s.client.failed(what, err))
			}
		case connect.CodeOf(err) == connect.CodeInvalidArgument: // whenever it comes
			return nil, s.refused(&notSent{s.client.failed(what, err)})
		default:
			return nil, s.refused(s.client.failed(what, err))
		}
	}
}

// ErrNotSent is wrapped by the error of a statement that no database has seen: the branch goes on as
// if it had not been asked for.
var ErrNotSent = errors.New("the statement was not sent")

// notSent says no more than why.
type notSent struct{ why error }

func (e *notSent) Error() string   { return e.why.Error() }
func (e *notSent) Unwrap() []error { return []error{e.why, ErrNotSent} }

// repeatable reports whether the request may be under way, or may be taken when it comes again.
func repeatable(err error) bool {
	switch connect.CodeOf(err) {
	case connect.CodeUnavailable, connect.CodeResourceExhausted, connect.CodeDeadlineExceeded, connect.CodeUnknown,
		connect.CodeCanceled:
		return true
	}
	return false
}

// next returns the life and the number of the next piece of work.
func (s *session) next(ctx context.Context) (life, uint64, error) {
	s.mu.Lock()
	l, number, ended, doubt := s.life, s.number+1, s.ended, cmp.Or(s.doubt, s.lacks)
	s.mu.Unlock()
	switch {
	case ended:
		return l, 0, adapters.ErrBranchEnded
	case doubt != nil:
		return l, 0, fmt.Errorf("the branch cannot continue, roll the transaction back and begin a new one: %w", doubt)
	case number == 1:
		var err error
		if l, err = s.client.current(ctx); err != nil {
			return l, 0, s.refused(err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended { // meanwhile
		return l, 0, adapters.ErrBranchEnded
	}
	s.flying = true
	return l, number, nil
}

// refused notes that nothing was done, and that the number is not used. An application that takes no notice of it
// does not commit without the statement, unless it was told that the branch goes on.
func (s *session) refused(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flying = false
	if !errors.Is(err, ErrNotSent) {
		s.lacks = err
	}
	return err
}

func (s *session) answered(l life, m *concordv1.ExecuteResponse) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.life, s.number, s.digest, s.flying = l, m.GetNumber(), m.GetDigest(), false
	switch {
	case m.GetNotSent():
		return &notSent{errors.New(m.GetError())}
	case m.GetError() != "":
		return errors.New(m.GetError())
	}
	return nil
}

// lost notes that an answer did not come: whether the work was done is not known.
func (s *session) lost(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.doubt, s.flying = err, false
	return err
}

var errUnderWay = errors.New("a statement is still running: wait for its answer before you commit the transaction")

// end refuses further work. It reports whether the agent may hold anything.
func (s *session) end() (l life, touched bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	return s.life, s.number > 0 || s.doubt != nil || s.flying
}

// Prepare implements adapters.Session.
func (s *session) Prepare(ctx context.Context) (txn.Vote, txn.Branch, error) {
	none := txn.Branch{No: s.xid.Branch, Resource: s.resource}
	l, touched := s.end()
	s.mu.Lock()
	number, digest, doubt := s.number, s.digest, cmp.Or(s.doubt, s.lacks)
	if s.flying {
		doubt = errUnderWay
	}
	s.mu.Unlock()
	switch {
	case doubt != nil:
		return txn.VoteNo, none, fmt.Errorf("%s: %w", s.resource, doubt)
	case !touched:
		return txn.VoteReadOnly, none, nil
	}
	collect := collectLimit
	if by, ok := ctx.Deadline(); ok {
		collect = min(collect, time.Until(by))
	}
	answer, err := s.client.ask(ctx, &concordv1.NumberedWork{Call: &concordv1.NumberedWork_Prepare{
		Prepare: &concordv1.PrepareRequest{Branch: s.address(l), Number: number, Digest: digest,
			DecideByMs: max(1, collect.Milliseconds())}}})
	m := answer.GetPrepare()
	if err != nil {
		return txn.VoteNo, none, s.client.failed("prepare "+s.resource, err)
	}
	vote, err := api.ParseVote("vote", m.GetVote())
	switch {
	case err != nil:
		return txn.VoteNo, none, s.client.failed("prepare "+s.resource, err)
	case vote == txn.VoteReadOnly:
		return vote, none, nil
	case vote == txn.VoteNo && m.GetTorn():
		return vote, none, fmt.Errorf("%s: %s: %w", s.resource, m.GetReason(), adapters.ErrTorn)
	case vote == txn.VoteNo:
		return vote, none, fmt.Errorf("%s: %s", s.resource, m.GetReason())
	case m.GetName() != l.name || m.GetJournal() != l.journal:
		return txn.VoteNo, none, fmt.Errorf("%s: the vote comes from the agent %q with the journal %s, but the "+
			"branch was opened at %q with %s: find out which of them runs at %s",
			s.resource, m.GetName(), m.GetJournal(), l.name, l.journal, s.client.addr)
	}
	records, err := api.ParseBranches("branch", []*concordv1.Branch{m.GetBranch()})
	if err != nil || records[0].No != s.xid.Branch || records[0].Resource != s.resource {
		return txn.VoteNo, none, s.client.failed("prepare "+s.resource, errors.Join(errors.New("the vote names "+
			"another branch: run the newest version of concord on the agent"), err))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.vote, s.record = txn.VoteYes, records[0]
	return txn.VoteYes, records[0], nil
}

// Claim implements adapters.Claiming.
func (s *session) Claim() (holder txn.Party, epoch uint64, claim txn.Claim, err error) {
	l, touched := s.end()
	s.mu.Lock()
	number, digest, doubt := s.number, s.digest, cmp.Or(s.doubt, s.lacks)
	s.mu.Unlock()
	claim.No = s.xid.Branch
	switch {
	case doubt != nil:
		return holder, 0, claim, fmt.Errorf("%s: %w", s.resource, doubt)
	case !touched:
		return holder, 0, claim, nil
	}
	journal, ok := txn.ParseJournalID(l.journal)
	if !ok || len(digest) != len(claim.Digest) {
		return holder, 0, claim, s.client.failed("claim "+s.resource, errors.New("the agent named no journal, or "+
			"its last answer had no digest: it runs another version; run the newest version of concord on the agent"))
	}
	claim.Number, claim.Digest = number, [32]byte(digest)
	return txn.Party{PartyID: txn.PartyID{Agent: l.name, Journal: journal}, Addr: l.addr}, uint64(l.epoch), claim, nil
}

// CommitOnePhase implements adapters.Session; nobody calls it, because of NeedsDecision.
func (s *session) CommitOnePhase(context.Context) error {
	return fmt.Errorf("%w: a branch at an agent is committed only by a decision of the "+
		"cluster", adapters.ErrNotCommitted)
}

// Commit implements adapters.Session.
func (s *session) Commit(ctx context.Context) (txn.Finish, error) {
	s.mu.Lock()
	record := s.record
	s.mu.Unlock()
	return s.client.finish(ctx, s.xid, s.resource, txn.Commit, record)
}

// Rollback implements adapters.Session. A statement that runs is cut off by the agent.
func (s *session) Rollback(ctx context.Context) error {
	if _, touched := s.end(); !touched {
		return nil
	}
	s.mu.Lock()
	record := s.record
	s.mu.Unlock()
	found, err := s.client.finish(ctx, s.xid, s.resource, txn.Abort, record)
	switch {
	case err != nil:
		return err
	case found == txn.Contradicted:
		return fmt.Errorf("%s: somebody has committed the branch: %w", s.resource, adapters.ErrTorn)
	}
	return nil
}

// Abandon implements adapters.Session: the agent keeps what it voted for, whoever goes away.
func (s *session) Abandon() { s.end() }
