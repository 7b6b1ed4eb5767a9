// SPDX-License-Identifier: Apache-2.0

package member

import (
	"fmt"

	"github.com/concordtx/concord/txn"
)

// Caller is who brings messages; *access.Caller is one.
type Caller interface {
	Subject() string
	IsNode() bool
	IsAgent(name string) bool
}

// From returns an error unless envelopes come from whoever brings them: an agent speaks for itself,
// and nodes for the cluster.
func From(c Caller, envelopes []Envelope) error {
	for i, e := range envelopes {
		may := c.IsAgent(e.From.Agent)
		if e.From.IsWitness() {
			may = c.IsNode()
		}
		if !may {
			return fmt.Errorf("%w: messages[%d]: %q speaks for %v: an agent's name is that of its certificate",
				txn.ErrDenied, i, c.Subject(), e.From.PartyID)
		}
	}
	return nil
}
