// SPDX-License-Identifier: Apache-2.0

package access

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/txn"
)

func pipe(t *testing.T) (ours, theirs net.Conn) {
	ours, theirs = net.Pipe()
	t.Cleanup(func() { _ = ours.Close(); _ = theirs.Close() })
	return ours, theirs
}

// isClosed reports whether the other end of a pipe has ended it.
func isClosed(c net.Conn) bool {
	_ = c.SetReadDeadline(time.Now().Add(time.Millisecond))
	_, err := c.Read(make([]byte, 1))
	return err == io.EOF
}

// A connection too many takes the place of the oldest on which nothing useful came.
func TestAConnectionTooManyTakesThePlaceOfAnIdleOne(t *testing.T) {
	c := newConns(DefaultLimits, slog.New(slog.DiscardHandler))
	c.most = 3
	var ours, theirs []net.Conn
	for range 5 {
		a, b := pipe(t)
		ours, theirs = append(ours, a), append(theirs, b)
	}
	for i := range 3 {
		require.True(t, c.add(ours[i]))
	}
	c.open[ours[0]].useful.Store(true)
	c.open[ours[2]].useful.Store(true)
	require.True(t, c.add(ours[3]))
	require.True(t, isClosed(theirs[1]))
	require.False(t, isClosed(theirs[0]))
	c.open[ours[3]].useful.Store(true)
	require.False(t, c.add(ours[4]), "all are in use")
	require.True(t, isClosed(theirs[4]))
	require.Len(t, c.open, 3)
}

func TestASubjectHasSoManyConnections(t *testing.T) {
	c := newConns(DefaultLimits, slog.New(slog.DiscardHandler))
	var last net.Conn
	for i := range DefaultLimits.PerSubject + 2 {
		last, _ = pipe(t)
		require.True(t, c.add(last))
		ctx := c.context(context.Background(), last)
		err := belongs(ctx, "app")
		if i < DefaultLimits.PerSubject {
			require.NoError(t, err)
			require.NoError(t, belongs(ctx, "other"), "it counts for the first")
			continue
		}
		require.ErrorIs(t, err, txn.ErrBusy)
		require.NoError(t, belongs(ctx, "other"+strconv.Itoa(i)))
	}
	c.state(last, http.StateClosed)
	require.Equal(t, DefaultLimits.PerSubject, c.subjects["app"])
	require.NotContains(t, c.subjects, "other"+strconv.Itoa(DefaultLimits.PerSubject+1))
}

func TestAnOpenListenerAnswersToItsNames(t *testing.T) {
	g := NewGuard(Config{Hosts: []string{"localhost", "node1"}})
	h := g.Handler(nil, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	for host, want := range map[string]int{"localhost": 200, "LOCALHOST:7420": 200, "127.0.0.1:7420": 200,
		"[::1]:7420": 200, "10.0.0.1": 200, "node1:7420": 200,
		"evil.example": 403, "localhost.evil.example": 403, "node1.": 403, "": 403} {
		r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
		r.Host = host
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		require.Equal(t, want, w.Code, host)
	}
	require.EqualValues(t, 4, g.Denied())
}

func TestWrongTokensAreCountedByAddress(t *testing.T) {
	var f failures
	for range maxFailures {
		require.True(t, f.mayTry("10.0.0.1"))
		f.add("10.0.0.1")
	}
	require.False(t, f.mayTry("10.0.0.1"))
	require.True(t, f.mayTry("10.0.0.2"))
	f.from["10.0.0.1"] = failed{count: maxFailures, since: time.Now().Add(-failureWindow - time.Second)}
	require.True(t, f.mayTry("10.0.0.1"), "the minute is over")
	for i := range 2 * maxAddresses {
		f.add(strconv.Itoa(i))
	}
	require.LessOrEqual(t, len(f.from), maxAddresses)
}
