// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/adapters/agent"
	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/security"
	"github.com/concordtx/concord/security/access"
	"github.com/concordtx/concord/txn"
)

// maxStatements is how many statements one Run executes.
const maxStatements = 100

// run is a Run under way, which requests with its key wait for. The answer is there when done is closed.
type run struct {
	asked  sum
	done   chan struct{}
	answer *concordv1.TransactionServiceRunResponse
	err    error
}

// Run implements the service.
func (h *handlers) Run(ctx context.Context, r *concordv1.TransactionServiceRunRequest) (
	*concordv1.TransactionServiceRunResponse, error) {
	opts, databases, err := h.parseRun(ctx, r)
	if err != nil {
		return nil, err
	}
	client, err := h.cluster(ctx)
	if err != nil {
		return nil, err
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(r)
	if err != nil {
		return nil, err
	}
	life := h.traced(ctx)
	u, err := h.share(access.Of(ctx).Subject(), r.GetKey(), sha256.Sum256(b), func(u *run) {
		u.answer,
			u.err = h.once(life, client, r, u.asked, databases, opts)
	})
	if err != nil {
		return nil, err
	}
	select {
	case <-u.done:
		return u.answer, u.err
	case <-ctx.Done():
		return nil, fmt.Errorf("the transaction is under way: send the request again to get its answer: %w",
			context.Cause(ctx))
	}
}

func (h *handlers) parseRun(ctx context.Context, r *concordv1.TransactionServiceRunRequest) (opts []concord.TxOption,
	databases []*agent.Resource, err error) {
	if err := api.ParseKey("key", r.GetKey()); err != nil {
		return nil, nil, err
	}
	timeout, err := parseTime("timeout_ms", r.GetTimeoutMs(), maxTime)
	if err != nil {
		return nil, nil, err
	}
	if timeout > 0 {
		opts = append(opts, concord.WithTimeout(timeout))
	}
	if err := api.ParseText("label", r.GetLabel(), txn.MaxLabel); err != nil {
		return nil, nil, err
	}
	if n := len(r.GetStatements()); n == 0 || n > maxStatements {
		return nil, nil, invalid("statements", "are %d, want 1 to %d", n, maxStatements)
	}
	for i, s := range r.GetStatements() {
		if n := s.GetRowsExpected(); n < 0 {
			return nil, nil, invalid(fmt.Sprintf("statements[%d].rows_expected", i), "is %d, want 0 or more", n)
		}
		d, err := h.resource(s.GetResource())
		if err == nil {
			err = access.Of(ctx).OnAll([]string{s.GetResource()}, security.Application)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("statements[%d].%w", i, err)
		}
		databases = append(databases, d)
	}
	return append(opts, concord.WithLabel(r.GetLabel())), databases, nil
}

// share waits for the run of a key that is under way here, or begins it.
func (g *Gateway) share(subject, key string, asked sum, do func(*run)) (*run, error) {
	g.mu.Lock()
	u := g.runs[key]
	g.mu.Unlock()
	switch {
	case u != nil && u.asked == asked:
		return u, nil
	case u != nil:
		return nil, errOtherRequest
	}
	if err := g.room(subject); err != nil {
		return nil, err
	}
	u = &run{asked: asked, done: make(chan struct{})}
	g.mu.Lock()
	defer g.mu.Unlock()
	if other := g.runs[key]; other != nil || g.closing { // meanwhile
		g.left(subject)
		switch {
		case g.closing:
			return nil, errClosing
		case other.asked != asked:
			return nil, errOtherRequest
		}
		return other, nil
	}
	g.runs[key] = u
	g.group.Go(func() {
		do(u)
		g.mu.Lock()
		delete(g.runs, key)
		g.left(subject)
		g.mu.Unlock()
		close(u.done)
	})
	return u, nil
}

var errOtherRequest = txn.Refusedf("the key belongs to another request: send that word for word, or use another key")

// once runs the statements, or finds what was committed under the key before.
func (g *Gateway) once(life context.Context, client *concord.Client, r *concordv1.TransactionServiceRunRequest,
	asked sum, databases []*agent.Resource, opts []concord.TxOption) (*concordv1.TransactionServiceRunResponse, error) {
	m := &concordv1.TransactionServiceRunResponse{}
	done, err := client.RunOnce(life, r.GetKey(), func(ctx context.Context, tx *concord.Tx) error {
		m.Results = nil
		for i, s := range r.GetStatements() {
			result, err := execute(ctx, tx, databases[i], s)
			if err != nil {
				return fmt.Errorf("statement %d: %w", i+1, err)
			}
			m.Results = append(m.Results, result)
		}
		kept, err := keep(asked, m)
		if err != nil {
			return err
		}
		return tx.SetResult(kept)
	}, opts...)
	switch {
	case err == nil && done.Replayed:
		m, err = replay(asked, done.Result)
		if err != nil {
			return nil, err
		}
		m.Replayed = true
	case err != nil && g.life.Err() != nil:
		return nil, errClosing // whoever sends it again, to another node, hears what became of it
	case err != nil:
		return failedRun(err)
	}
	m.Outcome, m.Gid = outcomeCommitted, done.GID.String()
	return m, nil
}

func execute(ctx context.Context, tx *concord.Tx, database *agent.Resource,
	s *concordv1.RunStatement) (*concordv1.StatementResult, error) {
	branch, err := database.Tx(ctx, tx)
	if err != nil {
		return nil, err
	}
	left := time.Until(tx.Deadline()) + silenceMargin
	a, err := branch.ExecuteMessage(ctx, &concordv1.ExecuteRequest{Statement: s.GetStatement(),
		Arguments: s.GetArguments(), SilenceMs: silence(left)})
	if err != nil {
		return nil, err
	}
	if s.RowsExpected != nil {
		rows := int64(len(a.GetRows()))
		if a.Affected != nil {
			rows = a.GetAffected()
		}
		if rows != s.GetRowsExpected() {
			return nil, fmt.Errorf("%s: %d rows, and %d were expected", database.Name(), rows, s.GetRowsExpected())
		}
	}
	return &concordv1.StatementResult{Columns: a.GetColumns(), Rows: a.GetRows(), Affected: a.Affected}, nil
}

// keep is what is stored with the key: which request it was, and its results.
func keep(asked sum, m *concordv1.TransactionServiceRunResponse) ([]byte, error) {
	return proto.MarshalOptions{Deterministic: true}.MarshalAppend(bytes.Clone(asked[:]), m)
}

// replay is the inverse of keep. The request must be the same.
func replay(asked sum, kept []byte) (*concordv1.TransactionServiceRunResponse, error) {
	results, same := bytes.CutPrefix(kept, asked[:])
	if !same {
		return nil, errOtherRequest
	}
	m := &concordv1.TransactionServiceRunResponse{}
	if err := proto.Unmarshal(results, m); err != nil {
		return nil, fmt.Errorf("what is kept with the key cannot be read: run the newest version of concord on all "+
			"nodes: %w", err)
	}
	return m, nil
}

// failedRun makes an answer of what a transaction ended with, and an error of what kept it from beginning.
func failedRun(err error) (*concordv1.TransactionServiceRunResponse, error) {
	var (
		torn    *concord.TornError
		aborted *concord.AbortedError
		unknown *concord.UnknownError
	)
	switch {
	case errors.As(err, &torn):
		return &concordv1.TransactionServiceRunResponse{Outcome: outcomeTorn, Gid: torn.GID.String(),
			Reason: torn.Error(), Resource: torn.Resource}, nil
	case errors.As(err, &aborted):
		return &concordv1.TransactionServiceRunResponse{Outcome: outcomeAborted, Gid: aborted.GID.String(),
			Reason: aborted.Err.Error(), Resource: aborted.Resource}, nil
	case errors.As(err, &unknown):
		return &concordv1.TransactionServiceRunResponse{Outcome: outcomeUnknown, Gid: unknown.GID.String(),
			Reason: unknown.Error()}, nil
	case errors.Is(err, txn.ErrRefused), errors.Is(err, txn.ErrInvalid), errors.Is(err, txn.ErrDenied),
		errors.Is(err, concord.ErrInFlight):
		return nil, err
	}
	return nil, txn.Unavailablef("%w", err)
}
