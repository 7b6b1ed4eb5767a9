// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"time"
)

// Dialable reports whether an address is host:port and says both, so that it can be called.
func Dialable(addr string) bool {
	host, port, err := net.SplitHostPort(addr)
	return err == nil && host != "" && port != ""
}

// TLSFor returns how a host is called: whom to believe, and who calls. It is asked for each connection,
// as certificates change. Nil: connections are plain.
type TLSFor func(host string) *tls.Config

// Fixed is a TLSFor that never changes; nil for nil.
func Fixed(c *tls.Config) TLSFor {
	if c == nil {
		return nil
	}
	return func(string) *tls.Config { return c }
}

// HTTP2 makes a transport whose calls to one address share a connection. What leads into a black
// hole ends within seconds.
func HTTP2(conf TLSFor, idle time.Duration) *http.Transport {
	t := transport(conf, true)
	t.IdleConnTimeout = idle
	t.HTTP2 = &http.HTTP2Config{SendPingTimeout: 2 * time.Second, PingTimeout: 2 * time.Second}
	return t
}

// transport keeps one idle HTTP/1.1 connection per concurrent call, or shares one of HTTP/2. Against
// net/http servers the former costs less time and CPU per call than streams on one connection
// (BenchmarkCommitCall).
func transport(conf TLSFor, h2 bool) *http.Transport {
	dialer := &net.Dialer{Timeout: dialTimeout, KeepAlive: 15 * time.Second}
	protocols, offer := new(http.Protocols), "http/1.1"
	switch {
	case !h2:
		protocols.SetHTTP1(true)
	case conf == nil:
		protocols.SetUnencryptedHTTP2(true)
	default:
		protocols.SetHTTP2(true)
		offer = "h2"
	}
	t := &http.Transport{
		DialContext:         dialer.DialContext,
		Protocols:           protocols,
		MaxIdleConns:        1024,
		MaxIdleConnsPerHost: 256,
		MaxConnsPerHost:     1024,
		IdleConnTimeout:     90 * time.Second,
		DisableCompression:  true,
	}
	if conf != nil {
		t.DialTLSContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			return dialTLS(ctx, dialer, conf, offer, network, addr)
		}
	}
	return t
}

// dialTimeout bounds a connection, and a handshake.
const dialTimeout = 2 * time.Second

func dialTLS(ctx context.Context, dialer *net.Dialer, conf TLSFor, offer, network, addr string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	own := conf(host).Clone()
	own.NextProtos = []string{offer}
	if own.ServerName == "" {
		own.ServerName = host
	}
	raw, err := dialer.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn := tls.Client(raw, own)
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close() // the handshake's error is what matters
		return nil, &net.OpError{Op: "dial", Net: network, Addr: raw.RemoteAddr(), Err: err}
	}
	return conn, nil
}

// Bearer puts a token into each request, the one that there is at the time; with none, nothing.
func Bearer(t *http.Transport, token func() string) http.RoundTripper {
	return &bearer{Transport: t, token: token}
}

type bearer struct {
	*http.Transport
	token func() string
}

// RoundTrip implements http.RoundTripper.
func (b *bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	if token := b.token(); token != "" {
		r = r.Clone(r.Context())
		r.Header.Set("Authorization", "Bearer "+token)
	}
	return b.Transport.RoundTrip(r)
}
