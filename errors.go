// SPDX-License-Identifier: Apache-2.0

package concord

import (
	"errors"
	"fmt"
)

var (
	// ErrAborted is wrapped by *AbortedError.
	ErrAborted = errors.New("transaction aborted")
	// ErrUnknownOutcome is wrapped by *UnknownError.
	ErrUnknownOutcome = errors.New("transaction outcome unknown")
	// ErrTxEnded says that a Tx was used after Commit or Rollback.
	ErrTxEnded = errors.New("the transaction has ended: begin a new one")
	// ErrClosed says that a Client was used after Close.
	ErrClosed = errors.New("the client is closed")
	// ErrResource says that a resource of the application and the cluster's resource of
	// that name do not fit together, so nobody could finish its branches after a crash.
	ErrResource = errors.New("the resource cannot take part")
)

// AbortedError says that nothing of the transaction happened anywhere. It wraps
// ErrAborted and what the database or the cluster said.
type AbortedError struct {
	GID      ID
	Resource string // whose branch is to blame; empty if none is
	Err      error
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
	// GID is what to ask Client.Outcome for. It is zero if the transaction had only one
	// branch, which Resource names, and was not begun with Recorded: the cluster never
	// heard of it, and only a look at the data there can tell.
	GID      ID
	Resource string
	Err      error
}

// Error ends with the next step.
func (e *UnknownError) Error() string {
	if e.GID.IsZero() {
		return fmt.Sprintf("the connection to %s broke while its only branch committed: %v; the cluster does not know more, so look at the data there before you repeat it (the cluster can tell of a transaction that is begun with concord.Recorded)", e.Resource, e.Err)
	}
	return fmt.Sprintf("the outcome of transaction %s is unknown: %v; ask with Client.Outcome or \"concord tx get %s\" before you repeat it", e.GID, e.Err, e.GID)
}

// Unwrap returns ErrUnknownOutcome and the cause.
func (e *UnknownError) Unwrap() []error { return []error{ErrUnknownOutcome, e.Err} }
