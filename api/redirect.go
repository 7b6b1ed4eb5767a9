// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"net/http"

	"connectrpc.com/connect"
)

// A node that does not lead hands a call of the leader on to it. A client that can reach the
// leader spares everybody that detour: it asks to be told where the leader is instead.
// Only when it has asked everybody in vain does it let nodes hand its calls on.
const (
	// RedirectHeader, if not empty, asks to be redirected.
	RedirectHeader = "Concord-Redirect"
	// HandedOnHeader names the node that handed a call on. In a request it says not to do so
	// again, in an answer that it was done.
	HandedOnHeader = "Concord-Handed-On"
	// CallerHeader says, in a call that a node hands on, for whom it speaks. Of anybody else than a node
	// of the cluster it is refused.
	CallerHeader = "Concord-Caller"
	// CallerAddressHeader is the address of that one, for the audit. Where everybody may do everything it is believed
	// of everybody.
	CallerAddressHeader = "Concord-Caller-Address"
)

// handOn, in a context, lets a node hand the call on, and notes whether it did.
type handOn struct{ done bool }

type handOnKey struct{}

func withHandOn(ctx context.Context) (context.Context, *handOn) {
	h := &handOn{}
	return context.WithValue(ctx, handOnKey{}, h), h
}

// redirecting puts the headers into calls, and reads them from the answers of unary ones.
type redirecting struct{}

// WrapUnary implements connect.Interceptor.
func (redirecting) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		h := redirect(ctx, req.Header())
		res, err := next(ctx, req)
		if h != nil && err == nil {
			h.done = res.Header().Get(HandedOnHeader) != ""
		}
		return res, err
	}
}

// WrapStreamingClient implements connect.Interceptor.
func (redirecting) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, s connect.Spec) connect.StreamingClientConn {
		conn := next(ctx, s)
		redirect(ctx, conn.RequestHeader())
		return conn
	}
}

// WrapStreamingHandler implements connect.Interceptor; a client has no use for it.
func (redirecting) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

// redirect asks for a redirection, unless the context lets nodes hand the call on.
func redirect(ctx context.Context, header http.Header) *handOn {
	h, _ := ctx.Value(handOnKey{}).(*handOn)
	if h == nil {
		header.Set(RedirectHeader, "1")
	}
	return h
}
