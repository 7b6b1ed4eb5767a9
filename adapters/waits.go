// SPDX-License-Identifier: Apache-2.0

package adapters

import (
	"context"
	"time"

	"github.com/concordtx/concord/txn"
)

// WaitLister is a Resource whose database tells which of its sessions wait for which: only by that are
// deadlocks found that go through several databases.
type WaitLister interface {
	// Waits lists who has waited for a lock for longer than so long, and for whom: those who wait
	// longest first, at most MaxWaits.
	Waits(ctx context.Context, longer time.Duration) ([]Wait, error)
}

// MaxWaits is how many waits are listed at most.
const MaxWaits = 1000

// Wait says that a session waits for a lock which another session, or a prepared branch, has or gets first.
type Wait struct {
	Session string // that waits; its name is that of Waiting.SessionName
	For     string // the session that it waits for; empty: Branch
	Branch  txn.XID
	Since   time.Time // when the wait began, by the database's clock; it tells one wait from the next
}

// Waiting is a Session that can tell whether its application waits for the database.
type Waiting interface {
	// Asked reports whether the database has been asked for something and has not answered yet, and returns a
	// number that is another one each time. It asks nobody, and does not wait.
	Asked() (number uint64, waits bool)
	// SessionName names the session at its database: no other one has ever the same name. It is empty if nobody
	// can tell. It does not change.
	SessionName() string
}
