// SPDX-License-Identifier: Apache-2.0

package terminal

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/concordtx/concord/coordinator"
	"github.com/concordtx/concord/coordinator/peer"
	"github.com/concordtx/concord/txn"
)

// The exit codes, a contract with scripts.
const (
	ExitFailed      = 1
	ExitUsage       = 2 // usage, or confirmation needed
	ExitNotFound    = 3
	ExitUnavailable = 4 // no leader, timeout
	ExitRefused     = 5 // already decided
	ExitInDoubt     = 6 // outcome unknown, or in-doubt transactions remain
	ExitDenied      = 7 // who asks is not known, or may not do that
)

// ExitError carries its own exit code. With an empty text nothing is printed: the
// output has said it all.
type ExitError struct {
	Code int
	Text string
}

// Error returns the text.
func (e *ExitError) Error() string { return e.Text }

// Usagef is an error of whoever typed the command.
func Usagef(format string, args ...any) error {
	return &ExitError{Code: ExitUsage, Text: fmt.Sprintf(format, args...)}
}

// ExitCode returns the exit code of a command that ended with err.
func ExitCode(err error) int {
	var own *ExitError
	var notLeader *txn.NotLeaderError
	switch {
	case errors.As(err, &own):
		return own.Code
	case errors.Is(err, txn.ErrInvalid), errors.Is(err, coordinator.ErrNewerStore),
		errors.Is(err, coordinator.ErrMembers), errors.Is(err, coordinator.ErrDropped),
		errors.Is(err, peer.ErrRemoved):
		return ExitUsage
	case errors.Is(err, txn.ErrNotFound):
		return ExitNotFound
	case errors.Is(err, txn.ErrDecided), errors.Is(err, txn.ErrRefused):
		return ExitRefused
	case errors.Is(err, txn.ErrTooOld):
		return ExitInDoubt
	case errors.Is(err, txn.ErrDenied), errors.Is(err, txn.ErrUnauthenticated):
		return ExitDenied
	case errors.Is(err, txn.ErrUnavailable), errors.Is(err, txn.ErrBusy), errors.As(err, &notLeader),
		errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return ExitUnavailable
	}
	return ExitFailed
}

// NoArgs is cobra's check that there are no arguments, with exit code 2.
func NoArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return Usagef("unexpected argument %q: see \"%s --help\"", args[0], cmd.CommandPath())
	}
	return nil
}
