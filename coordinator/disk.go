// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"fmt"
	"math"
	"time"

	"github.com/concordtx/concord/coordinator/commit"
	"github.com/concordtx/concord/coordinator/peer"
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/wal"
)

// slowDisk is how long a sync of the log may take before the status warns of it: as
// long as a leader waits for it.
const slowDisk = time.Second

// resignInterval is how often a node with a full disk says that it should not lead: more
// often than the log forgets it (zab.Config.InitTicks).
const resignInterval = 2 * time.Second

// Disk is how a node's store is doing.
type Disk struct {
	wal.Space
	wal.Latency
}

// disk asks the store.
func (n *Node) disk() Disk { return Disk{Space: n.store.Space(), Latency: n.store.Latency()} }

// warnings says in words what an operator should look at.
func (d Disk) warnings(node zab.NodeID) (texts []string) {
	if d.Low {
		texts = append(texts, fmt.Sprintf("node %d: the disk is nearly full (%.0f MiB free): while it leads, new "+
			"transactions are refused; free or add space", node, float64(d.Free)/(1<<20)))
	}
	if d.Slowest >= slowDisk {
		texts = append(texts, fmt.Sprintf("node %d: a sync of its log took %v within the last minute: check its "+
			"disk, and what else uses it", node, d.Slowest.Round(100*time.Millisecond)))
	}
	return texts
}

// watchDisk tells the core when the disk got full, and when it has space again.
func (l *loop) watchDisk(now time.Time) {
	l.stepAside(now)
	space := l.store.Space()
	if space.Low == l.diskFull {
		return
	}
	l.diskFull = space.Low
	e := commit.DiskChanged{Full: space.Low}
	if space.Low {
		e.Why = fmt.Sprintf("the disk of node %d, the leader, is nearly full (%v): it accepts no new transactions "+
			"until space is freed or added; ask again later", l.config.Node, space)
	}
	l.events = append(l.events, e)
}

// stepAside leaves it to others to lead while this disk is full and another voter has
// space. It says so only as long as both are part of one reign: then that voter has all
// there is, and could lead. If it then cannot, this node stands again after a while.
func (l *loop) stepAside(now time.Time) {
	if !l.diskFull || !l.core.Role().Established || now.Sub(l.resigned) < resignInterval {
		return
	}
	for _, m := range l.core.Known().Members {
		r, ok := l.reports[m.ID]
		if ok && !m.Observer && r.Established && now.Sub(r.at) < 3*reportInterval && !r.Disk.Low {
			l.resigned = now
			l.events = append(l.events, replica.Peer{Event: zab.Resigned{Reason: "its disk is nearly full, and " +
				"others have space"}})
			return
		}
	}
}

func (d Disk) report() peer.Disk {
	ms := min(d.Slowest.Milliseconds(), math.MaxUint32)
	return peer.Disk{Free: d.Free, Low: d.Low, Slowest: time.Duration(ms) * time.Millisecond}
}

// diskOf is the inverse of Disk.report.
func diskOf(r peer.Disk) Disk {
	return Disk{Space: wal.Space{Free: r.Free, Low: r.Low}, Latency: wal.Latency{Slowest: r.Slowest}}
}

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
