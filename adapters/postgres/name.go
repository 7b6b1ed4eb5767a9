// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"encoding/hex"
	"slices"

	"github.com/concordtx/concord/txn"
)

// The name under which a branch is prepared is that of its XID, and behind it, if it is known, the
// numbers of all branches of its transaction, two hex digits each: what a prepared transaction has written
// nobody can read, but its name everybody can. concord-<cluster>-<gid>-01-0001 is the second of two.

// maxName is the longest name that PostgreSQL takes, in bytes.
const maxName = 199

// nameOf is the name of a branch. It names no siblings if those are too many.
func nameOf(x txn.XID, siblings []txn.BranchNo) string {
	name := x.String()
	if len(siblings) == 0 || len(name)+1+2*len(siblings) > maxName {
		return name
	}
	numbers := make([]byte, len(siblings))
	for i, no := range siblings {
		numbers[i] = byte(no)
	}
	return name + "-" + hex.EncodeToString(numbers)
}

// parseName is the inverse of nameOf. What it does not accept is nobody's or somebody else's.
func parseName(name string) (txn.XID, []txn.BranchNo, bool) {
	end := len(txn.XID{}.String())
	if len(name) <= end {
		x, ours := txn.ParseXID(name)
		return x, nil, ours
	}
	x, ours := txn.ParseXID(name[:end])
	numbers, err := hex.DecodeString(name[end+1:])
	if !ours || err != nil {
		return txn.XID{}, nil, false
	}
	siblings := make([]txn.BranchNo, len(numbers))
	for i, no := range numbers {
		siblings[i] = txn.BranchNo(no)
		if i > 0 && siblings[i] <= siblings[i-1] {
			return txn.XID{}, nil, false
		}
	}
	if nameOf(x, siblings) != name || !slices.Contains(siblings, x.Branch) { // e.g. upper-case hex
		return txn.XID{}, nil, false
	}
	return x, siblings, true
}
