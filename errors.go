// SPDX-License-Identifier: Apache-2.0

package concord

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/txn"
)

var (
	// ErrAborted is wrapped by *AbortedError.
	ErrAborted = errors.New("transaction aborted")
	// ErrUnknownOutcome is wrapped by *UnknownError.
	ErrUnknownOutcome = errors.New("transaction outcome unknown")
	// ErrTorn is wrapped by *TornError.
	ErrTorn = adapters.ErrTorn
	// ErrTxEnded says that a Tx was used after Commit or Rollback.
	ErrTxEnded = errors.New("the transaction has ended: begin a new one")
	// ErrClosed says that a Client was used after Close.
	ErrClosed = errors.New("the client is closed")
	// ErrInFlight: another RunOnce with the key is under way, and was not waited for any longer.
	ErrInFlight error = txn.Busyf("another call with the key is under way")
	// ErrResource says that a resource of the application and the cluster's resource of
	// that name do not fit together, so nobody could finish its branches after a crash.
	ErrResource = errors.New("the resource cannot take part")
	// ErrQuarantined says that the database of a resource was set back, and takes part again when an
	// operator has accepted it as it is. It wraps ErrResource.
	ErrQuarantined = fmt.Errorf("%w: it is quarantined", ErrResource)
	// ErrCluster says that the nodes belong to another cluster than when the Client was
	// dialed, so that nobody could decide.
	ErrCluster = errors.New("this is another cluster")
)

// AbortedError says that nothing of the transaction happened anywhere. It wraps
// ErrAborted and what the database or the cluster said.
type AbortedError struct {
	GID      ID
	Resource string // whose branch is to blame; empty if none is
	// Retryable says that all of it may well succeed if it is done again; see the function of this name.
	Retryable bool
	Err       error
}

// Error names the transaction, and the resource if one is to blame.
func (e *AbortedError) Error() string {
	if e.Resource == "" {
		return fmt.Sprintf("transaction %s was aborted: %v", e.GID, e.Err)
	}
	return fmt.Sprintf("transaction %s was aborted by %s: %v", e.GID, e.Resource, e.Err)
}

// Unwrap returns ErrAborted and the cause.
func (e *AbortedError) Unwrap() []error { return []error{ErrAborted, e.Err} }

// UnknownError says that the transaction committed or aborted and that it could not
// be learned which. It must not be retried blindly.
type UnknownError struct {
	// GID is what to ask Client.Outcome for. It is zero if only one branch had written, which
	// Resource names, and the transaction was not begun with Recorded: the cluster never
	// heard of it, and only a look at the data there can tell.
	GID      ID
	Resource string
	Err      error
}

// Error ends with the next step.
func (e *UnknownError) Error() string {
	if e.GID.IsZero() {
		return fmt.Sprintf("the connection to %s broke while the only branch that wrote committed: %v; the cluster "+
			"knows no more, so look at the data there before you repeat it (the cluster can tell if a transaction "+
			"is begun with concord.Recorded)", e.Resource, e.Err)
	}
	if errors.Is(e.Err, ErrCluster) {
		return fmt.Sprintf("the outcome of transaction %s is unknown: %v; nobody else can tell it, so look at the "+
			"data before you repeat it", e.GID, e.Err)
	}
	return fmt.Sprintf("the outcome of transaction %s is unknown: %v; ask Client.Outcome for it before you repeat it",
		e.GID, e.Err)
}

// Unwrap returns ErrUnknownOutcome and the cause.
func (e *UnknownError) Unwrap() []error { return []error{ErrUnknownOutcome, e.Err} }

// TornError says that the application's own SQL ended or replaced the transaction of a
// branch, so that part of its work may be committed, although everything else is rolled back.
// It wraps ErrTorn, never ErrAborted: to repeat the transaction may apply that part twice.
type TornError struct {
	GID      ID
	Resource string // whose branch it is
	Err      error
}

// Error ends with the next step.
func (e *TornError) Error() string {
	return fmt.Sprintf("transaction %s was rolled back, but not all of what it did in %s: %v; look into that "+
		"database for what is left of it before you repeat it",
		e.GID, e.Resource, e.Err)
}

// Unwrap returns ErrTorn and the cause.
func (e *TornError) Unwrap() []error { return []error{ErrTorn, e.Err} }

// after adds what the function of Run returned, which may be the same.
func (e *TornError) after(err error) error {
	if errors.Is(err, ErrTorn) {
		return e
	}
	return &TornError{GID: e.GID, Resource: e.Resource,
		Err: fmt.Errorf("%w; the function returned: %w", e.Err, ofAnother(err))}
}

// ofAnother hides, in the cause of what is no abort, that another transaction was aborted: a context ends with
// whatever cause it is given, such as that (errgroup does so), and a function returns what it wants to.
func ofAnother(cause error) error {
	if errors.Is(cause, ErrAborted) {
		return noAbort{cause}
	}
	return cause
}

type noAbort struct{ error }

// Is is that of errors, but for ErrAborted.
func (e noAbort) Is(target error) bool { return target != ErrAborted && errors.Is(e.error, target) }

// As is that of errors, but for *AbortedError.
func (e noAbort) As(target any) bool {
	_, abort := target.(**AbortedError)
	return !abort && errors.As(e.error, target)
}

// DeadlockError says that concord has ended a transaction because it and others waited for each other in
// several databases, which none of these sees. It was the youngest; the others go on. An *AbortedError wraps
// it, and Retryable reports true of that one.
type DeadlockError struct {
	Resources []string // in which they waited
	Others    []ID     // the other transactions, as far as they may be told
}

// Error ends with the next step.
func (e *DeadlockError) Error() string {
	with := "another transaction"
	if len(e.Others) > 0 {
		names := make([]string, len(e.Others))
		for i, id := range e.Others {
			names[i] = id.String()
		}
		with = "transaction " + strings.Join(names, ", ")
	}
	return fmt.Sprintf("concord ended it because of a deadlock between the databases %s, with %s: run it again "+
		"(WithRetry does), and access databases in a fixed order", strings.Join(e.Resources, " and "), with)
}

// enlistError is an error of Enlist. It says no more than its cause, and knows the resource.
type enlistError struct {
	resource string
	err      error
}

func (e *enlistError) Error() string { return e.err.Error() }
func (e *enlistError) Unwrap() error { return e.err }

// limitError says what ended a transaction that was neither committed nor rolled back: a limit, or the
// cluster.
type limitError struct {
	after  time.Duration
	from   limitSource
	wanted time.Duration  // by WithTimeout, if the cluster's limit is shorter
	caller error          // why a context of the caller's ended; nil if it is one of the other limits
	victim *DeadlockError // nil if it is a limit
}

type limitSource uint8

const (
	byDefault limitSource = iota
	byOption
	byCluster
)

func (e *limitError) Error() string {
	switch {
	case e.victim != nil:
		return e.victim.Error()
	case e.caller != nil:
		return fmt.Sprintf("the caller's context ended %v after the transaction began: %v",
			e.after.Round(time.Millisecond), e.caller)
	case e.from == byOption:
		return fmt.Sprintf("its time limit of %v (WithTimeout) was reached: allow more, or do less in one "+
			"transaction",
			e.after)
	case e.from == byDefault:
		return fmt.Sprintf("the default time limit of %v was reached: allow more with WithTimeout, or do less in "+
			"one transaction", e.after)
	case e.wanted != 0:
		return fmt.Sprintf("the cluster's time limit of %v was reached, which is shorter than the %v of "+
			"WithTimeout: do less in one transaction, or raise transaction.max_age on the nodes",
			e.after, e.wanted)
	}
	return fmt.Sprintf("the cluster's time limit of %v was reached: do less in one transaction, or raise "+
		"transaction.max_age on the nodes", e.after)
}

func (e *limitError) Unwrap() error {
	switch {
	case e.victim != nil:
		return e.victim
	case e.caller != nil:
		return e.caller
	}
	return context.DeadlineExceeded
}

// outcomeWord is one word for what Commit said.
func outcomeWord(err error) string {
	switch {
	case err == nil:
		return "committed"
	case errors.Is(err, ErrAborted): // before the others, which may be of another transaction
		return "aborted"
	case errors.Is(err, ErrUnknownOutcome):
		return "unknown"
	case errors.Is(err, ErrTorn):
		return "torn"
	}
	return "aborted"
}
