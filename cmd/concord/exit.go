// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/concordtx/concord/api"
	"github.com/concordtx/concord/coordinator"
	"github.com/concordtx/concord/coordinator/peer"
)

// The exit codes, a contract with scripts.
const (
	exitFailed      = 1
	exitUsage       = 2 // usage, or confirmation needed
	exitNotFound    = 3
	exitUnavailable = 4 // no leader, timeout
	exitRefused     = 5 // already decided
	exitInDoubt     = 6 // outcome unknown, or in-doubt transactions remain
)

// exitError carries its own exit code. With an empty text nothing is printed: the
// output has said it all.
type exitError struct {
	code int
	text string
}

func (e *exitError) Error() string { return e.text }

func usagef(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Sprintf(format, args...)}
}

func exitCode(err error) int {
	var own *exitError
	var notLeader *api.NotLeaderError
	switch {
	case errors.As(err, &own):
		return own.code
	case errors.Is(err, api.ErrInvalid), errors.Is(err, coordinator.ErrNewerStore),
		errors.Is(err, coordinator.ErrMembers), errors.Is(err, peer.ErrRemoved):
		return exitUsage
	case errors.Is(err, api.ErrNotFound):
		return exitNotFound
	case errors.Is(err, api.ErrDecided), errors.Is(err, api.ErrRefused):
		return exitRefused
	case errors.Is(err, api.ErrTooOld):
		return exitInDoubt
	case errors.Is(err, api.ErrUnavailable), errors.Is(err, api.ErrBusy), errors.As(err, &notLeader),
		errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return exitUnavailable
	}
	return exitFailed
}
