// SPDX-License-Identifier: Apache-2.0

package api

import (
	"fmt"

	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/txn"
)

// ParseLastResource validates the name of a last resource; it may be empty.
func ParseLastResource(field, name string) (string, error) {
	return name, ParseText(field, name, txn.MaxResourceName)
}

// ParseDecided validates what a FinishedRequest says of last resources.
func ParseDecided(r *concordv1.FinishedRequest) ([]txn.LastDecision, error) {
	if n := len(r.GetDecided()); n > MaxDecided {
		return nil, invalid("decided", "holds %d transactions, at most %d are allowed", n, MaxDecided)
	}
	decided := make([]txn.LastDecision, 0, len(r.GetDecided()))
	for i, m := range r.GetDecided() {
		at := fmt.Sprintf("decided[%d]", i)
		id, err := ParseID(at+".gid", m.GetGid())
		if err != nil {
			return nil, err
		}
		if m.GetLastResource() == "" || !id.FitsLast(m.GetLastResource()) || id.Class() != txn.LastResource {
			return nil, invalid(at+".last_resource", "%.64q is not that of %v, as its gid says: name the resource "+
				"that it was begun with", m.GetLastResource(), id)
		}
		if err := ParseText(at+".label", m.GetLabel(), txn.MaxLabel); err != nil {
			return nil, err
		}
		branches, err := ParseBranches(at+".branches", m.GetBranches())
		if err != nil {
			return nil, err
		}
		decided = append(decided, txn.LastDecision{ID: id, Last: m.GetLastResource(),
			LastMarker: txn.LastMarker{Decision: txn.Commit, Label: m.GetLabel(), Branches: branches}})
	}
	return decided, nil
}

// DecidedMessages is the inverse of ParseDecided.
func DecidedMessages(decided []txn.LastDecision) []*concordv1.LastDecision {
	messages := make([]*concordv1.LastDecision, 0, len(decided))
	for _, d := range decided {
		messages = append(messages, &concordv1.LastDecision{Gid: d.ID.String(), LastResource: d.Last, Label: d.Label,
			Branches: BranchMessages(d.Branches)})
	}
	return messages
}
