// SPDX-License-Identifier: Apache-2.0

package concordhttp

import (
	"errors"
	"net"
	"net/http"

	"connectrpc.com/connect"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/api/concord/v1/concordv1connect"
)

// maxVotesBytes bounds what a service answers when it is asked for its votes.
const maxVotesBytes = 4 << 20

// Transport makes each request whose context carries a transaction a part of that one; others it passes on as
// they are. Votes and decisions go the same way as the requests. With nil, base is http.DefaultTransport.
//
// It is for services that join transactions: the answer of any other one makes the transaction abort.
func Transport(base http.RoundTripper) http.RoundTripper {
	if base == nil {
		base = http.DefaultTransport
	}
	return transport{base}
}

type transport struct{ base http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (t transport) RoundTrip(r *http.Request) (*http.Response, error) {
	tx, ok := concord.FromContext(r.Context())
	if !ok {
		return t.base.RoundTrip(r)
	}
	scheme, host := r.URL.Scheme, r.URL.Host
	call, err := tx.Call(r.Context(), host, func(addr string) (concord.Peer, error) {
		if addr == "" {
			addr = host
		}
		return t.peer(scheme + "://" + addr), nil
	})
	if err != nil {
		if r.Body != nil {
			_ = r.Body.Close()
		}
		return nil, err
	}
	r = r.Clone(r.Context())
	r.Header.Set(concord.PropagationHeader, call.Header())
	res, err := t.base.RoundTrip(r)
	switch {
	case err != nil && notSent(err):
		call.NotSent()
		return nil, err
	case err != nil:
		call.Failed(err)
		return nil, err
	}
	// What it says is why the transaction will not commit, and Commit says it again. The application
	// gets the answer: perhaps it says more.
	_ = call.Answered(res.Header.Get(concord.ParticipationHeader))
	res.Header.Del(concord.ParticipationHeader)
	return res, nil
}

// notSent reports whether nobody was reached.
func notSent(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

func (t transport) peer(url string) concord.Peer {
	return concordv1connect.NewJoinServiceClient(&http.Client{Transport: t.base}, url,
		connect.WithReadMaxBytes(maxVotesBytes))
}
