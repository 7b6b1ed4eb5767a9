// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"fmt"

	"github.com/concordtx/concord/api"
	"github.com/concordtx/concord/protocol/zab"
)

// RequestError is the answer to a request that was not carried out: a text for people
// and one of the sentinels of package api for programs. With api.ErrUnavailable or
// *api.NotLeaderError the request may have an effect all the same; asking again with
// the same gid is safe.
type RequestError struct {
	Kind error  // one of the sentinels of package api
	Text string // for people
}

func (e *RequestError) Error() string { return e.Text }
func (e *RequestError) Unwrap() error { return e.Kind }

// ErrBusy is the answer to a request for which there is no room.
var ErrBusy = &RequestError{Kind: api.ErrBusy, Text: "the node is busy: ask again in a moment"}

// Refusedf is the answer to a request that is not carried out, and why.
func Refusedf(format string, args ...any) error {
	return &RequestError{Kind: api.ErrRefused, Text: fmt.Sprintf(format, args...)}
}

// notLeader names the leader, as far as this node knows it.
func (c *Core) notLeader(leader zab.NodeID) error {
	e := &api.NotLeaderError{}
	if m, ok := c.list.Find(leader); ok && leader != c.config.Node {
		e.Leader, e.API = uint64(leader), m.API
	}
	return e
}

// Unavailablef is the answer of a node that cannot carry out a request now.
func Unavailablef(format string, args ...any) error {
	return &RequestError{Kind: api.ErrUnavailable, Text: fmt.Sprintf(format, args...)}
}
