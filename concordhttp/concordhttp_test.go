// SPDX-License-Identifier: Apache-2.0

package concordhttp_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/adapters/memory"
	"github.com/concordtx/concord/concordhttp"
	"github.com/concordtx/concord/concordtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// shop is two services with a database each: orders, which is this test, and billing, which it calls.
type shop struct {
	*testing.T
	cluster        *concordtest.Cluster
	client         *concord.Client // of orders
	other          *concord.Client // of billing
	orders, ledger *memory.Resource
	billing        *httptest.Server
	http           *http.Client
	// around, if set, wraps billing's middleware.
	around atomic.Pointer[func(http.Handler) http.Handler]
	// during, if set, is called by billing's handler behind its work.
	during func(ctx context.Context) error
}

func open(t *testing.T, opts ...concordhttp.Option) *shop {
	orders, ledger := concordtest.Memory("orders"), concordtest.Memory("ledger")
	s := &shop{T: t, cluster: concordtest.New(t, orders, ledger)}
	s.orders, s.ledger = orders.Resource(), ledger.Resource()
	s.client, s.other = s.cluster.Client(), s.cluster.Dial()
	s.serve(s.other, opts...)
	s.http = &http.Client{Transport: concordhttp.Transport(&http.Transport{})}
	t.Cleanup(s.http.CloseIdleConnections)
	return s
}

// serve starts billing: POST /bill?cents=N adds to a bill, GET /bill reads it.
func (s *shop) serve(c *concord.Client, opts ...concordhttp.Option) {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /bill", func(w http.ResponseWriter, r *http.Request) {
		cents, _ := strconv.ParseInt(r.FormValue("cents"), 10, 64)
		err := c.Run(r.Context(), func(ctx context.Context, tx *concord.Tx) error {
			m, err := s.ledger.Tx(ctx, tx)
			if err != nil {
				return err
			}
			if _, err := m.Add(ctx, "bill", cents); err != nil {
				return err
			}
			if s.during != nil {
				return s.during(ctx)
			}
			return nil
		})
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		_, _ = io.WriteString(w, "billed")
	})
	mux.HandleFunc("GET /bill", func(w http.ResponseWriter, r *http.Request) {
		tx, _ := concord.FromContext(r.Context())
		m, err := s.ledger.Tx(r.Context(), tx)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		v, _, err := m.Get(r.Context(), "bill")
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		_, _ = io.WriteString(w, strconv.FormatInt(v, 10))
	})
	mux.HandleFunc("POST /nothing", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("POST /refuse", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) })
	mux.HandleFunc("POST /panic", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	mux.HandleFunc("POST /long", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(make([]byte, concordhttp.MaxAnswer+1))
	})
	handler := concordhttp.Middleware(c, opts...)(mux)
	s.billing = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := handler
		if around := s.around.Load(); around != nil {
			h = (*around)(handler)
		}
		h.ServeHTTP(w, r)
	}))
	s.Cleanup(s.billing.Close)
}

// through makes requests to billing pass something else.
func (s *shop) through(around func(http.Handler) http.Handler) { s.around.Store(&around) }

// call calls billing, and returns what it answered.
func (s *shop) call(ctx context.Context, method, path string) (int, string, error) {
	r, err := http.NewRequestWithContext(ctx, method, s.billing.URL+path, nil)
	require.NoError(s, err)
	res, err := s.http.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	return res.StatusCode, strings.TrimSpace(string(b)), err
}

// order adds an order here.
func (s *shop) order(ctx context.Context, tx *concord.Tx) error {
	m, err := s.orders.Tx(ctx, tx)
	if err != nil {
		return err
	}
	_, err = m.Add(ctx, "order", 1)
	return err
}

// place orders here and bills there.
func (s *shop) place(ctx context.Context, tx *concord.Tx) error {
	if err := s.order(ctx, tx); err != nil {
		return err
	}
	return s.bill(ctx)
}

func (s *shop) bill(ctx context.Context) error {
	status, text, err := s.call(ctx, http.MethodPost, "/bill?cents=1")
	if err == nil && status != http.StatusOK {
		err = errors.New(text)
	}
	return err
}

// requireDone checks what is committed, as soon as nothing is in the way.
func (s *shop) requireDone(orders, bills int64) {
	s.Helper()
	read := func(r *memory.Resource, key string) (v int64) {
		require.NoError(s, s.client.Run(context.Background(), func(ctx context.Context, tx *concord.Tx) error {
			m, err := r.Tx(ctx, tx)
			if err == nil {
				v, _, err = m.Get(ctx, key)
			}
			return err
		}, concord.WithRetry(concord.RetryPolicy{})))
		return v
	}
	require.Equal(s, orders, read(s.orders, "order"))
	require.Equal(s, bills, read(s.ledger, "bill"))
	s.requireNothingPrepared()
}

func (s *shop) requireNothingPrepared() {
	s.Helper()
	for _, r := range []*memory.Resource{s.orders, s.ledger} {
		listed, err := r.Recover(context.Background())
		require.NoError(s, err)
		require.Empty(s, listed)
	}
}

func TestAServiceJoinsATransactionAndCommitsWithIt(t *testing.T) {
	s := open(t)
	require.NoError(t, s.client.Run(t.Context(), s.place))
	s.requireDone(1, 1)

	// Several calls are one branch, and see each other's work.
	require.NoError(t, s.client.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
		for range 3 {
			if err := s.bill(ctx); err != nil {
				return err
			}
		}
		_, text, err := s.call(ctx, http.MethodGet, "/bill")
		require.Equal(t, "4", text)
		return err
	}), "the service alone")
	s.requireDone(1, 4)
}

func TestWhatIsRolledBackIsRolledBackInTheServiceToo(t *testing.T) {
	s := open(t)
	errChanged := errors.New("changed my mind")
	err := s.client.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
		return errors.Join(s.place(ctx, tx), errChanged)
	})
	require.ErrorIs(t, err, concord.ErrAborted)
	require.ErrorIs(t, err, errChanged)
	s.requireDone(0, 0)
}

func TestAServiceThatOnlyReadsOrDoesNothingHoldsNothing(t *testing.T) {
	s := open(t)
	require.NoError(t, s.client.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
		if status, _, err := s.call(ctx, http.MethodPost, "/nothing"); err != nil || status != http.StatusOK {
			return errors.Join(err, errors.New("failed"))
		}
		return s.order(ctx, tx)
	}))
	require.NoError(t, s.client.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
		if _, _, err := s.call(ctx, http.MethodGet, "/bill"); err != nil {
			return err
		}
		return s.order(ctx, tx)
	}))
	s.requireDone(2, 0)
	require.NoError(t, s.other.Close(), "soon, since no part in a transaction is left")
}

func TestCallsAtTheSameTime(t *testing.T) {
	s := open(t)
	var running sync.WaitGroup
	for range 8 {
		running.Go(func() {
			for range 5 {
				if err := s.client.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
					var calls sync.WaitGroup
					for range 3 {
						calls.Go(func() {
							if _, _, err := s.call(ctx, http.MethodPost, "/nothing"); err != nil {
								t.Error(err)
							}
						})
					}
					err := s.place(ctx, tx)
					calls.Wait()
					return err
				}, concord.WithRetry(concord.RetryPolicy{Attempts: 100})); err != nil {
					t.Error(err)
				}
			}
		})
	}
	running.Wait()
	s.requireDone(40, 40)
}

func TestWhatFailsInTheServiceMakesTheWholeAbort(t *testing.T) {
	s := open(t)
	for name, c := range map[string]struct {
		path, says string
		during     error
		fails      bool // the call itself
	}{
		"its transaction fails": {path: "/bill?cents=1", during: errors.New("no such customer"),
			says: "no such customer"},
		"it panics":              {path: "/panic", fails: true, says: "no answer came from the service at"},
		"its answer is too long": {path: "/long", says: "an answer in a transaction has at most 8388608 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			s.during = func(context.Context) error { return c.during }
			err := s.client.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
				require.NoError(t, s.order(ctx, tx))
				status, _, err := s.call(ctx, http.MethodPost, c.path)
				require.Equal(t, c.fails, err != nil)
				require.True(t, c.fails || status == http.StatusInternalServerError)
				return nil // as if nothing had happened
			})
			require.ErrorIs(t, err, concord.ErrAborted)
			require.ErrorContains(t, err, c.says)
			s.requireDone(0, 0)
		})
	}
	s.during = nil
	require.NoError(t, s.client.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
		status, _, err := s.call(ctx, http.MethodPost, "/refuse")
		require.Equal(t, http.StatusNotFound, status, "an answer like any other")
		return errors.Join(err, s.order(ctx, tx))
	}))
	s.requireDone(1, 0)
}

func TestAVoteOfTheServiceFails(t *testing.T) {
	s := open(t)
	s.cluster.FailVote("ledger")
	err := s.client.Run(t.Context(), s.place)
	var aborted *concord.AbortedError
	require.ErrorAs(t, err, &aborted)
	require.Equal(t, "ledger", aborted.Resource)
	require.ErrorContains(t, err, concordtest.ErrVote.Error())
	s.requireDone(0, 0)
}

func TestTheLeaderDiesBetweenVoteAndDecision(t *testing.T) {
	s := open(t)
	for range 3 {
		require.NoError(t, s.client.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
			err := s.place(ctx, tx)
			s.cluster.KillLeader()
			return err
		}))
	}
	s.requireDone(3, 3)
}

// Nobody hears the decision but the cluster, and the service asks that.
func TestAnUnknownOutcomeIsTheSameInBothServices(t *testing.T) {
	s := open(t)
	s.cluster.LoseAnswer()
	err := s.client.Run(t.Context(), s.place)
	var unknown *concord.UnknownError
	require.ErrorAs(t, err, &unknown)
	outcome, err := s.client.Outcome(t.Context(), unknown.GID)
	require.NoError(t, err)
	require.Equal(t, concord.Committed, outcome)
	s.requireDone(1, 1)
}

func TestARequestWithoutATransactionIsLeftAlone(t *testing.T) {
	s := open(t)
	status, text, err := s.call(t.Context(), http.MethodPost, "/bill?cents=1")
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, status, text)
	s.requireDone(0, 1)
}

// The time limit is that of the transaction, wherever it works.
func TestAtTheTimeLimitTheServiceIsFreeAsWell(t *testing.T) {
	s := open(t)
	s.during = func(ctx context.Context) error {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	err := s.client.Run(t.Context(), s.place, concord.WithTimeout(300*time.Millisecond))
	require.ErrorIs(t, err, concord.ErrAborted)
	s.requireDone(0, 0)
}
