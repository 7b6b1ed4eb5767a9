// SPDX-License-Identifier: Apache-2.0

package concord_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/adapters/memory"
)

// watcher writes down steps when they end, with those around them, and how.
type watcher struct {
	mu    sync.Mutex
	open  int
	ended []string
	lose  map[concord.StepKind]int // so many answers of a step
}

type pathKey struct{}

func (w *watcher) hook(ctx context.Context, s concord.Step) (context.Context, func(error) error) {
	path, _ := ctx.Value(pathKey{}).(string)
	path += "/" + s.Kind.String()
	if s.Resource != "" {
		path += " " + s.Resource
	}
	if s.Attempt > 1 {
		path += fmt.Sprint(" #", s.Attempt)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open++
	return context.WithValue(ctx, pathKey{}, path), func(err error) error {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.open--
		text := path
		if err != nil {
			text += ": " + anID.ReplaceAllString(err.Error(), "GID")
		}
		w.ended = append(w.ended, text)
		if w.lose[s.Kind] > 0 {
			w.lose[s.Kind]--
			return errBroke
		}
		return nil
	}
}

// seen waits until every step that began has ended, and returns them in the order of the alphabet.
func (w *watcher) seen(t *testing.T) []string {
	require.Eventually(t, func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.open == 0
	}, patience, time.Millisecond)
	slices.Sort(w.ended)
	return w.ended
}

func TestAHookSeesEveryStepInTheContextOfTheOneAround(t *testing.T) {
	writeOne := func(ctx context.Context, b *shaky, tx *concord.Tx) error { return b.billing.add(ctx, tx, "A", 1) }
	transfer := func(ctx context.Context, b *shaky, tx *concord.Tx) error { return b.transfer(ctx, tx) }
	for name, c := range map[string]struct {
		lose map[concord.StepKind]int
		do   func(*shaky)
		fn   func(context.Context, *shaky, *concord.Tx) error
		opts []concord.TxOption
		is   error
		want []string
	}{
		"two branches": {fn: transfer, want: []string{
			"/transaction", "/transaction/branch billing", "/transaction/branch billing/commit billing",
			"/transaction/branch billing/prepare billing",
			"/transaction/branch orders", "/transaction/branch orders/commit orders",
			"/transaction/branch orders/prepare orders", "/transaction/decide"}},
		"one branch": {fn: writeOne, want: []string{
			"/transaction", "/transaction/branch billing", "/transaction/branch billing/commit one phase billing"}},
		"the function fails": {
			fn: func(ctx context.Context, b *shaky, tx *concord.Tx) error {
				return errors.Join(transfer(ctx, b, tx), errFunds)
			},
			is: concord.ErrAborted, want: []string{
				"/transaction/branch billing", "/transaction/branch billing/rollback billing",
				"/transaction/branch orders", "/transaction/branch orders/rollback orders",
				"/transaction: transaction GID was aborted: insufficient funds"}},
		"a vote whose answer is lost": {fn: writeOne, opts: []concord.TxOption{concord.Recorded()},
			lose: map[concord.StepKind]int{concord.StepPrepare: 1},
			is:   concord.ErrAborted, want: []string{
				"/transaction/branch billing", "/transaction/branch billing/prepare billing",
				"/transaction/branch billing/rollback billing",
				"/transaction: transaction GID was aborted by billing: the connection broke"}},
		"a commit whose answer is lost": {fn: transfer, do: func(b *shaky) { b.billing.lost[callCommit] = 1 },
			want: []string{
				"/transaction", "/transaction/branch billing", "/transaction/branch billing/commit billing #2",
				"/transaction/branch billing/commit billing: the connection broke",
				"/transaction/branch billing/prepare billing", "/transaction/branch orders",
				"/transaction/branch orders/commit orders",
				"/transaction/branch orders/prepare orders", "/transaction/decide"}},
		"a decision whose answer is lost": {fn: transfer, lose: map[concord.StepKind]int{concord.StepDecide: 1},
			is: concord.ErrUnknownOutcome, want: []string{
				"/transaction/branch billing/prepare billing",
				"/transaction/branch billing: the branch was left to the cluster",
				"/transaction/branch orders/prepare orders",
				"/transaction/branch orders: the branch was left to the cluster", "/transaction/decide",
				"/transaction: the outcome of transaction GID is unknown: the connection broke; ask " +
					"Client.Outcome for " +
					"it before you repeat it"}},
		"done again": {opts: []concord.TxOption{quick(2)}, is: errDeadlock,
			fn: func(ctx context.Context, b *shaky, tx *concord.Tx) error {
				return errors.Join(writeOne(ctx, b, tx), b.billing.fails(errDeadlock))
			},
			want: []string{
				"/transaction #2/branch billing", "/transaction #2/branch billing/rollback billing",
				"/transaction #2: transaction GID was aborted by billing: deadlock",
				"/transaction/branch billing", "/transaction/branch billing/rollback billing",
				"/transaction: transaction GID was aborted by billing: deadlock"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := &watcher{lose: c.lose}
			b := newShaky(t, concord.WithHook(w.hook))
			b.billing.passing = errDeadlock
			if c.do != nil {
				c.do(b)
			}
			err := b.client.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
				require.True(t, strings.HasPrefix(ctx.Value(pathKey{}).(string), "/transaction"))
				return c.fn(ctx, b, tx)
			}, c.opts...)
			require.ErrorIs(t, err, c.is)
			require.Equal(t, c.want, w.seen(t))
		})
	}
}

func TestATransactionThatEndsByItselfEndsForItsHook(t *testing.T) {
	w := &watcher{}
	b := newBank(t, concord.WithHook(w.hook))
	tx, err := b.client.Begin(t.Context(), concord.WithTimeout(20*time.Millisecond))
	require.NoError(t, err)
	require.NoError(t, b.transfer(t.Context(), tx))
	seen := w.seen(t)
	require.Len(t, seen, 5)
	require.Contains(t, seen[4], "/transaction: transaction GID was aborted: its time limit of 20ms (WithTimeout) "+
		"was reached")
}

func TestASlowTransactionIsLoggedWithItsSteps(t *testing.T) {
	var text bytes.Buffer
	b := newBank(t, concord.WithLogger(slog.New(slog.NewJSONHandler(&text, nil))),
		concord.WithSlowThreshold(time.Nanosecond))
	require.NoError(t, b.client.Run(t.Context(), b.transfer, concord.WithLabel("transfer 7")))
	require.NoError(t, b.client.Close())
	var line struct {
		Msg, Level, Label, Outcome string
		Took, Threshold            time.Duration
		Steps                      map[string]time.Duration
	}
	require.NoError(t, json.Unmarshal(text.Bytes(), &line), text.String())
	require.Equal(t, []string{"a transaction was slow", "WARN", "transfer 7", "committed"},
		[]string{line.Msg, line.Level, line.Label, line.Outcome})
	for _, step := range []string{"prepare.orders", "prepare.billing", "decide", "commit.orders", "commit.billing"} {
		require.Positive(t, line.Steps[step], step)
	}
	require.Greater(t, line.Took, line.Threshold)

	text.Reset()
	b = newBank(t, concord.WithLogger(slog.New(slog.NewJSONHandler(&text, nil))), concord.WithSlowThreshold(time.Hour))
	require.NoError(t, b.client.Run(t.Context(), b.transfer))
	require.NoError(t, b.client.Close())
	require.Empty(t, text.String())
}

// What costs nothing when it is off.
func BenchmarkRunOfOneBranch(bench *testing.B) {
	b := newBank(bench)
	bench.ReportAllocs()
	for bench.Loop() {
		if err := b.client.Run(bench.Context(), func(ctx context.Context, tx *concord.Tx) error {
			m, err := b.orders.Tx(ctx, tx)
			if err != nil {
				return err
			}
			return m.Put(ctx, "A", 1)
		}); err != nil {
			bench.Fatal(err)
		}
	}
}

// talkative is a resource whose driver has something to say.
type talkative struct {
	*memory.Resource
	log *slog.Logger
}

func (r *talkative) LogTo(l *slog.Logger) { r.log = l }

func TestADriverLogsToTheClientsLogger(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	b := newBank(t, concord.WithLogger(log))
	r := &talkative{Resource: b.orders}
	require.NoError(t, b.client.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
		_, err := tx.Enlist(ctx, r)
		return err
	}))
	require.Same(t, log, r.log)
}
