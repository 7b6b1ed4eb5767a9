// SPDX-License-Identifier: Apache-2.0

package txn

import (
	"errors"
	"fmt"
)

// What a request can fail with. What a node or its API answers wraps exactly one of them, and package api maps
// them to status codes and back. With ErrUnavailable or a *NotLeaderError a request may have an effect
// all the same; asking again with the same gid is safe.
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

// NotLeaderError says that the call belongs to the leader, which this node is not. If the node knows no
// leader it is an ErrUnavailable as well.
type NotLeaderError struct {
	Leader uint64 // node id; 0 if this node knows none
	API    string // host:port of the leader's API; empty if unknown
	// Untouched: the node did nothing about the call. One that led when it came has perhaps put it into the log, where
	// the next leader finds it.
	Untouched bool
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

// Refusedf makes an error that wraps ErrRefused, and says no more than its text: that ends with a next step, which the
// name of the sentinel would only hide.
func Refusedf(format string, args ...any) error { return requestErrorf(ErrRefused, format, args) }

// Deniedf is Refusedf for ErrDenied.
func Deniedf(format string, args ...any) error { return requestErrorf(ErrDenied, format, args) }

// Busyf is Refusedf for ErrBusy.
func Busyf(format string, args ...any) error { return requestErrorf(ErrBusy, format, args) }

// Unavailablef is Refusedf for ErrUnavailable.
func Unavailablef(format string, args ...any) error {
	return requestErrorf(ErrUnavailable, format, args)
}

// NotFoundf is Refusedf for ErrNotFound.
func NotFoundf(format string, args ...any) error { return requestErrorf(ErrNotFound, format, args) }

// Invalidf is Refusedf for ErrInvalid.
func Invalidf(format string, args ...any) error { return requestErrorf(ErrInvalid, format, args) }

// Decidedf is Refusedf for ErrDecided.
func Decidedf(format string, args ...any) error { return requestErrorf(ErrDecided, format, args) }

// TooOldf is Refusedf for ErrTooOld.
func TooOldf(format string, args ...any) error { return requestErrorf(ErrTooOld, format, args) }

// requestError is a text for people and a sentinel for programs.
type requestError struct {
	kind  error // a sentinel
	cause error // has the text, and what it wraps
}

func requestErrorf(kind error, format string, args []any) error {
	return &requestError{kind, fmt.Errorf(format, args...)}
}

func (e *requestError) Error() string   { return e.cause.Error() }
func (e *requestError) Unwrap() []error { return []error{e.kind, e.cause} }
