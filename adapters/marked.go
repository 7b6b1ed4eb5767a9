// SPDX-License-Identifier: Apache-2.0

package adapters

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

// ErrBehind says that a database has less than the cluster remembers of it: it was set back. Nothing was
// done there.
var ErrBehind = errors.New("the database is behind what the log remembers of it: it was restored from a backup, or " +
	"replaced by a copy that lacked something; see \"concord resource ls\"")

// ErrCopy says that a server is behind and takes no writes: it is a copy that may yet catch up, and
// proves nothing.
var ErrCopy = errors.New("the server accepts no writes and is behind what the log remembers of the database: point " +
	"the resource at the primary")

// Marked is a Resource whose database keeps a high-water row for each cluster, in or beside the evidence. What
// has no room for one keeps none, and is never behind.
type Marked interface {
	// Expect says what the database has at least from now on; zero: nothing is known. Commit and Rollback
	// compare, on the connection that they use, and if the database is behind they do nothing and return an
	// error that wraps ErrBehind, or ErrCopy.
	Expect(c txn.ClusterID, least zab.Zxid)
	// HighWater returns the row; zero if there is none. It compares with what is expected, too: beside an
	// error that wraps ErrBehind it returns the row.
	HighWater(ctx context.Context, c txn.ClusterID) (txn.HighWater, error)
	// Raise removes evidence, as Forget does, and in the same transaction raises the row from what the log
	// remembers. When it returns the row is durable. It returns the row as it is then: a later one stays.
	Raise(ctx context.Context, c txn.ClusterID, to txn.HighWater, spent []txn.XID) (txn.HighWater, error)
}

// Expectation is what the database of a resource has at least. Its zero value expects nothing.
type Expectation struct{ now atomic.Pointer[Expected] }

// Expect is that of Marked.
func (e *Expectation) Expect(c txn.ClusterID, least zab.Zxid) { e.now.Store(&Expected{c, least}) }

// Now returns what is expected. Whoever compares asks before it reads the row, which may be raised meanwhile.
func (e *Expectation) Now() Expected {
	if now := e.now.Load(); now != nil {
		return *now
	}
	return Expected{}
}

// Expected is the least row of one cluster; zero: nothing is known.
type Expected struct {
	Cluster txn.ClusterID
	Least   zab.Zxid
}

// IsZero reports whether there is nothing to compare with.
func (e Expected) IsZero() bool { return e.Least == zab.Zxid{} }

// Behind reports whether a row of a cluster is less than it has to be.
func (e Expected) Behind(c txn.ClusterID, has txn.HighWater) bool {
	return e.Cluster == c && has.At.Less(e.Least)
}
