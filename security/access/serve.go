// SPDX-License-Identifier: Apache-2.0

package access

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"
)

const (
	headerTimeout = 5 * time.Second
	idleTimeout   = 2 * time.Minute
	maxHeader     = 16 << 10
)

// Serve serves on a listener until ctx ends, and closes it. Calls under way have grace to end.
func (g *Guard) Serve(ctx context.Context, l net.Listener, rules Rules, h http.Handler, grace time.Duration,
	log *slog.Logger) error {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	conns := newConns(g.config.Limits, log)
	s := &http.Server{
		Handler:           conns.handler(rules, g.Secure(), g.Handler(rules, h)),
		Protocols:         protocols,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		HTTP2: &http.HTTP2Config{MaxConcurrentStreams: 1024, MaxReceiveBufferPerConnection: 4 << 20,
			MaxReceiveBufferPerStream: 1 << 20},
		ConnContext: conns.context,
		ConnState:   conns.state,
		ErrorLog:    slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		// Calls under way end by the answer of the closing node, not by a cancelled context:
		// "ask another node" is what their clients have to know.
		BaseContext: func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
	}
	serve := s.Serve
	if g.Secure() {
		protocols.SetHTTP2(true)
		s.TLSConfig = g.config.Keys.Server()
		serve = func(l net.Listener) error { return s.ServeTLS(l, "", "") }
	} else {
		protocols.SetUnencryptedHTTP2(true)
	}
	stopped := make(chan error, 1)
	go func() {
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
		defer cancel()
		err := s.Shutdown(grace)
		if errors.Is(err, context.DeadlineExceeded) { // streams do not end by themselves
			err = s.Close()
		}
		stopped <- err
	}()
	go conns.doubt(ctx, g)
	if err := serve(conns.limit(l)); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve at %v: %w; choose another address", l.Addr(), err)
	}
	return <-stopped
}

// handler gives each request its time. Where somebody asks who calls, that one says which connections are useful.
func (c *conns) handler(rules Rules, asked bool, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		if !rules[r.URL.Path].Stream && r.Body != nil && r.Body != http.NoBody {
			_ = control.SetReadDeadline(time.Now().Add(c.limits.Body)) // always possible with net/http
			// the server looks at its own request to see whether the body was read
			own := *r
			own.Body = &timedBody{ReadCloser: r.Body, control: control}
			r = &own
		}
		_ = control.SetWriteDeadline(time.Time{}) // of the answer before on this connection
		next.ServeHTTP(&timedWriter{ResponseWriter: w, control: control, limit: c.limits.Write}, r)
		_ = control.SetWriteDeadline(time.Now().Add(c.limits.Write))
		if t, ok := r.Context().Value(connKey{}).(*tracked); ok && !asked {
			t.useful.Store(true)
		}
	})
}

// timedBody takes the deadline away when the body is there: while its call is carried out the server
// waits for the end of the connection by a read.
type timedBody struct {
	io.ReadCloser
	control *http.ResponseController
}

func (b *timedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		_ = b.control.SetReadDeadline(time.Time{})
	}
	return n, err
}

// timedWriter gives each piece of an answer its time.
type timedWriter struct {
	http.ResponseWriter
	control *http.ResponseController
	limit   time.Duration // of each piece
	until   time.Time
}

// Write moves the deadline on when some of its time has passed: a stream writes thousands of times in a second.
func (w *timedWriter) Write(b []byte) (int, error) {
	if now := time.Now(); w.until.Sub(now) < w.limit-w.limit/8 {
		w.until = now.Add(w.limit)
		_ = w.control.SetWriteDeadline(w.until)
	}
	return w.ResponseWriter.Write(b)
}

// Flush implements http.Flusher, which streams need.
func (w *timedWriter) Flush() { _ = w.control.Flush() }

// Unwrap is for http.ResponseController.
func (w *timedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
