// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/api/concord/v1/concordv1connect"
	"github.com/concordtx/concord/participant"
	"github.com/concordtx/concord/participant/statement"
	"github.com/concordtx/concord/security"
	"github.com/concordtx/concord/security/access"
	"github.com/concordtx/concord/txn"
)

// handlers validate a request, find its session, here or at another node, and translate the answer.
// What is refused here takes no number.
type handlers struct{ *Gateway }

var _ concordv1connect.TransactionServiceHandler = (*handlers)(nil)

func invalid(field, format string, args ...any) error {
	return &api.FieldError{Field: field, Detail: fmt.Sprintf(format, args...)}
}

// place is what the name of a session says: which transaction, at which node.
type place struct {
	id   txn.ID
	node uint64
}

func (p place) String() string { return p.id.String() + "@" + strconv.FormatUint(p.node, 10) }

func parsePlace(text string) (p place, err error) {
	id, node, found := strings.Cut(text, "@")
	if p.id, err = txn.ParseID(id); err == nil && found {
		p.node, err = strconv.ParseUint(node, 10, 64)
	}
	if err != nil || !found || p.String() != text || p.id.Class() == txn.Plain {
		return p, invalid("session", "%.60q names no transaction of this service: send the session that Begin "+
			"returned", text)
	}
	return p, nil
}

// maxTime bounds how long a program may let a transaction take; what the cluster allows is less.
const maxTime = 24 * time.Hour

func parseTime(field string, ms int64, most time.Duration) (time.Duration, error) {
	if ms < 0 || ms > most.Milliseconds() {
		return 0, invalid(field, "is %d, want 0 to %d", ms, most.Milliseconds())
	}
	return time.Duration(ms) * time.Millisecond, nil
}

func (h *handlers) Begin(ctx context.Context,
	r *concordv1.TransactionServiceBeginRequest) (*concordv1.TransactionServiceBeginResponse, error) {
	timeout, err := parseTime("timeout_ms", r.GetTimeoutMs(), maxTime)
	if err != nil {
		return nil, err
	}
	silence, err := parseTime("silence_ms", r.GetSilenceMs(), maxTime)
	if err != nil {
		return nil, err
	}
	if _, err := api.ParseProtocol("protocol", r.GetProtocol()); err != nil {
		return nil, err
	}
	if err := api.ParseText("label", r.GetLabel(), txn.MaxLabel); err != nil {
		return nil, err
	}
	opts := []concord.TxOption{concord.WithLabel(r.GetLabel()), concord.WithProtocol(r.GetProtocol())}
	if timeout > 0 {
		opts = append(opts, concord.WithTimeout(timeout))
	}
	s, err := h.begin(ctx, silence, opts...)
	if err != nil {
		return nil, err
	}
	return &concordv1.TransactionServiceBeginResponse{Session: place{s.id, h.conf.Node}.String(), Gid: s.id.String(),
		TimeoutMs: s.tx.Deadline().Sub(s.began).Round(time.Millisecond).Milliseconds(),
		SilenceMs: silence.Milliseconds()}, nil
}

func (h *handlers) Execute(ctx context.Context,
	r *concordv1.TransactionServiceExecuteRequest) (*concordv1.TransactionServiceExecuteResponse, error) {
	return numbered(ctx, h, r, stub.Execute,
		func(s *session) (func() *concordv1.TransactionServiceExecuteResponse, error) {
			if _, err := parseTime("timeout_ms", r.GetTimeoutMs(), participant.MaxTimeout); err != nil {
				return nil, err
			}
			database, err := h.resource(r.GetResource())
			if err == nil {
				err = access.Of(ctx).OnAll([]string{r.GetResource()}, security.Application)
			}
			if err != nil {
				return nil, err
			}
			return func() *concordv1.TransactionServiceExecuteResponse { return s.execute(r, database) }, nil
		})
}

func (h *handlers) Savepoint(ctx context.Context,
	r *concordv1.TransactionServiceSavepointRequest) (*concordv1.TransactionServiceSavepointResponse, error) {
	return numbered(ctx, h, r, stub.Savepoint,
		func(s *session) (func() *concordv1.TransactionServiceSavepointResponse, error) {
			if err := statement.CheckSavepoint(r.GetName()); err != nil {
				return nil, invalid("name", "%v", err)
			}
			return func() *concordv1.TransactionServiceSavepointResponse {
				f := s.savepoint(r.GetName())
				return &concordv1.TransactionServiceSavepointResponse{Number: r.GetNumber(), Error: f.text,
					NotSent: f.notSent}
			}, nil
		})
}

func (h *handlers) RollbackTo(ctx context.Context,
	r *concordv1.TransactionServiceRollbackToRequest) (*concordv1.TransactionServiceRollbackToResponse, error) {
	return numbered(ctx, h, r, stub.RollbackTo,
		func(s *session) (func() *concordv1.TransactionServiceRollbackToResponse, error) {
			if err := statement.CheckSavepoint(r.GetName()); err != nil {
				return nil, invalid("name", "%v", err)
			}
			return func() *concordv1.TransactionServiceRollbackToResponse {
				f := s.rollbackTo(r.GetName())
				return &concordv1.TransactionServiceRollbackToResponse{Number: r.GetNumber(), Error: f.text,
					NotSent: f.notSent}
			}, nil
		})
}

func (h *handlers) Commit(ctx context.Context,
	r *concordv1.TransactionServiceCommitRequest) (*concordv1.TransactionServiceCommitResponse, error) {
	at, err := parsePlace(r.GetSession())
	if err != nil {
		return nil, err
	}
	if at.node != h.conf.Node {
		m, err := forward(ctx, h, at, r, stub.Commit)
		if gone(err) {
			return h.settle(ctx, at.id, err.Error())
		}
		return m, err
	}
	if s := h.mine(ctx, at.id); s != nil {
		return s.commit(ctx, r)
	}
	if err := h.maySettle(at.id); err != nil {
		return nil, err
	}
	return h.settle(ctx, at.id, h.lost())
}

func (h *handlers) Rollback(ctx context.Context,
	r *concordv1.TransactionServiceRollbackRequest) (*concordv1.TransactionServiceRollbackResponse, error) {
	at, err := parsePlace(r.GetSession())
	if err != nil {
		return nil, err
	}
	var how *concordv1.TransactionServiceCommitResponse
	s := h.mine(ctx, at.id)
	switch {
	case at.node != h.conf.Node:
		m, err := forward(ctx, h, at, r, stub.Rollback)
		if !gone(err) {
			return m, err
		}
		how, err = h.settle(ctx, at.id, err.Error())
		if err != nil {
			return nil, err
		}
	case s != nil:
		how, err = s.rollback(ctx)
	default:
		if err = h.maySettle(at.id); err == nil {
			how, err = h.settle(ctx, at.id, h.lost())
		}
	}
	if err != nil {
		return nil, err
	}
	return &concordv1.TransactionServiceRollbackResponse{Outcome: how.GetOutcome(), Gid: how.GetGid(),
		Reason: how.GetReason()}, nil
}

// request is one that has a number.
type request interface {
	proto.Message
	GetSession() string
	GetNumber() uint64
}

// numbered has work of a session done where the session is. parse looks at the rest of the request.
func numbered[Req any, R interface {
	*Req
	request
}, Res any, M interface {
	*Res
	proto.Message
}](ctx context.Context, h *handlers, r R, there func(stub, context.Context, *Req) (*Res, error),
	parse func(*session) (func() M, error)) (M, error) {
	at, err := parsePlace(r.GetSession())
	if err != nil {
		return nil, err
	}
	if at.node != h.conf.Node {
		return forward(ctx, h, at, r, there)
	}
	s := h.mine(ctx, at.id)
	if s == nil {
		return nil, errNoSession
	}
	work, err := parse(s)
	if err != nil {
		return nil, err
	}
	m, err := s.do(ctx, r.GetNumber(), r, func() proto.Message { return work() })
	if err != nil {
		return nil, err
	}
	answer, ok := m.(M)
	if !ok {
		return nil, fmt.Errorf("gateway: the answer to a %T is a %T", r, m)
	}
	return answer, nil
}
