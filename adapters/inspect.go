// SPDX-License-Identifier: Apache-2.0

package adapters

import (
	"context"
	"time"

	"github.com/concordtx/concord/txn"
)

// Inspector is a Resource that can be asked what its database itself knows of one branch. Inspect
// changes nothing.
type Inspector interface {
	Inspect(ctx context.Context, x txn.XID) (Inspection, error)
}

// Inspection is what a database knows of one branch.
type Inspection struct {
	Prepared  bool
	Committed bool // it has the evidence
	// of a prepared branch: all that its transaction has, itself included; nil if it does not say
	Siblings []txn.BranchNo
	Blocked  []Blocked // by a prepared branch, as far as the database tells; at most MaxBlocked
}

// MaxBlocked is how many sessions an Inspection names at most.
const MaxBlocked = 20

// Blocked is a session of a database that waits for a lock of a branch. It is told of for people.
type Blocked struct {
	Session   string        // as its database names it
	For       time.Duration // it has waited; 0 if the database does not say
	Statement string        // shortened
}
