// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"errors"
	"fmt"

	"connectrpc.com/connect"

	concordv1 "github.com/concordtx/concord/api/concord/v1"
)

// What a call can fail with. An error of this package or of a node wraps exactly
// one of them, and this file alone maps them to status codes and back.
var (
	// ErrUnavailable: no node could do it now; the same call may work later.
	ErrUnavailable = errors.New("unavailable")
	// ErrNotFound: the thing that the request names does not exist.
	ErrNotFound = errors.New("not found")
	// ErrDecided: the transaction was decided before, and otherwise.
	ErrDecided = errors.New("already decided otherwise")
	// ErrRefused: the state of the cluster or of the transaction does not allow it.
	ErrRefused = errors.New("refused")
	// ErrBusy: a bounded queue is full; nothing was done.
	ErrBusy = errors.New("busy")
	// ErrInvalid: the request is malformed; repeating it is pointless.
	ErrInvalid = errors.New("invalid request")
	// ErrUnauthenticated: who calls has not said who it is, or is not believed.
	ErrUnauthenticated = errors.New("unauthenticated")
	// ErrDenied: who calls is known, and may not do that.
	ErrDenied = errors.New("permission denied")
	// ErrTooOld: the transaction is older than what the cluster remembers, so nothing
	// can be said about it.
	ErrTooOld = errors.New("older than what the cluster remembers")
)

// NotLeaderError says that the call belongs to the leader, which this node is not, and that this
// node did nothing about it. If the node knows no leader it is an ErrUnavailable as well.
type NotLeaderError struct {
	Leader uint64 // node id; 0 if this node knows none
	API    string // host:port of the leader's API; empty if unknown
}

// Error names the leader if it is known.
func (e *NotLeaderError) Error() string {
	if e.Leader == 0 {
		return "this node is not the leader and does not know who is: ask again, or run \"concord status\""
	}
	return fmt.Sprintf("this node is not the leader: ask node %d at %s", e.Leader, e.API)
}

// Is reports whether target is ErrUnavailable and no leader is known.
func (e *NotLeaderError) Is(target error) bool { return target == ErrUnavailable && e.Leader == 0 }

// codes pairs every sentinel with its status code. A code stands for one sentinel
// only; with a NotLeader detail it is a NotLeaderError instead.
var codes = [...]struct {
	err  error
	code connect.Code
}{
	{ErrInvalid, connect.CodeInvalidArgument},
	{ErrNotFound, connect.CodeNotFound},
	{ErrDecided, connect.CodeAborted},
	{ErrRefused, connect.CodeFailedPrecondition},
	{ErrBusy, connect.CodeResourceExhausted},
	{ErrTooOld, connect.CodeOutOfRange},
	{ErrUnauthenticated, connect.CodeUnauthenticated},
	{ErrDenied, connect.CodePermissionDenied},
	{ErrUnavailable, connect.CodeUnavailable},
	{context.DeadlineExceeded, connect.CodeDeadlineExceeded},
	{context.Canceled, connect.CodeCanceled},
}

// ToStatus turns the error of a handler into one with a status code. Its text is
// what the caller gets to read. An error that wraps none of ours is internal.
func ToStatus(err error) error {
	if err == nil {
		return nil
	}
	var notLeader *NotLeaderError
	if errors.As(err, &notLeader) {
		code := connect.CodeFailedPrecondition
		if notLeader.Leader == 0 {
			code = connect.CodeUnavailable
		}
		status := connect.NewError(code, err)
		// A message that marshals always can be a detail; without the detail the client
		// tries the other nodes.
		if detail, derr := connect.NewErrorDetail(&concordv1.NotLeader{Leader: notLeader.Leader,
			Api: notLeader.API}); derr == nil {
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
// the node's text that wraps the sentinel, or a *NotLeaderError. A code that no
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

// notLeaderDetail returns nil if the status carries none.
func notLeaderDetail(status *connect.Error) *NotLeaderError {
	for _, d := range status.Details() {
		value, err := d.Value()
		if err != nil {
			continue // a detail of a newer version
		}
		if n, ok := value.(*concordv1.NotLeader); ok {
			return &NotLeaderError{Leader: n.GetLeader(), API: n.GetApi()}
		}
	}
	return nil
}

// Refusedf makes an error that wraps ErrRefused, and says no more than its text: that ends with a next step, which the
// name of the sentinel would only hide.
func Refusedf(format string, args ...any) error { return kindf(ErrRefused, format, args) }

// Deniedf is Refusedf for ErrDenied.
func Deniedf(format string, args ...any) error { return kindf(ErrDenied, format, args) }

// Busyf is Refusedf for ErrBusy.
func Busyf(format string, args ...any) error { return kindf(ErrBusy, format, args) }

// Unavailablef is Refusedf for ErrUnavailable.
func Unavailablef(format string, args ...any) error { return kindf(ErrUnavailable, format, args) }

func kindf(kind error, format string, args []any) error {
	cause := fmt.Errorf(format, args...)
	return &remoteError{text: cause.Error(), kind: kind, cause: cause}
}

// remoteError has the text that the node wrote: that text names the kind already.
type remoteError struct {
	text  string
	kind  error // a sentinel
	cause error // *connect.Error, which tells a node's answer from a broken connection, or what the text comes from
}

func (e *remoteError) Error() string   { return e.text }
func (e *remoteError) Unwrap() []error { return []error{e.kind, e.cause} }
