// SPDX-License-Identifier: Apache-2.0

package commit

import "github.com/concordtx/concord/txn"

// Decided counts decisions.
type Decided struct{ Commit, Abort uint64 }

func (d *Decided) count(v txn.Decision) {
	if v == txn.Commit {
		d.Commit++
	} else {
		d.Abort++
	}
}
