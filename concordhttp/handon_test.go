// SPDX-License-Identifier: Apache-2.0

package concordhttp_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/adapters/memory"
	"github.com/concordtx/concord/api"
	"github.com/concordtx/concord/concordhttp"
	"github.com/concordtx/concord/concordtest"
)

// chain is three services with a database each: orders, which is this test, calls billing, and billing calls stock.
type chain struct {
	*shop
	stock   *memory.Resource
	store   *httptest.Server
	further atomic.Pointer[func(http.Handler) http.Handler] // as around, in front of stock
}

func openChain(t *testing.T) *chain {
	orders, ledger, stock := concordtest.Memory("orders"), concordtest.Memory("ledger"), concordtest.Memory("stock")
	s := &chain{shop: &shop{T: t, cluster: concordtest.New(t, orders, ledger, stock)}}
	s.orders, s.ledger, s.stock = orders.Resource(), ledger.Resource(), stock.Resource()
	s.client, s.other = s.cluster.Client(), s.cluster.Dial()
	s.serve(s.other)
	s.http = &http.Client{Transport: concordhttp.Transport(&http.Transport{})}
	t.Cleanup(s.http.CloseIdleConnections)
	third := s.cluster.Dial()
	handler := concordhttp.Middleware(third)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/nothing" {
			return
		}
		err := third.Run(r.Context(), func(ctx context.Context, tx *concord.Tx) error {
			m, err := s.stock.Tx(ctx, tx)
			if err == nil {
				_, err = m.Add(ctx, "taken", 1)
			}
			return err
		})
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	}))
	s.store = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := handler
		if further := s.further.Load(); further != nil {
			h = (*further)(handler)
		}
		h.ServeHTTP(w, r)
	}))
	t.Cleanup(s.store.Close)
	s.during = func(ctx context.Context) error { return s.get(ctx, s.store.URL+"/take") }
	return s
}

// get calls a service, of which anything but 200 is an error.
func (s *chain) get(ctx context.Context, url string) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	require.NoError(s, err)
	res, err := s.http.Do(r)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = errors.New(string(b))
	}
	return err
}

func (s *chain) requireAll(n int64) {
	s.Helper()
	s.requireDone(n, n)
	var taken int64
	require.NoError(s, s.client.Run(context.Background(), func(ctx context.Context, tx *concord.Tx) error {
		m, err := s.stock.Tx(ctx, tx)
		if err == nil {
			taken, _, err = m.Get(ctx, "taken")
		}
		return err
	}, concord.WithRetry(concord.RetryPolicy{})))
	require.Equal(s, n, taken)
	listed, err := s.stock.Recover(context.Background())
	require.NoError(s, err)
	require.Empty(s, listed)
}

func TestATransactionIsHandedOn(t *testing.T) {
	s := openChain(t)
	require.NoError(t, s.client.Run(t.Context(), s.place))
	s.requireAll(1)

	errChanged := errors.New("changed my mind")
	err := s.client.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
		return errors.Join(s.place(ctx, tx), errChanged)
	})
	require.ErrorIs(t, err, errChanged)
	s.requireAll(1)

	s.cluster.FailVote("stock")
	err = s.client.Run(t.Context(), s.place)
	var aborted *concord.AbortedError
	require.ErrorAs(t, err, &aborted)
	require.Equal(t, "stock", aborted.Resource)
	s.requireAll(1)

	s.cluster.LoseAnswer() // nobody hears the decision but the cluster
	require.ErrorIs(t, s.client.Run(t.Context(), s.place), concord.ErrUnknownOutcome)
	s.requireAll(2)
}

// The one in between has nothing of its own, or the last one has not.
func TestWhatIsHandedOnAndDoesNothing(t *testing.T) {
	s := openChain(t)
	take := s.during
	for _, url := range []string{"/take", "/nothing"} {
		s.during = func(ctx context.Context) error { return s.get(ctx, s.store.URL+url) }
		require.NoError(t, s.client.Run(t.Context(), s.place))
	}
	s.during = func(ctx context.Context) error { // several calls at a time, each with numbers of its own
		var calls sync.WaitGroup
		errs := make([]error, 3)
		for i := range errs {
			calls.Go(func() { errs[i] = s.get(ctx, s.store.URL+"/nothing") })
		}
		calls.Wait()
		return errors.Join(append(errs, take(ctx))...)
	}
	require.NoError(t, s.client.Run(t.Context(), s.place))
	s.requireDone(3, 3)
	require.NoError(t, s.other.Close(), "soon, since no part in a transaction is left")
}

func TestMessagesAreLostFurtherOn(t *testing.T) {
	s := openChain(t)
	var done int64
	for _, c := range losses("/take") {
		t.Run(c.name, func(t *testing.T) {
			further := at(c.path, lose(c.n, c.request))
			s.further.Store(&further)
			err := s.client.Run(t.Context(), s.place)
			if c.commits {
				require.NoError(t, err)
				done++
			} else {
				require.ErrorIs(t, err, concord.ErrAborted)
			}
			s.requireAll(done)
		})
	}
}

// The answer of the one in between is lost: of what the last one did nobody knows, and it is free soon.
func TestAnAnswerIsLostBehindWhichAnotherServiceWorks(t *testing.T) {
	s := openChain(t)
	s.through(at("/bill", lose(1, false)))
	err := s.client.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
		_ = s.bill(ctx)
		return s.order(ctx, tx)
	})
	require.ErrorIs(t, err, concord.ErrAborted)
	s.requireAll(0)
}

// All ways from one service to the next are gone once the last one has voted: each asks the cluster.
func TestTheDecisionReachesTheLastServiceByTheCluster(t *testing.T) {
	s := openChain(t)
	s.through(at(concludePath, lose(1<<30, true)))
	require.NoError(t, s.client.Run(t.Context(), s.place))
	s.requireAll(1)
}

func TestAStrangerDoesNotJoinWhatIsHandedOn(t *testing.T) {
	s := openChain(t)
	tries := 0
	further := at("/take", func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		p, err := api.ParsePropagation(r.Header.Get(concord.PropagationHeader))
		require.NoError(t, err)
		require.Len(t, p.Path, 2)
		next.ServeHTTP(w, r)
		try := func(status int, says string) {
			header, err := api.Text(p.Message())
			require.NoError(t, err)
			stranger, rec := r.Clone(r.Context()), httptest.NewRecorder()
			stranger.Header.Set(concord.PropagationHeader, header)
			next.ServeHTTP(rec, stranger)
			require.Equal(t, status, rec.Code, rec.Body)
			require.Contains(t, rec.Body.String(), says)
			tries++
		}
		p.Call, p.Path = 0xaa, p.Path[:1]
		try(http.StatusConflict, "another service has called this one in the same transaction")
		p.Capability[0]++
		try(http.StatusForbidden, "who calls does not take part in the transaction")
	})
	s.further.Store(&further)
	require.NoError(t, s.client.Run(t.Context(), s.place))
	require.Equal(t, 2, tries)
	s.requireAll(1)
}

// Who was handed the transaction has its capability, and is not believed when the cluster does not say the same.
func TestTheLastServiceBelievesTheClusterOnly(t *testing.T) {
	s := openChain(t)
	var seen api.Propagation
	var said map[string]any
	further := at("/take", func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		var err error
		seen, err = api.ParsePropagation(r.Header.Get(concord.PropagationHeader))
		require.NoError(t, err)
		next.ServeHTTP(w, r)
		require.NoError(t, json.Unmarshal([]byte(w.Header().Get(concord.ParticipationHeader)), &said))
	})
	s.further.Store(&further)
	require.NoError(t, s.client.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
		if err := s.place(ctx, tx); err != nil {
			return err
		}
		for _, decision := range []string{"commit", "abort"} {
			body, err := json.Marshal(map[string]any{"gid": seen.ID.String(), "instance": said["instance"],
				"decision": decision, "proof": seen.Capability[:]})
			require.NoError(t, err)
			rec := httptest.NewRecorder()
			r := httptest.NewRequest(http.MethodPost, concludePath, readCloser{bytes.NewReader(body)})
			r.Header.Set("Content-Type", "application/json")
			s.store.Config.Handler.ServeHTTP(rec, r)
			require.Equal(t, http.StatusForbidden, rec.Code, rec.Body)
		}
		return nil
	}))
	s.requireAll(1)
}

func TestCallsThatDoNotMakeATree(t *testing.T) {
	s := openChain(t)
	take := s.during
	for _, c := range []struct {
		name   string
		during func(ctx context.Context) error
		behind func(ctx context.Context) error
		says   string
	}{
		{"in a circle", func(ctx context.Context) error { return s.get(ctx, s.billing.URL+"/bill") },
			func(context.Context) error { return nil }, "the transaction came through this very process"},
		{"from two services", take, func(ctx context.Context) error { return s.get(ctx, s.store.URL+"/take") },
			"another service has called this one in the same transaction"},
		{"behind the back of the handler", func(ctx context.Context) error {
			tx, _ := concord.FromContext(ctx)
			_, err := tx.Call(ctx, "somewhere", func(string) (concord.Peer, error) { return nil, nil })
			return err
		}, func(context.Context) error { return nil }, "wait for its answer before the handler returns"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.during = c.during
			err := s.client.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
				_ = s.place(ctx, tx)
				_ = c.behind(ctx)
				return nil
			})
			require.ErrorIs(t, err, concord.ErrAborted)
			require.ErrorContains(t, err, c.says)
			s.requireAll(0)
		})
	}
}
