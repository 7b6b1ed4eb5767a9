// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/protocol/zab"
)

// compact offers the log to be cut when it is too long. Half of what it may have stays
// for followers that were away for a short time. Those in a session are waited for until
// the log has four times what it may have.
func (l *loop) compact() {
	c := l.config
	if entries, bytes := l.store.LogSize(); entries > c.MaxLogEntries || bytes > c.MaxLogBytes {
		l.events = append(l.events, replica.Peer{Event: zab.Compact{
			Upto: l.store.CutPoint(c.MaxLogEntries/2, c.MaxLogBytes/2),
			Must: l.store.CutPoint(4*c.MaxLogEntries, 4*c.MaxLogBytes),
		}})
	}
}

// LogState is how long the log of this node is.
type LogState struct {
	Base           zab.Zxid // the log was cut here
	Entries, Bytes uint64   // bytes: about
}

func (l *loop) logState() LogState {
	s := LogState{Base: l.core.Log().Base}
	s.Entries, s.Bytes = l.store.LogSize()
	return s
}
