// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"errors"

	"connectrpc.com/connect"

	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/txn"
)

// codes pairs every sentinel with its status code. A code stands for one sentinel
// only; with a NotLeader detail it is a txn.NotLeaderError instead.
var codes = [...]struct {
	err  error
	code connect.Code
}{
	{txn.ErrInvalid, connect.CodeInvalidArgument},
	{txn.ErrNotFound, connect.CodeNotFound},
	{txn.ErrDecided, connect.CodeAborted},
	{txn.ErrRefused, connect.CodeFailedPrecondition},
	{txn.ErrBusy, connect.CodeResourceExhausted},
	{txn.ErrTooOld, connect.CodeOutOfRange},
	{txn.ErrUnauthenticated, connect.CodeUnauthenticated},
	{txn.ErrDenied, connect.CodePermissionDenied},
	{txn.ErrUnavailable, connect.CodeUnavailable},
	{context.DeadlineExceeded, connect.CodeDeadlineExceeded},
	{context.Canceled, connect.CodeCanceled},
}

// ToStatus turns the error of a handler into one with a status code. Its text is
// what the caller gets to read. An error that wraps none of ours is internal.
func ToStatus(err error) error {
	if err == nil {
		return nil
	}
	var notLeader *txn.NotLeaderError
	if errors.As(err, &notLeader) {
		code := connect.CodeFailedPrecondition
		if notLeader.Leader == 0 {
			code = connect.CodeUnavailable
		}
		status := connect.NewError(code, err)
		// A message that marshals always can be a detail; without the detail the client
		// tries the other nodes.
		if detail, derr := connect.NewErrorDetail(notLeaderMessage(notLeader)); derr == nil {
			status.AddDetail(detail)
		}
		return status
	}
	for _, c := range codes {
		if errors.Is(err, c.err) {
			return connect.NewError(c.code, err)
		}
	}
	return connect.NewError(connect.CodeInternal, err)
}

// FromStatus is the inverse of ToStatus: what a call returned becomes an error with
// the node's text that wraps the sentinel, or a *txn.NotLeaderError. A code that no
// sentinel stands for leaves the error as it is.
func FromStatus(err error) error {
	var status *connect.Error
	if err == nil || !errors.As(err, &status) {
		return err
	}
	if notLeader := notLeaderDetail(status); notLeader != nil {
		return notLeader
	}
	for _, c := range codes {
		if c.code == status.Code() {
			return &remoteError{text: status.Message(), kind: c.err, cause: err}
		}
	}
	return err
}

func notLeaderMessage(e *txn.NotLeaderError) *concordv1.NotLeader {
	return &concordv1.NotLeader{Leader: e.Leader, Api: e.API, Untouched: e.Untouched}
}

// notLeaderDetail returns nil if the status carries none.
func notLeaderDetail(status *connect.Error) *txn.NotLeaderError {
	for _, d := range status.Details() {
		value, err := d.Value()
		if err != nil {
			continue // a detail of a newer version
		}
		if n, ok := value.(*concordv1.NotLeader); ok {
			return &txn.NotLeaderError{Leader: n.GetLeader(), API: n.GetApi(), Untouched: n.GetUntouched()}
		}
	}
	return nil
}

// remoteError has the text that the node wrote: that text names the kind already.
type remoteError struct {
	text  string
	kind  error // a sentinel
	cause error // *connect.Error, which tells a node's answer from a broken connection
}

func (e *remoteError) Error() string   { return e.text }
func (e *remoteError) Unwrap() []error { return []error{e.kind, e.cause} }
