// SPDX-License-Identifier: Apache-2.0

package commit

import (
	"github.com/concordtx/concord/protocol"
	"github.com/concordtx/concord/protocol/twopc"
	"github.com/concordtx/concord/txn"
)

// The class in a gid says by which protocol its transaction is decided. What the machine knows of
// protocols is all here; what it has in hand is a protocol.Transaction.

// switchedOn reports whether this version decides transactions of a class.
func switchedOn(c txn.Class) bool { return c == txn.Plain || c == txn.Recorded }

// newTransaction returns the core of a transaction of which nothing is known yet. Every class that
// is switched on is decided in two phases, and so is the abort of whatever else somebody left.
func newTransaction(txn.ID) protocol.Transaction {
	return &twopc.Coordinator{}
}

// resumeTransaction returns the core of a transaction that is committed, and has these branches
// finished.
func resumeTransaction(x txn.Txn, finished []txn.BranchNo) protocol.Transaction {
	return twopc.Resume(x.Branches, finished...)
}
