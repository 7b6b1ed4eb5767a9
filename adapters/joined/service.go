// SPDX-License-Identifier: Apache-2.0

package joined

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/txn"
)

const (
	// answerTimeout bounds one attempt to ask for the votes; a repeated one waits for the same votes.
	answerTimeout = 5 * time.Second
	// repeatPause is before another attempt, and repeats is how often a service is asked in all that does not
	// answer: what it has not promised ends by itself.
	repeatPause = 100 * time.Millisecond
	repeats     = 3
	// patience is how often a service is told of an abort before that is left to the cluster.
	patience = 4
)

// Peer is how a service is asked. Its errors have the status codes of the API.
type Peer interface {
	Vote(ctx context.Context, r *concordv1.VoteRequest) (*concordv1.VoteResponse, error)
	Conclude(ctx context.Context, r *concordv1.ConcludeRequest) (*concordv1.ConcludeResponse, error)
}

// Service is a process that has joined a transaction. Its methods may be called concurrently.
type Service struct {
	name     string // where it is, for people
	id       txn.ID
	instance string
	prove    Prove
	peer     Peer
	abort    func(context.Context) error // makes the cluster decide so

	calling singleflight.Group // the branches of a service are asked about together

	mu        sync.Mutex
	heard     Heard
	branches  []api.OpenedBranch // in order of No
	siblings  []txn.BranchNo
	votes     []api.JoinedVote // once they are known
	voteError error
	over      bool                        // it has ended its branches
	found     map[txn.BranchNo]txn.Finish // then
	torn      error                       // then: a part of an aborted branch is committed
	failed    int                         // attempts to tell it of an abort
}

// Prove shows that a decision is told, or with Undecided a vote asked for, by who has begun the transaction. Who hands
// it on has that one's proofs, and for a decision that it has learned from the cluster the capability.
type Prove func(txn.Decision) txn.Proof

// New makes a service of what an instance of it has answered to the first call. abort makes the cluster
// decide so, for a service that cannot be told.
func New(name string, id txn.ID, instance string, prove Prove, peer Peer, abort func(context.Context) error) *Service {
	return &Service{name: name, id: id, instance: instance, prove: prove, peer: peer, abort: abort}
}

// Name returns where the service is, for people.
func (s *Service) Name() string { return s.name }

// Instance returns which life of the service it is.
func (s *Service) Instance() string { return s.instance }

// Heard counts a call that was answered, and returns the branches that were not known before.
func (s *Service) Heard(call api.CallName, branches []api.OpenedBranch) (news []api.OpenedBranch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heard.Add(call)
	for _, b := range branches {
		i := s.find(b.No)
		if i < 0 {
			s.branches, news = append(s.branches, b), append(news, b)
			continue
		}
		// Answers may overtake each other: what has written once has written.
		s.branches[i].OnlyRead = s.branches[i].OnlyRead && b.OnlyRead
	}
	slices.SortFunc(s.branches, func(a, b api.OpenedBranch) int { return int(a.No) - int(b.No) })
	return news
}

func (s *Service) find(no txn.BranchNo) int {
	return slices.IndexFunc(s.branches, func(b api.OpenedBranch) bool { return b.No == no })
}

// Siblings says, before the votes are asked for, which branches of the transaction may have written.
func (s *Service) Siblings(nos []txn.BranchNo) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.siblings = nos
}

// vote returns the vote of a branch.
func (s *Service) vote(ctx context.Context, no txn.BranchNo) (api.JoinedVote, error) {
	// All branches are asked with the same ctx.
	_, _, _ = s.calling.Do("vote", func() (any, error) {
		s.collect(ctx)
		return nil, nil
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.voteError != nil {
		return api.JoinedVote{}, s.voteError
	}
	i := slices.IndexFunc(s.votes, func(v api.JoinedVote) bool { return v.No == no })
	if i < 0 {
		return api.JoinedVote{}, s.failure("has not voted for branch %d", no)
	}
	return s.votes[i], nil
}

func (s *Service) failure(format string, args ...any) error {
	return fmt.Errorf("the service at %s %w", s.name, fmt.Errorf(format, args...))
}

// collect asks for the votes, once for all.
func (s *Service) collect(ctx context.Context) {
	proof := s.prove(txn.Undecided) // who proves has locks of its own
	s.mu.Lock()
	done := s.votes != nil || s.voteError != nil
	r := &concordv1.VoteRequest{Gid: s.id.String(), Instance: s.instance, Proof: proof,
		Calls: s.heard.Calls, Sum: s.heard.Sum.String(), Siblings: api.Numbers(s.siblings)}
	for _, b := range s.branches {
		r.Branches = append(r.Branches, uint32(b.No))
	}
	s.mu.Unlock()
	if done {
		return
	}
	votes, err := s.ask(ctx, r)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.votes = votes; err != nil {
		s.voteError = s.failure("has not voted: %w", err)
	}
}

func (s *Service) ask(ctx context.Context, r *concordv1.VoteRequest) ([]api.JoinedVote, error) {
	for try := 1; ; {
		limited, cancel := context.WithTimeout(ctx, answerTimeout)
		m, err := s.peer.Vote(limited, r)
		slow := limited.Err() != nil
		cancel()
		if err == nil {
			return api.ParseVotes(m.GetVotes())
		}
		err = api.FromStatus(err)
		if !slow {
			try++
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%w (%w)", err, context.Cause(ctx))
		}
		if !slow && !errors.Is(err, txn.ErrUnavailable) || try > repeats || api.Wait(ctx, repeatPause) != nil {
			return nil, err
		}
	}
}

// conclude tells the service the decision, until it has done so once.
func (s *Service) conclude(ctx context.Context, d txn.Decision) error {
	s.mu.Lock()
	over := s.over
	s.mu.Unlock()
	if over {
		return nil
	}
	_, err, _ := s.calling.Do(d.String(), func() (any, error) { return nil, s.tell(ctx, d) })
	return err
}

func (s *Service) tell(ctx context.Context, d txn.Decision) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	m, err := s.peer.Conclude(ctx, &concordv1.ConcludeRequest{Gid: s.id.String(), Instance: s.instance,
		Decision: d.String(), Proof: s.prove(d)})
	if err != nil {
		return s.failure("was not told to %v: %w", d, api.FromStatus(err))
	}
	found := map[txn.BranchNo]txn.Finish{}
	for _, b := range m.GetBranches() {
		finish, err := api.ParseFinish("finish", b.GetFinish())
		if err != nil {
			return s.failure("has answered what this version does not know: %w", err)
		}
		found[txn.BranchNo(b.GetNo())] = finish
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over, s.found = true, found
	if m.GetTorn() != "" {
		s.torn = s.failure("has rolled back, but not all: %s: %w", m.GetTorn(), adapters.ErrTorn)
	}
	return nil
}

// Release tells a service of which there is no branch how the transaction ended. What is lost of it ends there by
// itself, so nobody asks whether it arrived.
func (s *Service) Release(ctx context.Context, d txn.Decision) { _ = s.conclude(ctx, d) }

// committed ends a branch that was decided to commit.
func (s *Service) committed(ctx context.Context, no txn.BranchNo) (txn.Finish, error) {
	if err := s.conclude(ctx, txn.Commit); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	found, ok := s.found[no]
	if !ok {
		return 0, s.failure("has not said what became of branch %d", no)
	}
	return found, nil
}

// aborted ends a branch that is rolled back. A service that cannot be told for long may be gone: then the
// cluster is told, and ends what is prepared; what is not has ended with the service, or does when the service asks.
func (s *Service) aborted(ctx context.Context) error {
	err := s.conclude(ctx, txn.Abort)
	s.mu.Lock()
	if err == nil {
		defer s.mu.Unlock()
		return s.torn
	}
	s.failed++
	enough := s.failed > patience*len(s.branches)
	s.mu.Unlock()
	if enough && s.abort(ctx) == nil {
		return nil
	}
	return err
}
