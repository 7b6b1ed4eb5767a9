// SPDX-License-Identifier: Apache-2.0

package api

import "github.com/concordtx/concord/txn"

// ParseKey validates an idempotency key, which must not be empty.
func ParseKey(field, key string) error {
	if key == "" {
		return invalid(field, "is empty, want an idempotency key, such as the number of an order")
	}
	return ParseText(field, key, txn.MaxKey)
}

// fitsKey validates what a commit request has beside its transaction.
func fitsKey(c txn.CommitRequest) error {
	switch {
	case c.Key == "" && len(c.Result) > 0:
		return invalid("result", "is not empty, but key is: a result is kept only with a key")
	case len(c.Result) > txn.MaxResult:
		return invalid("result", "has %d bytes, at most %d are allowed", len(c.Result), txn.MaxResult)
	case c.Key == "":
		return nil
	case c.ID.Class() != txn.Recorded:
		return invalid("key", "is only for transactions that the cluster alone decides, in every case: mint a gid "+
			"of class R")
	}
	return ParseKey("key", c.Key)
}
