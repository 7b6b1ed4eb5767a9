// SPDX-License-Identifier: Apache-2.0

package api

import (
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

// HTTP2 makes a transport whose calls to one address share a connection, encrypted if conf is not
// nil. What leads into a black hole ends within seconds.
func HTTP2(conf *tls.Config, idle time.Duration) *http.Transport {
	protocols := new(http.Protocols)
	if conf == nil {
		protocols.SetUnencryptedHTTP2(true)
	} else {
		protocols.SetHTTP2(true)
	}
	return &http.Transport{
		DialContext:        (&net.Dialer{Timeout: 2 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSClientConfig:    conf,
		Protocols:          protocols,
		HTTP2:              &http.HTTP2Config{SendPingTimeout: 2 * time.Second, PingTimeout: 2 * time.Second},
		IdleConnTimeout:    idle,
		DisableCompression: true,
	}
}
