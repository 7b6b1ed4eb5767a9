// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"fmt"
	"math"
	"strconv"

	"github.com/concordtx/concord/txn"
)

// Validate implements adapters.Resource. A number that no server gives out would make each
// question about the branch fail, for ever.
func (r *Resource) Validate(b txn.Branch) error {
	if b.Evidence != "" {
		if err := validEvidence(b.Evidence); err != nil {
			return fmt.Errorf("evidence: %w", err)
		}
	}
	if b.Holder != "" {
		if h, err := parseHolder(b.Holder); err != nil || h.pid > math.MaxInt32 {
			return fmt.Errorf("holder: %w", errEvidence)
		}
	}
	return nil
}

func validEvidence(s string) error {
	e, err := parseEvidence(s)
	if err != nil {
		return err
	}
	for _, n := range []struct {
		text string
		bits int
	}{{e.number, 64}, {e.system, 64}, {e.database, 32}} {
		v, err := strconv.ParseUint(n.text, 10, n.bits)
		if err != nil || strconv.FormatUint(v, 10) != n.text {
			return errEvidence
		}
	}
	return nil
}
