// SPDX-License-Identifier: Apache-2.0

package api

import (
	"fmt"
	"net/http"
	"strings"
)

// plainly makes the requests of who has no TLS. A server that wants it answers them with a page that is
// no answer of a node; what is missing is said instead.
type plainly struct{ *http.Transport }

// RoundTrip implements http.RoundTripper.
func (p plainly) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := p.Transport.RoundTrip(r)
	if err != nil || res.StatusCode != http.StatusBadRequest || !strings.HasPrefix(res.Header.Get("Content-Type"),
		"text/plain") || !res.Close {
		return res, err
	}
	_ = res.Body.Close() // it was not wanted
	return nil, fmt.Errorf("%w: this cluster wants a client certificate or a token: --certs-dir, --token-file",
		ErrUnauthenticated)
}
