// SPDX-License-Identifier: Apache-2.0

package api

import (
	"fmt"
	"net/http"

	"github.com/concordtx/concord/txn"
)

// plainly makes the requests of who has no TLS. A server that wants it answers them in HTTP 1.0, with a page
// that is no answer of a node; what is missing is said instead.
type plainly struct{ *http.Transport }

// RoundTrip implements http.RoundTripper.
func (p plainly) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := p.Transport.RoundTrip(r)
	// Only a server that expects TLS answers like that.
	if err != nil || res.StatusCode != http.StatusBadRequest || res.ProtoAtLeast(1, 1) ||
		res.Header.Get("Content-Type") != "" {
		return res, err
	}
	_ = res.Body.Close() // it was not wanted
	return nil, fmt.Errorf("%w: this cluster wants a client certificate or a token: --certs-dir, --token-file",
		txn.ErrUnauthenticated)
}
