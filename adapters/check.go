// SPDX-License-Identifier: Apache-2.0

package adapters

import "context"

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
}

// OK reports whether no finding is a problem.
func (r Report) OK() bool {
	for _, f := range r.Findings {
		if f.Problem {
			return false
		}
	}
	return true
}

// Finding is one thing that a preflight looked at.
type Finding struct {
	What    string // e.g. "max_prepared_transactions"
	Detail  string // e.g. "0: prepared transactions are disabled"
	Problem bool   // false: fine, or only worth knowing
	Fix     string // the next step, e.g. "set max_prepared_transactions = 100 and restart"
}
