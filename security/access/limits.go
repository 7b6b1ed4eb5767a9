// SPDX-License-Identifier: Apache-2.0

package access

import (
	"cmp"
	"time"
)

// Limits bound what callers may take of a process. A field that is zero has its default.
type Limits struct {
	// Connections may be open, and fewer where the process has not got so many descriptors: spare
	// ones are for the log, databases and other nodes. One more takes the place of the oldest on
	// which nothing useful came; if there is none, it is closed itself.
	Connections int
	// PerSubject of them may belong to one subject.
	PerSubject int
	// Body bounds the body of a request, and a handshake before it. Streams go on as long as they like.
	Body time.Duration
	// Write bounds each piece of an answer: who reads nothing is not waited for.
	Write time.Duration
	// Memory is how many bytes of requests may be held at a time, and StreamMemory how many of them by one stream.
	Memory, StreamMemory int64
	// Watches may be open, Leases of one subject last, and Transactions of one subject, which the node drives, be open.
	Watches, Leases, Transactions int
}

// DefaultLimits are those of a node that is told nothing else.
var DefaultLimits = Limits{Connections: 1024, PerSubject: 256, Body: 10 * time.Second, Write: 30 * time.Second,
	Memory: 64 << 20, StreamMemory: 8 << 20, Watches: 100, Leases: 1000, Transactions: 256}

func (l Limits) withDefaults() Limits {
	d := DefaultLimits
	return Limits{Connections: cmp.Or(l.Connections, d.Connections), PerSubject: cmp.Or(l.PerSubject, d.PerSubject),
		Body: cmp.Or(l.Body, d.Body), Write: cmp.Or(l.Write, d.Write), Memory: cmp.Or(l.Memory, d.Memory),
		StreamMemory: cmp.Or(l.StreamMemory, d.StreamMemory), Watches: cmp.Or(l.Watches, d.Watches),
		Leases: cmp.Or(l.Leases, d.Leases), Transactions: cmp.Or(l.Transactions, d.Transactions)}
}
