// SPDX-License-Identifier: Apache-2.0

package concordhttp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/api/concord/v1/concordv1connect"
	"github.com/concordtx/concord/txn"
)

const (
	// MaxAnswer is how many bytes the body of an answer may have that is given in a transaction.
	MaxAnswer = 8 << 20

	maxRequestBytes = 1 << 20
	// voteTimeout bounds how long one request for votes, or with a decision, waits; it comes again.
	voteTimeout = 30 * time.Second
)

// Option changes a Middleware.
type Option func(*middleware)

// WithAddr says where this very process is reached for votes and decisions, host:port, if that is not where its
// callers send their requests: behind a balancer of several processes, say.
func WithAddr(addr string) Option { return func(m *middleware) { m.addr = addr } }

type middleware struct {
	client *concord.Client
	addr   string
}

// Middleware makes handlers take part in the transactions of those who call through a Transport: the context of the
// request carries the transaction, so that Run of this client joins it, and concord.FromContext returns it.
// It also serves what is asked and told of those transactions, below /concord.v1.JoinService/. Requests without a
// transaction pass as they are.
func Middleware(c *concord.Client, opts ...Option) func(http.Handler) http.Handler {
	m := &middleware{client: c}
	for _, o := range opts {
		o(m)
	}
	path, service := concordv1connect.NewJoinServiceHandler(c.JoinService(), connect.WithReadMaxBytes(maxRequestBytes),
		connect.WithInterceptors(bounded()))
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			header := r.Header.Get(concord.PropagationHeader)
			switch {
			case strings.HasPrefix(r.URL.Path, path):
				service.ServeHTTP(w, r)
			case header == "":
				next.ServeHTTP(w, r)
			default:
				m.serve(w, r, header, next)
			}
		})
	}
}

// bounded gives each call a deadline.
func bounded() connect.UnaryInterceptorFunc {
	return func(next connect.UnaryFunc) connect.UnaryFunc {
		return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
			ctx, cancel := context.WithTimeout(ctx, voteTimeout)
			defer cancel()
			return next(ctx, r)
		}
	}
}

var errPanicked = errors.New("its handler panicked")

// serve handles a call in a transaction.
func (m *middleware) serve(w http.ResponseWriter, r *http.Request, header string, next http.Handler) {
	j, err := m.client.Join(r.Context(), header)
	if err != nil {
		refuse(w, err)
		return
	}
	answer := &answer{header: w.Header(), status: http.StatusOK}
	returned := false
	defer func() {
		if !returned { // net/http ends the connection, so nobody hears this
			j.Leave(errPanicked, m.addr)
		}
	}()
	next.ServeHTTP(answer, r.WithContext(j.Context()))
	returned = true
	w.Header().Set(concord.ParticipationHeader, j.Leave(answer.failure(), m.addr))
	answer.send(w)
}

// refuse answers a call that cannot take part.
func refuse(w http.ResponseWriter, err error) {
	var refusal *concord.JoinError
	if errors.As(err, &refusal) && refusal.Header != "" {
		w.Header().Set(concord.ParticipationHeader, refusal.Header)
	}
	status := http.StatusConflict
	switch {
	case errors.Is(err, txn.ErrDenied):
		status = http.StatusForbidden
	case errors.Is(err, txn.ErrInvalid):
		status = http.StatusBadRequest
	case errors.Is(err, txn.ErrBusy), errors.Is(err, txn.ErrUnavailable):
		status = http.StatusServiceUnavailable
	}
	http.Error(w, err.Error(), status)
}

// answer keeps what a handler writes until it has returned: only then is known what it has done.
type answer struct {
	header http.Header
	status int
	wrote  bool
	body   bytes.Buffer
	over   bool // it was too long
}

var errTooLong = fmt.Errorf("an answer in a transaction has at most %d bytes: answer with less, or be called "+
	"outside of it", MaxAnswer)

// Header implements http.ResponseWriter.
func (a *answer) Header() http.Header { return a.header }

// WriteHeader implements http.ResponseWriter.
func (a *answer) WriteHeader(status int) {
	if !a.wrote && status >= http.StatusOK { // others say that an answer will follow
		a.status, a.wrote = status, true
	}
}

// Write implements http.ResponseWriter.
func (a *answer) Write(b []byte) (int, error) {
	a.wrote = true
	if a.over = a.over || a.body.Len()+len(b) > MaxAnswer; a.over {
		return 0, errTooLong
	}
	return a.body.Write(b)
}

// failure says why the transaction must not be committed.
func (a *answer) failure() error {
	switch {
	case a.over:
		return errTooLong
	case a.status >= http.StatusInternalServerError:
		return fmt.Errorf("its handler answered %d %s", a.status, http.StatusText(a.status))
	}
	return nil
}

func (a *answer) send(w http.ResponseWriter) {
	if a.over {
		http.Error(w, errTooLong.Error(), http.StatusInternalServerError)
		return
	}
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body.Bytes()) // who hears no answer knows
}
