// SPDX-License-Identifier: Apache-2.0

package adapters

import (
	"context"
	"fmt"
)

// Checker tells whether a database is fit to take part.
type Checker interface {
	// Check tells whether the database is fit to take part. An error means that it could
	// not be asked; what is wrong with it is in the report.
	Check(ctx context.Context) (Report, error)
}

// Report is the preflight of one resource.
type Report struct {
	Version  string
	Findings []Finding
	// NotBranch says why branches cannot be prepared there, and NotLast why it cannot be the last resource of a
	// transaction; empty: they can, and it can.
	NotBranch, NotLast string
}

// OK reports whether the database can take part in transactions.
func (r Report) OK() bool { return r.Unfit() == "" }

// Unfit says why it cannot: a finding is a problem, or it can be nothing.
func (r Report) Unfit() string {
	for _, f := range r.Findings {
		if f.Problem {
			return fmt.Sprintf("%s: %s: %s", f.What, f.Detail, f.Fix)
		}
	}
	if r.NotBranch != "" && r.NotLast != "" {
		return fmt.Sprintf("branches cannot be prepared there (%s), and it cannot be a last resource (%s): put one of "+
			"the two right", r.NotBranch, r.NotLast)
	}
	return ""
}

// Finding is one thing that a preflight looked at.
type Finding struct {
	What    string // e.g. "max_prepared_transactions"
	Detail  string // e.g. "0: prepared transactions are disabled"
	Problem bool   // false: fine, or only worth knowing
	Fix     string // the next step, e.g. "set max_prepared_transactions = 100 and restart"
}
