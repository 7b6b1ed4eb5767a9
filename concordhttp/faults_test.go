// SPDX-License-Identifier: Apache-2.0

package concordhttp_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/api"
	"github.com/concordtx/concord/concordhttp"
	"github.com/concordtx/concord/txn"
)

const (
	votePath     = "/concord.v1.JoinService/Vote"
	concludePath = "/concord.v1.JoinService/Conclude"
)

// at calls do for requests to a path, and lets all others pass.
func at(path string, do func(w http.ResponseWriter, r *http.Request,
	next http.Handler)) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == path {
				do(w, r, next)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

// lose drops the request, or does it and drops the answer; the first n times.
func lose(n int64, request bool) func(w http.ResponseWriter, r *http.Request, next http.Handler) {
	var seen atomic.Int64
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if seen.Add(1) > n {
			next.ServeHTTP(w, r)
			return
		}
		if !request {
			next.ServeHTTP(httptest.NewRecorder(), r)
		}
		panic(http.ErrAbortHandler)
	}
}

// loss is of the first n messages to a path, or of their answers, and whether the transaction commits all the same.
type loss struct {
	name, path string
	n          int64
	request    bool
	commits    bool
}

// losses are those of the messages that a transaction which calls a service at a path costs.
func losses(call string) []loss {
	return []loss{
		{"a call", call, 1, true, false},
		{"the answer to a call", call, 1, false, false},
		{"a request for votes", votePath, 1, true, true},
		{"votes", votePath, 1, false, true},
		{"all requests for votes", votePath, 1 << 30, true, false},
		{"all votes", votePath, 1 << 30, false, false},
		{"a decision", concludePath, 1, true, true},
		{"the answer to a decision", concludePath, 1, false, true},
		{"all decisions", concludePath, 1 << 30, true, true},
	}
}

func TestMessagesAreLost(t *testing.T) {
	s := open(t)
	var orders int64
	for _, c := range losses("/bill") {
		t.Run(c.name, func(t *testing.T) {
			s.through(at(c.path, lose(c.n, c.request)))
			err := s.client.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
				_ = s.bill(ctx) // whatever the application makes of it
				return s.order(ctx, tx)
			})
			if c.commits {
				require.NoError(t, err)
				orders++
			} else {
				require.ErrorIs(t, err, concord.ErrAborted)
			}
			s.requireDone(orders, orders)
		})
	}
}

// twice sends a request twice, the second time when the first was answered.
func twice(codes *[]int) func(w http.ResponseWriter, r *http.Request, next http.Handler) {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		var body bytes.Buffer
		_, _ = body.ReadFrom(r.Body)
		again := r.Clone(context.Background())
		r.Body, again.Body = http.NoBody, http.NoBody
		if body.Len() > 0 {
			r.Body, again.Body = readCloser{bytes.NewReader(body.Bytes())}, readCloser{bytes.NewReader(body.Bytes())}
		}
		next.ServeHTTP(w, r)
		second := httptest.NewRecorder()
		next.ServeHTTP(second, again)
		*codes = append(*codes, second.Code)
	}
}

type readCloser struct{ *bytes.Reader }

func (readCloser) Close() error { return nil }

func TestMessagesAreRepeated(t *testing.T) {
	s := open(t)
	for n, c := range []struct {
		path   string
		answer int
	}{{"/bill", http.StatusConflict}, {votePath, http.StatusOK}, {concludePath, http.StatusOK}} {
		var codes []int
		s.through(at(c.path, twice(&codes)))
		require.NoError(t, s.client.Run(t.Context(), s.place))
		s.requireDone(int64(n+1), int64(n+1))
		require.Equal(t, []int{c.answer}, codes)
	}
}

// A call is kept on its way until its transaction has ended.
func TestALateCallIsRefused(t *testing.T) {
	s := open(t)
	for name, ends := range map[string]error{"committed": nil, "rolled back": errors.New("rolled back")} {
		t.Run(name, func(t *testing.T) {
			var late *http.Request
			s.through(at("/bill", func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				late = r.Clone(context.Background())
				next.ServeHTTP(w, r)
			}))
			err := s.client.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
				return errors.Join(s.bill(ctx), ends)
			})
			require.ErrorIs(t, err, ends)
			// Not the very call: another one of the same transaction.
			var p map[string]any
			require.NoError(t, json.Unmarshal([]byte(late.Header.Get(concord.PropagationHeader)), &p))
			p["call"] = "00000000000000aa"
			b, err := json.Marshal(p)
			require.NoError(t, err)
			res := s.send(late, string(b))
			require.Equal(t, http.StatusConflict, res.Code, res.Body)
			require.Contains(t, res.Body.String(), "has outlived its transaction")
		})
	}
	s.requireDone(0, 1)
}

// send sends a request of somebody else's, with this header.
func (s *shop) send(r *http.Request, header string) *httptest.ResponseRecorder {
	r = r.Clone(context.Background())
	r.Body = http.NoBody
	r.Header.Set(concord.PropagationHeader, header)
	w := httptest.NewRecorder()
	s.billing.Config.Handler.ServeHTTP(w, r)
	return w
}

// Who knows a gid, but not the capability, joins nothing: neither before the service takes part nor after.
func TestAStrangerDoesNotJoin(t *testing.T) {
	s := open(t)
	tries := 0
	s.through(at("/bill", func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		var p map[string]any
		require.NoError(t, json.Unmarshal([]byte(r.Header.Get(concord.PropagationHeader)), &p))
		p["capability"], p["call"] = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "00000000000000aa"
		b, err := json.Marshal(p)
		require.NoError(t, err)
		try := func() {
			stranger, rec := r.Clone(r.Context()), httptest.NewRecorder()
			stranger.Header.Set(concord.PropagationHeader, string(b))
			next.ServeHTTP(rec, stranger)
			require.Equal(t, http.StatusForbidden, rec.Code, rec.Body)
			require.Empty(t, rec.Header().Get(concord.ParticipationHeader))
			tries++
		}
		try()
		next.ServeHTTP(w, r)
		try()
	}))
	require.NoError(t, s.client.Run(t.Context(), s.place))
	require.Equal(t, 2, tries)
	s.requireDone(1, 1)
}

// Whoever has read the header of a call can do work in the transaction, and neither end it nor decide.
func TestTheCapabilityAloneDecidesNothing(t *testing.T) {
	s := open(t)
	var seen map[string]any
	s.through(at("/bill", func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		require.NoError(t, json.Unmarshal([]byte(r.Header.Get(concord.PropagationHeader)), &seen))
		next.ServeHTTP(w, r)
		var answer map[string]any
		require.NoError(t, json.Unmarshal([]byte(w.Header().Get(concord.ParticipationHeader)), &answer))
		seen["instance"] = answer["instance"]
	}))
	require.NoError(t, s.client.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
		if err := s.place(ctx, tx); err != nil {
			return err
		}
		proof := seen["capability"].(string)
		for path, body := range map[string]map[string]any{
			votePath:                {"calls": 1, "sum": seen["call"]},
			concludePath:            {"decision": "commit"},
			concludePath + "?abort": {"decision": "abort"},
		} {
			body["gid"], body["instance"], body["proof"] = seen["gid"], seen["instance"], proof
			b, err := json.Marshal(body)
			require.NoError(t, err)
			res, err := http.Post(s.billing.URL+path, "application/json", bytes.NewReader(b))
			require.NoError(t, err)
			require.NoError(t, res.Body.Close())
			require.Equal(t, http.StatusForbidden, res.StatusCode, path)
		}
		return nil
	}))
	s.requireDone(1, 1)
}

// Work that somebody did with a stolen capability is none that who began the transaction knows of, so it does not
// commit.
func TestTheWorkOfAThiefDoesNotCommit(t *testing.T) {
	s := open(t)
	s.through(at("/bill", func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		var p map[string]any
		require.NoError(t, json.Unmarshal([]byte(r.Header.Get(concord.PropagationHeader)), &p))
		p["call"] = "00000000000000aa"
		b, err := json.Marshal(p)
		require.NoError(t, err)
		stolen, rec := r.Clone(r.Context()), httptest.NewRecorder()
		stolen.Header.Set(concord.PropagationHeader, string(b))
		next.ServeHTTP(w, r)
		next.ServeHTTP(rec, stolen)
		require.Equal(t, http.StatusOK, rec.Code, rec.Body)
	}))
	err := s.client.Run(t.Context(), s.place)
	require.ErrorIs(t, err, concord.ErrAborted)
	require.ErrorContains(t, err, "2 calls were made here, and who began the transaction has the answers to 1")
	s.around.Store(nil)
	s.requireDone(0, 0)
}

func TestTheServiceStartsAgainBeforeItsVote(t *testing.T) {
	s := open(t)
	err := s.client.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
		err := s.place(ctx, tx)
		again := s.cluster.Dial()
		s.through(func(http.Handler) http.Handler { return concordhttp.Middleware(again)(http.NotFoundHandler()) })
		return err
	})
	require.ErrorIs(t, err, concord.ErrAborted)
	require.ErrorContains(t, err, "this process takes no part in transaction")
	s.requireDone(0, 0)
}

// A process of another life, or behind a balancer, is another part of the same transaction: with the same database it
// would wait for itself.
func TestTwoProcessesOfAServiceDoNotShareATransaction(t *testing.T) {
	s := open(t)
	first := s.billing
	err := s.client.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
		_, _, err := s.call(ctx, http.MethodGet, "/bill")
		s.serve(s.cluster.Dial())
		_, _, second := s.call(ctx, http.MethodGet, "/bill")
		s.billing = first
		return errors.Join(err, second)
	})
	require.ErrorIs(t, err, concord.ErrAborted)
	require.ErrorContains(t, err, "ledger is used by two services in one transaction")
	s.requireDone(0, 0)
}

// The transaction of a client whose lease has ended, or was never given, is worked for no longer than it takes to ask.
func TestTheLocksOfTheServiceAreFreeWhenWhoBeganIsGone(t *testing.T) {
	s := open(t)
	secret := txn.NewSecret()
	var cluster txn.ClusterID
	s.through(at("/bill", func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		p, err := api.ParsePropagation(r.Header.Get(concord.PropagationHeader))
		require.NoError(t, err)
		cluster = p.Cluster
		next.ServeHTTP(w, r)
	}))
	require.NoError(t, s.client.Run(t.Context(), func(ctx context.Context, _ *concord.Tx) error { return s.bill(ctx) }))
	for _, lease := range []txn.Lease{4711, 4712} {
		header, err := api.Text(api.Propagation{Cluster: cluster, Deadline: time.Now().Add(time.Minute), Branches: 1,
			ID:         txn.NewID(time.Now()).WithLease(lease).WithCapability(secret.Capability()),
			Capability: secret.Capability(), Call: api.CallName(lease)}.Message())
		require.NoError(t, err)
		r, err := http.NewRequest(http.MethodPost, s.billing.URL+"/bill?cents=1", nil)
		require.NoError(t, err)
		r.Header.Set(concord.PropagationHeader, header)
		s.around.Store(nil)
		res, err := http.DefaultClient.Do(r)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.Equal(t, http.StatusOK, res.StatusCode, "it is not known yet")
		s.requireDone(0, 1)
	}
	http.DefaultClient.CloseIdleConnections()
}

func TestAnAnswerWithoutParticipation(t *testing.T) {
	s := open(t)
	s.through(func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			assert.NotEmpty(t, r.Header.Get(concord.PropagationHeader))
			w.Header().Set(concord.ParticipationHeader, r.URL.Query().Get("says"))
		})
	})
	for says, wanted := range map[string]string{
		"":        "does not say what was done there",
		"rubbish": "is none of a service that joins transactions",
		`{"call":"00000000000000aa","instance":"` + strings.Repeat("0", 32) + `"}`: "is that to another call",
	} {
		err := s.client.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
			r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.billing.URL, nil)
			require.NoError(t, err)
			q := r.URL.Query()
			q.Set("says", says)
			r.URL.RawQuery = q.Encode()
			res, err := s.http.Do(r)
			require.NoError(t, err)
			require.Empty(t, res.Header.Get(concord.ParticipationHeader), "it is not the application's")
			return errors.Join(res.Body.Close(), s.order(ctx, tx))
		})
		require.ErrorIs(t, err, concord.ErrAborted)
		require.ErrorContains(t, err, wanted)
	}
	s.around.Store(nil)
	s.requireDone(0, 0)
}

func TestNobodyIsThere(t *testing.T) {
	s := open(t)
	s.billing.Close()
	require.NoError(t, s.client.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
		require.ErrorContains(t, s.bill(ctx), "connection refused")
		return s.order(ctx, tx)
	}), "nothing was sent, so nothing was done")
	s.requireDone(1, 0)
}
