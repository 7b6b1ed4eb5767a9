// SPDX-License-Identifier: Apache-2.0

package adapters

import (
	"context"
	"log/slog"

	"github.com/concordtx/concord/txn"
)

// Opener opens branches, and ends those whose session is gone: what a global transaction needs of a
// resource.
type Opener interface {
	Database
	Finisher
	// Open begins a branch on a session of its own.
	Open(ctx context.Context, x txn.XID) (Session, error)
	// Transient reports whether what failed with err may well succeed when its whole transaction
	// is done again: it could not be serialized, was the victim of a deadlock, or waited for a
	// lock in vain. It asks nobody.
	Transient(err error) bool
}

// Logging is an Opener whose driver has something to say that no error tells. It goes to l from now on, which is the
// logger of the client that uses the resource, unless the application has chosen where it goes.
type Logging interface{ LogTo(l *slog.Logger) }

// Adapter is both halves in one, as concord's own adapters are.
type Adapter interface {
	Resource
	Opener
}

// Global is a global transaction as an adapter sees it: concord.Tx of the SDK.
type Global interface {
	// Enlist returns the open branch of this resource, opening it at first use: within one
	// global transaction a resource has one branch, so that its work sees itself.
	Enlist(ctx context.Context, r Opener) (Session, error)
}
