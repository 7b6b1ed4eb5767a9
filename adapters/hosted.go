// SPDX-License-Identifier: Apache-2.0

package adapters

import "github.com/concordtx/concord/txn"

// Hosted is a Resource whose branches an agent holds. Only those can be in three-phase transactions.
type Hosted interface {
	// Hosted is where the agent is found, host:port.
	Hosted() string
}

// Claiming is a Session whose branch an agent holds. Where it is in a three-phase transaction the
// cluster asks the agent for its vote, and nobody calls Prepare.
type Claiming interface {
	// Claim ends the work, and returns who holds the branch, in which epoch of that agent it was
	// opened, and what the application knows of the work in it. The number of the claim is zero if
	// nothing was ever done there. The error says why the branch cannot commit.
	Claim() (holder txn.Party, epoch uint64, claim txn.Claim, err error)
}
