// SPDX-License-Identifier: Apache-2.0

package commit

import "time"

// Rules are the numbers of a cluster, equal on all nodes by good custom: nothing
// that is safe or unsafe depends on them.
type Rules struct {
	// MaxTransaction is how long a transaction may take from its birth to its decision
	// before its prepared branches count as orphans. Default 60 s.
	MaxTransaction time.Duration
	// Grace is how long the client may take to finish the branches of a committed
	// transaction before the cluster does it. Default 5 s.
	Grace time.Duration
	// Scan is the interval at which the leader asks each resource what is prepared.
	// Default 5 s.
	Scan time.Duration
	// Retention is how long finished transactions are remembered. Default 7 days.
	Retention time.Duration
	// Lease is how long a client that has transactions may be silent before it counts as dead.
	// Default 5 s.
	Lease time.Duration
}

// WithDefaults returns the rules with what is not set as it is by default.
func (r Rules) WithDefaults() Rules {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&r.MaxTransaction, time.Minute)
	def(&r.Grace, 5*time.Second)
	def(&r.Scan, 5*time.Second)
	def(&r.Retention, 7*24*time.Hour)
	def(&r.Lease, 5*time.Second)
	return r
}

// watermarkStep is how far the watermark moves at a time, so that an hour is forgotten with
// one record, and little more than the retention is remembered.
func (r Rules) watermarkStep() time.Duration { return min(time.Hour, r.Retention/8) }
