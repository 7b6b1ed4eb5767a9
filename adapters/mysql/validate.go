// SPDX-License-Identifier: Apache-2.0

package mysql

import (
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/concordtx/concord/txn"
)

var errNotOurs = errors.New("it is not in a form that this version writes: run the newest version of concord on all nodes")

// Validate implements adapters.Resource. It knows the form of a holder, not whether that
// session ever held the branch: who ends a session looks for himself.
func (r *Resource) Validate(b txn.Branch) error {
	if b.Evidence != "" && b.Evidence != markerEvidence {
		return fmt.Errorf("evidence: %w", errNotOurs)
	}
	if b.Holder == "" {
		return nil
	}
	h, ok := parseHolder(b.Holder)
	if _, err := hex.DecodeString(h.server); !ok || err != nil || h.connection == 0 || h.start <= 0 {
		return fmt.Errorf("holder: %w", errNotOurs)
	}
	return nil
}
