// SPDX-License-Identifier: Apache-2.0

package concordtest

import (
	"context"
	"errors"
	"sync"

	"github.com/concordtx/concord"
)

var (
	// ErrVote is what a branch says that FailVote makes vote No.
	ErrVote = errors.New("concordtest: the vote fails")
	// ErrAnswer is how an answer gets lost by LoseAnswer.
	ErrAnswer = errors.New("concordtest: the answer is lost")
)

// faults are what will go wrong.
type faults struct {
	mu      sync.Mutex
	votes   map[string]int // by resource
	answers int
}

// FailVote makes the next vote of a branch of this resource a No, so that its transaction is aborted: the
// *concord.AbortedError names the resource and wraps ErrVote. A transaction that changes this resource
// only has no vote, but with concord.Recorded.
func (c *Cluster) FailVote(resource string) {
	c.faults.mu.Lock()
	defer c.faults.mu.Unlock()
	if c.faults.votes == nil {
		c.faults.votes = map[string]int{}
	}
	c.faults.votes[resource]++
}

// LoseAnswer makes the next transaction that commits an unknown outcome: it is decided, and the client does not hear
// how. The *concord.UnknownError wraps ErrAnswer. The cluster finishes its branches, and Client.Outcome tells
// that it is committed. If only one branch wrote then it is its database whose answer is lost, and the error has no
// GID.
func (c *Cluster) LoseAnswer() {
	c.faults.mu.Lock()
	defer c.faults.mu.Unlock()
	c.faults.answers++
}

// hook does what was asked for.
func (f *faults) hook(ctx context.Context, s concord.Step) (context.Context, func(error) error) {
	switch s.Kind {
	case concord.StepPrepare, concord.StepDecide, concord.StepCommitOnePhase:
		return ctx, func(err error) error {
			if err != nil {
				return nil
			}
			return f.next(s)
		}
	}
	return ctx, nil
}

func (f *faults) next(s concord.Step) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case s.Kind != concord.StepPrepare && f.answers > 0:
		f.answers--
		return ErrAnswer
	case s.Kind == concord.StepPrepare && f.votes[s.Resource] > 0:
		f.votes[s.Resource]--
		return ErrVote
	}
	return nil
}
