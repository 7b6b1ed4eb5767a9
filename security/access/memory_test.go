// SPDX-License-Identifier: Apache-2.0

package access

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// request makes one whose length is told, or not.
func request(t *testing.T, n int, told bool) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "/call", bytes.NewReader(make([]byte, n)))
	if !told {
		r.ContentLength = -1
	}
	return r
}

// Requests hold no more memory than the node gives them, and hold none when they are over.
func TestRequestsHoldNoMoreMemoryThanThereIs(t *testing.T) {
	g := NewGuard(Config{Limits: Limits{Memory: 1 << 20, StreamMemory: 64 << 10}})
	entered, leave := make(chan error), make(chan struct{})
	h := g.Handler(Rules{"/call": {Open: true}, "/stream": {Open: true, Stream: true}},
		http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, err := io.Copy(io.Discard, r.Body)
			entered <- err
			if err == nil {
				<-leave
			}
		}))
	answer := func(r *http.Request) <-chan int {
		code := make(chan int, 1)
		go func() {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			code <- w.Code
		}()
		return code
	}
	first := answer(request(t, 700<<10, true))
	require.NoError(t, <-entered)
	require.Equal(t, http.StatusTooManyRequests, <-answer(request(t, 700<<10, true)), "before a byte of it was read")
	second := answer(request(t, 700<<10, false))
	require.ErrorContains(t, <-entered, "1 MiB of requests are being carried out at this node")
	<-second
	third := answer(request(t, 200<<10, false))
	require.NoError(t, <-entered, "what fits is taken")
	for range 2 {
		leave <- struct{}{}
	}
	<-first
	<-third
	all := answer(request(t, 1<<20, true))
	require.NoError(t, <-entered, "all of it was given back")
	leave <- struct{}{}
	<-all
	require.True(t, g.memory.room.TryAcquire(1<<20))
}

// A stream is read while it holds little, again when its messages are answered, and leaves nothing behind.
func TestAStreamThatHoldsTooMuchIsNotRead(t *testing.T) {
	g := NewGuard(Config{Limits: Limits{Memory: 1 << 20, StreamMemory: 64 << 10, Body: time.Hour}})
	in, out := io.Pipe()
	h := g.Handler(Rules{"/stream": {Open: true, Stream: true}},
		http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			held, message := HeldBy(r.Context()), make([]byte, 32<<10)
			var sizes []int64
			for range 2 {
				_, err := io.ReadFull(r.Body, message)
				require.NoError(t, err)
				sizes = append(sizes, held.Took())
			}
			require.Equal(t, []int64{32 << 10, 32 << 10}, sizes)
			third := make(chan error, 1)
			go func() {
				_, err := io.ReadFull(r.Body, message)
				third <- err
			}()
			select {
			case <-third:
				require.Fail(t, "it is read although two are not answered")
			case <-time.After(50 * time.Millisecond): // would be there at once
			}
			held.Give(sizes[0])
			require.NoError(t, <-third)
		}))
	go func() { _, _ = out.Write(make([]byte, 96<<10)) }()
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/stream", in))
	require.True(t, g.memory.room.TryAcquire(1<<20), "what was not answered is given back with its stream")
	var none *Held
	none.Give(none.Took())
}

// A message of a stream that stops in the middle is given up.
func TestHalfAMessageOfAStreamIsGivenUp(t *testing.T) {
	g := NewGuard(Config{Limits: Limits{Body: 100 * time.Millisecond}})
	ended := make(chan error, 1)
	s := httptest.NewServer(g.Handler(Rules{"/stream": {Open: true, Stream: true}},
		http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			_, err := io.ReadFull(r.Body, make([]byte, 1<<20))
			ended <- err
		})))
	defer s.Close()
	in, out := io.Pipe()
	defer out.Close()
	go func() { _, _ = out.Write(make([]byte, 10<<10)) }()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+"/stream", in)
	require.NoError(t, err)
	go func() {
		if res, err := s.Client().Do(r); err == nil {
			_ = res.Body.Close()
		}
	}()
	require.ErrorContains(t, <-ended, "timeout")
}
