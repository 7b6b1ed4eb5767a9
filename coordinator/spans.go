// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"context"
	"errors"
	"strconv"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/coordinator/commit"
	"github.com/concordtx/concord/internal/spans"
	"github.com/concordtx/concord/txn"
)

// beginFinish begins the span of an attempt to finish a branch.
func (w *worker) beginFinish(t commit.Task) *spans.Span {
	name := "concord.commit"
	if t.Decision == txn.Abort {
		name = "concord.rollback"
	}
	span := w.begin(t.Trace, name, t.XID.ID)
	span.Say("concord.branch", strconv.Itoa(int(t.XID.Branch)))
	return span
}

// begin begins the span of a call to the resource, in a trace of its own: the transaction has had its answer long ago.
func (w *worker) begin(traceparent, name string, id txn.ID) *spans.Span {
	s := w.spans.After(traceparent, name, spans.Client)
	if s == nil {
		return nil
	}
	s.Say("concord.gid", id.String())
	s.Say("concord.resource", w.resource.Name())
	s.Say("db.system.name", systems[w.resource.Driver()])
	return s
}

// systems are the names of databases in the semantic conventions of OpenTelemetry.
var systems = map[string]string{"postgres": "postgresql", "mysql": "mysql"}

// failure is one of few words for what went wrong. An error's own text may hold what a span must not.
func failure(err error) string {
	for _, kind := range []struct {
		of   error
		word string
	}{{context.DeadlineExceeded, "timeout"}, {context.Canceled, "canceled"}, {txn.ErrRefused, "refused"},
		{txn.ErrDecided, "decided"}, {txn.ErrNotFound, "not_found"}, {txn.ErrTooOld, "too_old"},
		{txn.ErrInvalid, "invalid"}, {txn.ErrBusy, "busy"}, {txn.ErrUnavailable, "unavailable"},
		{adapters.ErrBehind, "behind"}, {err, "_OTHER"}} {
		if err != nil && errors.Is(err, kind.of) {
			return kind.word
		}
	}
	return ""
}

// decided ends the span of a request to commit, unless another node has to answer that.
func (n *Node) decided(span *spans.Span, id txn.ID, r commit.Reply, err error) {
	if other := (*txn.NotLeaderError)(nil); span == nil || errors.As(err, &other) {
		return
	}
	span.Say("concord.gid", id.String())
	span.Say("concord.node", strconv.FormatUint(uint64(n.config.Node), 10))
	if err == nil {
		span.Say("concord.decision", r.Txn.Decision.String())
	}
	span.End(failure(err))
}
