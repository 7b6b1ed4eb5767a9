// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"fmt"

	"github.com/concordtx/concord/api"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

// requestError is the answer to a request that was not carried out: a text for people
// and one of the sentinels of package api for programs. With api.ErrUnavailable or
// *api.NotLeaderError the request may have an effect all the same; asking again with
// the same gid is safe.
type requestError struct {
	kind error
	text string
}

func (e *requestError) Error() string { return e.text }
func (e *requestError) Unwrap() error { return e.kind }

var (
	errBusy   = &requestError{api.ErrBusy, "the node is busy: ask again in a moment"}
	errClosed = &requestError{api.ErrUnavailable, "the node is shutting down: ask another one"}
)

func refusedf(format string, args ...any) error {
	return &requestError{api.ErrRefused, fmt.Sprintf(format, args...)}
}

func decided(x txn.Txn) error {
	return &requestError{api.ErrDecided, fmt.Sprintf("the decision of %v stands: %v, at zxid %v; see \"concord tx get\"", x.ID, x.Decision, x.Decided)}
}

func notFound(id txn.ID) error {
	return &requestError{api.ErrNotFound, fmt.Sprintf("transaction %v is not known: no decision, and no resource lists a prepared branch of it; compare the gid with \"concord tx ls\"", id)}
}

func tooOld(id txn.ID) error {
	return &requestError{api.ErrTooOld, fmt.Sprintf("transaction %v is older than what the cluster remembers: look into the databases", id)}
}

// notLeader names the leader, as far as this node knows it.
func (c *Core) notLeader(leader zab.NodeID) error {
	e := &api.NotLeaderError{}
	if m, ok := c.list.Find(leader); ok && leader != c.config.Node {
		e.Leader, e.API = uint64(leader), m.API
	}
	return e
}

func unavailablef(format string, args ...any) error {
	return &requestError{api.ErrUnavailable, fmt.Sprintf(format, args...)}
}
