// SPDX-License-Identifier: Apache-2.0

package commit

import (
	"fmt"
	"slices"
	"strings"

	"github.com/concordtx/concord/txn"
)

// Census is what all databases said at one time of the branches of one transaction.
type Census struct {
	Prepared []txn.Branch // number and resource
	// Siblings are the numbers of all branches of the transaction, as each of Saying has it in
	// its own database.
	Siblings [][]txn.BranchNo
	Saying   []txn.Branch
	// Committed are branches that are not prepared, and of which a database has evidence.
	Committed []txn.Branch
	Unlisted  error // some resource could not be asked
}

// Missing returns the numbers that are said to exist and are not prepared.
func (c *Census) Missing() (missing []txn.BranchNo) {
	for _, said := range c.Siblings {
		for _, no := range said {
			if !has(c.Prepared, no) && !slices.Contains(missing, no) {
				missing = append(missing, no)
			}
		}
	}
	return missing
}

// HasCommitted reports whether a branch that is not prepared is known to be committed.
func (c *Census) HasCommitted(no txn.BranchNo) bool { return has(c.Committed, no) }

func has(branches []txn.Branch, no txn.BranchNo) bool {
	return slices.ContainsFunc(branches, func(b txn.Branch) bool { return b.No == no })
}

// Partial returns why the branches that there are are not all that the transaction has, or nil: they
// are, or nobody says.
func (c *Census) Partial(id txn.ID) error {
	for i, said := range c.Siblings {
		if i > 0 && !slices.Equal(said, c.Siblings[0]) {
			return txn.Refusedf("branch %d of %v at %s says that the branches are %s, but branch %d at %s says "+
				"%s: look into both databases, and abort",
				c.Saying[0].No, id, c.Saying[0].Resource, numbers(c.Siblings[0]), c.Saying[i].No, c.Saying[i].Resource,
				numbers(said))
		}
	}
	for _, no := range c.Missing() {
		if !has(c.Committed, no) {
			return txn.Refusedf("%v has the branches %s, as branch %d at %s says, but branch %d is neither "+
				"prepared nor committed anywhere: its client died before it was prepared, or somebody rolled it "+
				"back, so a commit would be half of one: abort",
				id, numbers(c.Siblings[0]), c.Saying[0].No, c.Saying[0].Resource, no)
		}
	}
	return nil
}

// Whole tells, for people, whether every branch is there; empty if none is prepared.
func (c *Census) Whole(id txn.ID) string {
	partial := c.Partial(id)
	switch {
	case c.Unlisted != nil:
		return fmt.Sprintf("not known: %v", c.Unlisted)
	case len(c.Prepared) == 0:
		return ""
	case partial != nil:
		return "no: " + partial.Error()
	case len(c.Siblings) == 0:
		return "not known: none of those that are prepared says how many there are"
	case len(c.Committed) > 0:
		return fmt.Sprintf("yes, all %d, of which %d are committed already", len(c.Prepared)+len(c.Committed),
			len(c.Committed))
	}
	return fmt.Sprintf("yes, all %d are prepared", len(c.Prepared))
}

func numbers(nos []txn.BranchNo) string {
	texts := make([]string, len(nos))
	for i, no := range nos {
		texts[i] = fmt.Sprint(no)
	}
	return strings.Join(texts, ", ")
}
