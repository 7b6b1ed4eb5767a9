// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/concordtx/concord/adapters/agent"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/participant"
)

const (
	// answerMargin is how much longer than its statement an answer may take.
	answerMargin = 10 * time.Second
	// silenceMargin is how much longer than the transaction an agent holds a branch that hears nothing.
	silenceMargin = 2 * time.Second
)

// failure is why work was not done, in words of an answer.
type failure struct {
	text    string
	notSent bool
}

func failed(err error) failure {
	if err == nil {
		return failure{}
	}
	return failure{text: err.Error(), notSent: errors.Is(err, agent.ErrNotSent)}
}

// within bounds a piece of work, which the end of the node and of the transaction cut off.
func (s *session) within(d time.Duration) (context.Context, context.CancelFunc) {
	by := time.Now().Add(d)
	if end := s.tx.Deadline().Add(silenceMargin); end.Before(by) { // the rollback at the limit answers first
		by = end
	}
	return context.WithDeadline(s.gateway.life, by)
}

// execute runs a statement in the branch of a resource.
func (s *session) execute(r *concordv1.TransactionServiceExecuteRequest,
	database *agent.Resource) *concordv1.TransactionServiceExecuteResponse {
	timeout := participant.DefaultTimeout
	if ms := r.GetTimeoutMs(); ms > 0 {
		timeout = time.Duration(ms) * time.Millisecond
	}
	ctx, cancel := s.within(timeout + answerMargin)
	defer cancel()
	m := &concordv1.TransactionServiceExecuteResponse{Number: r.GetNumber()}
	refuse := func(f failure) *concordv1.TransactionServiceExecuteResponse {
		m.Error, m.NotSent = f.text, f.notSent
		return m
	}
	branch := s.byResource[r.GetResource()]
	if branch == nil {
		opened, err := database.Tx(ctx, s.tx)
		if err != nil {
			return refuse(failure{text: err.Error(), notSent: true})
		}
		branch = opened
		for _, name := range s.savepoints { // they were asked for before there was this branch
			if err := branch.Savepoint(ctx, name); err != nil {
				return refuse(failed(fmt.Errorf("savepoint %s: %w", name, err)))
			}
		}
		s.branches, s.byResource[r.GetResource()] = append(s.branches, branch), branch
	}
	a, err := branch.ExecuteMessage(ctx, &concordv1.ExecuteRequest{
		Statement: r.GetStatement(), Arguments: r.GetArguments(), MaxRows: r.GetMaxRows(), TimeoutMs: r.GetTimeoutMs(),
		SilenceMs: s.silenceMs(),
	})
	if err != nil {
		return refuse(failed(err))
	}
	m.Columns, m.Rows, m.Affected = a.GetColumns(), a.GetRows(), a.Affected
	return m
}

// silenceMs is how long an agent holds the branch if it hears nothing, from a node that died for
// example: as long as the transaction may last.
func (s *session) silenceMs() int64 {
	return silence(time.Until(s.tx.Deadline()) + silenceMargin)
}

func silence(left time.Duration) int64 {
	return max(1, min(left, participant.MaxTimeout).Milliseconds())
}

// savepoint marks the work done so far in all branches. Those that are opened later have the
// savepoint at their beginning. Where it was set before it moves, and if it does so in some branches only then it is
// one of the transaction no more: going back to it would undo the work of some.
func (s *session) savepoint(name string) failure {
	ctx, cancel := s.within(participant.DefaultTimeout + answerMargin)
	defer cancel()
	var err error
	moved := false
	for _, b := range s.branches {
		if err = b.Savepoint(ctx, name); err != nil {
			break
		}
		moved = true
	}
	if moved || err == nil {
		s.savepoints = slices.DeleteFunc(s.savepoints, func(n string) bool { return n == name })
	}
	if err != nil {
		return failure{text: err.Error()}
	}
	s.savepoints = append(s.savepoints, name)
	return failure{}
}

// rollbackTo undoes the work behind a savepoint in all branches.
func (s *session) rollbackTo(name string) failure {
	i := slices.Index(s.savepoints, name)
	if i < 0 {
		return failure{fmt.Sprintf("the transaction has no savepoint %s: nothing was sent; ask for one before the "+
			"work that may have to be undone", name), true}
	}
	ctx, cancel := s.within(participant.DefaultTimeout + answerMargin)
	defer cancel()
	for _, b := range s.branches {
		if err := b.RollbackTo(ctx, name); err != nil {
			return failure{text: err.Error()}
		}
	}
	s.savepoints = s.savepoints[:i+1]
	return failure{}
}
