// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/protocol/zab"
)

// play is a hand-made history: three voters and one observer whose disks, roles and
// messages the test writes itself.
type play struct{ *Checker }

func newPlay() play {
	members := []zab.Member{{ID: 1}, {ID: 2}, {ID: 3}, {ID: 4, Observer: true}}
	var disks []*Disk
	for range members {
		disks = append(disks, newDisk(Sound))
	}
	return play{newChecker(members, disks)}
}

func zx(epoch zab.Epoch, counter uint64) zab.Zxid { return zab.Zxid{Epoch: epoch, Counter: counter} }

// entry is the entry z after prev with data that says so.
func entry(z, prev zab.Zxid) zab.Entry {
	return zab.Entry{Zxid: z, Prev: prev, Data: []byte(z.String())}
}

func (p play) node(id int) *Ghost { return p.ghosts[id-1] }

// write hands a write over and makes it durable.
func (p play) write(id int, w zab.Write) {
	g := p.node(id)
	p.handed(g, w)
	g.Disk.enqueue(w)
	g.Disk.sync(len(g.Disk.queue))
	p.durable(g)
}

func (p play) append(id int, entries ...zab.Entry) { p.write(id, zab.Write{Entries: entries}) }

func (p play) promise(id int, h zab.HardState) { p.write(id, zab.Write{Hard: &h}) }

func (p play) role(id int, role zab.Role, phase zab.Phase, e zab.Epoch, established bool) {
	p.roleChanged(p.node(id), zab.RoleChanged{Role: role, Phase: phase, Epoch: e, Established: established})
}

func (p play) say(from, to int, e zab.Epoch, b zab.Body) {
	p.sent(p.node(from), zab.Message{From: zab.NodeID(from), To: zab.NodeID(to), Epoch: e, Body: b})
}

// elect makes a node the established leader of an epoch with the votes of the others
// named, as it has to be done.
func (p play) elect(leader int, e zab.Epoch, others ...int) {
	for _, id := range append([]int{leader}, others...) {
		p.promise(id, zab.HardState{Accepted: e, AcceptedFrom: zab.NodeID(leader),
			Current: p.node(id).Disk.Hard.Current})
	}
	p.role(leader, zab.Leading, zab.Synchronization, e, false)
	for _, id := range append([]int{leader}, others...) {
		p.promise(id, zab.HardState{Accepted: e, AcceptedFrom: zab.NodeID(leader), Current: e})
		if id != leader {
			p.role(id, zab.Following, zab.Synchronization, e, false)
			p.say(id, leader, e, zab.AckNewLeader{End: Tail(p.node(id).Disk.Log)})
		}
	}
	p.role(leader, zab.Leading, zab.Broadcast, e, true)
}

// stage lays a snapshot of these entries beside the state of a node.
func (p play) stage(id int, entries ...zab.Entry) {
	s := staged{ref: 1, folds: []uint64{foldStart}, log: entries}
	for _, e := range entries {
		s.folds = append(s.folds, fold(s.folds[len(s.folds)-1], e))
	}
	p.node(id).Disk.staged = s
}

// install stages such a snapshot, and makes it the state.
func (p play) install(id int, entries ...zab.Entry) {
	p.stage(id, entries...)
	p.write(id, zab.Write{Install: &zab.Snapshot{Zxid: Tail(entries), Ref: 1}})
}

// commits makes the leader commit up to z.
func (p play) commits(leader int, e zab.Epoch, z zab.Zxid) { p.commit(p.node(leader), e, z) }

// begin is how most plays begin: node 1 leads epoch 1, has proposed 1.1 and 1.2, nodes
// 1 and 2 have both, node 3 has 1.1, and 1.1 is committed.
func begin() play {
	p := newPlay()
	p.elect(1, 1, 2, 3)
	p.append(1, a, b)
	p.append(2, a, b)
	p.append(3, a)
	p.commits(1, 1, a.Zxid)
	return p
}

var (
	a = entry(zx(1, 1), zx(0, 0))
	b = entry(zx(1, 2), zx(1, 1))
)

// TestEachCheckRejectsABadHistoryAndAcceptsItsGoodTwin is the test of the tests. The
// two histories of a row differ only in what the check is about.
func TestEachCheckRejectsABadHistoryAndAcceptsItsGoodTwin(t *testing.T) {
	status := func(applied, commit, stable, last zab.Zxid) zab.Status {
		return zab.Status{Role: zab.Following, Applied: applied, Commit: commit, Stable: stable, Tail: last}
	}
	for _, row := range []struct {
		id, name  string
		bad, good func(p play)
	}{
		{"L1", "a promise is forgotten",
			func(p play) { p.promise(2, zab.HardState{}) },
			func(p play) { p.promise(2, zab.HardState{Accepted: 2, AcceptedFrom: 3, Current: 1}) }},
		{"L1", "Current is above Accepted",
			func(p play) { p.promise(2, zab.HardState{Accepted: 2, AcceptedFrom: 1, Current: 3}) },
			func(p play) { p.promise(2, zab.HardState{Accepted: 2, AcceptedFrom: 1, Current: 2}) }},
		{"L1", "an epoch is promised to two leaders",
			func(p play) { p.promise(2, zab.HardState{Accepted: 1, AcceptedFrom: 3, Current: 1}) },
			func(p play) { p.promise(2, zab.HardState{Accepted: 1, AcceptedFrom: 1, Current: 1}) }},
		{"L2", "a gap is appended",
			func(p play) { p.append(3, entry(zx(1, 3), zx(1, 2))) },
			func(p play) { p.append(3, b) }},
		{"L2", "a disk has a gap",
			func(p play) { p.node(2).Disk.Log = p.node(2).Disk.Log[1:]; p.Compare() },
			func(p play) { p.Compare() }},
		{"L3", "applied is beyond stable",
			func(p play) { p.observed(p.node(2), status(b.Zxid, b.Zxid, a.Zxid, b.Zxid)) },
			func(p play) { p.observed(p.node(2), status(a.Zxid, a.Zxid, b.Zxid, b.Zxid)) }},
		{"L3", "stable is not on disk",
			func(p play) { p.observed(p.node(3), status(a.Zxid, a.Zxid, b.Zxid, b.Zxid)) },
			func(p play) { p.observed(p.node(3), status(a.Zxid, a.Zxid, a.Zxid, a.Zxid)) }},
		{"L3", "an entry is delivered before it is on disk",
			func(p play) { p.commits(1, 1, b.Zxid); p.delivers(p.node(3), []zab.Entry{a, b}) },
			func(p play) { p.commits(1, 1, b.Zxid); p.delivers(p.node(2), []zab.Entry{a, b}) }},
		{"L4", "an acknowledgement for an epoch before the promise",
			func(p play) {
				p.promise(2, zab.HardState{Accepted: 2, AcceptedFrom: 3, Current: 1})
				p.say(2, 1, 1, zab.Ack{Upto: b.Zxid})
			},
			func(p play) { p.say(2, 1, 1, zab.Ack{Upto: b.Zxid}) }},
		{"L5", "Ack before the entry is on disk",
			func(p play) { p.say(3, 1, 1, zab.Ack{Upto: b.Zxid}) },
			func(p play) { p.say(3, 1, 1, zab.Ack{Upto: a.Zxid}) }},
		{"L5", "LeaderInfo before the own promise is on disk",
			func(p play) { p.say(3, 1, 2, zab.LeaderInfo{}) },
			func(p play) {
				p.promise(3, zab.HardState{Accepted: 2, AcceptedFrom: 3, Current: 1})
				p.say(3, 1, 2, zab.LeaderInfo{})
			}},
		{"L5", "AckEpoch before the promise is on disk",
			func(p play) { p.say(2, 3, 2, zab.AckEpoch{Current: 1, Last: b.Zxid, Counted: true}) },
			func(p play) {
				p.promise(2, zab.HardState{Accepted: 2, AcceptedFrom: 3, Current: 1})
				p.say(2, 3, 2, zab.AckEpoch{Current: 1, Last: b.Zxid, Counted: true})
			}},
		{"L5", "AckNewLeader before Current is on disk",
			func(p play) {
				p.promise(2, zab.HardState{Accepted: 2, AcceptedFrom: 3, Current: 1})
				p.say(2, 3, 2, zab.AckNewLeader{End: b.Zxid})
			},
			func(p play) {
				p.promise(2, zab.HardState{Accepted: 2, AcceptedFrom: 3, Current: 2})
				p.say(2, 3, 2, zab.AckNewLeader{End: b.Zxid})
			}},
		{"L5", "Pong for more than is on disk",
			func(p play) { p.say(3, 1, 1, zab.Pong{Stable: b.Zxid}) },
			func(p play) { p.say(3, 1, 1, zab.Pong{Stable: a.Zxid}) }},
		{"L5", "Commit of what is not committed",
			func(p play) { p.say(1, 2, 1, zab.Commit{Upto: b.Zxid}) },
			func(p play) { p.say(1, 2, 1, zab.Commit{Upto: a.Zxid}) }},
		{"L6", "the state that survived is not the fold of the log",
			func(p play) { p.node(2).Disk.apply(b); p.restarted(p.node(2)) },
			func(p play) { p.applyAt(2, a); p.restarted(p.node(2)) }},
		{"S1", "two leaders of one epoch",
			func(p play) { p.role(2, zab.Leading, zab.Synchronization, 1, false) },
			func(p play) { p.role(2, zab.Leading, zab.Synchronization, 2, false) }},
		{"S2", "two payloads for one zxid",
			func(p play) { p.append(3, zab.Entry{Zxid: b.Zxid, Prev: b.Prev, Data: []byte("other")}) },
			func(p play) { p.append(3, b) }},
		{"S2", "an entry that the leader never proposed",
			func(p play) { p.append(2, entry(zx(1, 3), zx(1, 2))) },
			func(p play) { p.append(1, entry(zx(1, 3), zx(1, 2))); p.append(2, entry(zx(1, 3), zx(1, 2))) }},
		{"S3", "one zxid after two predecessors",
			func(p play) {
				p.elect(1, 2, 2)
				p.role(3, zab.Following, zab.Synchronization, 2, false)
				p.append(1, entry(zx(2, 1), zx(1, 2)))
				p.append(3, entry(zx(2, 1), zx(1, 1)))
			},
			func(p play) {
				p.elect(1, 2, 2)
				p.role(3, zab.Following, zab.Synchronization, 2, false)
				p.append(1, entry(zx(2, 1), zx(1, 2)))
				p.append(3, b, entry(zx(2, 1), zx(1, 2)))
			}},
		{"S3", "a follower appends what its leader does not have",
			func(p play) {
				p.role(3, zab.Leading, zab.Synchronization, 2, false)
				p.role(2, zab.Following, zab.Synchronization, 2, false)
				p.append(1, entry(zx(1, 3), zx(1, 2)))
				p.append(2, entry(zx(1, 3), zx(1, 2)))
			},
			func(p play) {
				p.append(1, entry(zx(1, 3), zx(1, 2)))
				p.append(2, entry(zx(1, 3), zx(1, 2)))
			}},
		{"S3", "logs that differ below a common entry",
			func(p play) {
				c := entry(zx(2, 1), zx(1, 2))
				p.node(2).Disk.Log = []zab.Entry{a, b, c}
				p.node(3).Disk.Log = []zab.Entry{a, c}
				p.match(p.node(2), p.node(3))
			},
			func(p play) {
				p.node(3).Disk.Log = []zab.Entry{a, entry(zx(2, 1), zx(1, 1))}
				p.match(p.node(2), p.node(3))
			}},
		{"S4", "an entry that nobody proposed is applied",
			func(p play) { p.delivers(p.node(2), []zab.Entry{{Zxid: a.Zxid, Data: []byte("other")}}) },
			func(p play) { p.delivers(p.node(2), []zab.Entry{a}) }},
		{"S4", "an entry is applied twice",
			func(p play) { p.applyAt(2, a); p.applyAt(2, a) },
			func(p play) { p.applyAt(2, a); p.commits(1, 1, b.Zxid); p.applyAt(2, b) }},
		{"S4", "an old entry that the state holds is applied",
			func(p play) { p.commits(1, 1, b.Zxid); p.applyAt(2, a); p.applyAt(2, b); p.applyAt(2, a) },
			func(p play) { p.commits(1, 1, b.Zxid); p.applyAt(2, a); p.applyAt(2, b) }},
		{"S5", "an uncommitted entry is applied",
			func(p play) { p.delivers(p.node(2), []zab.Entry{a, b}) },
			func(p play) { p.commits(1, 1, b.Zxid); p.delivers(p.node(2), []zab.Entry{a, b}) }},
		{"S5", "a leader commits on a log without what is committed",
			func(p play) { p.node(3).Disk.View = nil; p.commits(3, 1, b.Zxid) },
			func(p play) { p.node(3).Disk.View = []zab.Entry{a, b}; p.commits(3, 1, b.Zxid) }},
		{"S6", "a leader begins without what earlier epochs committed",
			func(p play) { p.commits(1, 1, b.Zxid); p.role(3, zab.Leading, zab.Synchronization, 2, false) },
			func(p play) { p.commits(1, 1, b.Zxid); p.role(2, zab.Leading, zab.Synchronization, 2, false) }},
		{"S6", "an old leader commits what a newer one began without",
			func(p play) { p.role(3, zab.Leading, zab.Synchronization, 2, false); p.commits(1, 1, b.Zxid) },
			func(p play) { p.role(2, zab.Leading, zab.Synchronization, 2, false); p.commits(1, 1, b.Zxid) }},
		{"S7", "Current says more than the log has",
			func(p play) {
				p.commits(1, 1, b.Zxid)
				p.promise(3, zab.HardState{Accepted: 2, AcceptedFrom: 2, Current: 2})
			},
			func(p play) {
				p.commits(1, 1, b.Zxid)
				p.append(3, b)
				p.promise(3, zab.HardState{Accepted: 2, AcceptedFrom: 2, Current: 2})
			}},
		{"S8", "committed without a quorum of disks",
			func(p play) { p.append(1, entry(zx(1, 3), zx(1, 2))); p.commits(1, 1, zx(1, 3)) },
			func(p play) { p.commits(1, 1, b.Zxid) }},
		{"S8", "a disk loses what a quorum needed",
			func(p play) {
				p.commits(1, 1, b.Zxid)
				p.node(2).Disk.Log = p.node(2).Disk.Log[:1]
				p.durable(p.node(2))
			},
			func(p play) {
				p.node(2).Disk.Log = p.node(2).Disk.Log[:1]
				p.durable(p.node(2))
			}},
		{"S9", "a truncation removes a committed entry",
			func(p play) { p.commits(1, 1, b.Zxid); p.write(2, zab.Write{TruncateAfter: &a.Zxid}) },
			func(p play) { p.write(2, zab.Write{TruncateAfter: &a.Zxid}) }},
		{"S9", "a cut goes beyond the applied state",
			func(p play) { p.commits(1, 1, b.Zxid); p.applyAt(2, a); p.write(2, zab.Write{Cut: &b.Zxid}) },
			func(p play) { p.commits(1, 1, b.Zxid); p.applyAt(2, a); p.write(2, zab.Write{Cut: &a.Zxid}) }},
		{"S9", "a snapshot holds what is not committed",
			func(p play) { p.install(3, a, b) },
			func(p play) { p.commits(1, 1, b.Zxid); p.install(3, a, b) }},
		{"S9", "a snapshot holds no more than the log",
			func(p play) { p.install(3, a) },
			func(p play) { p.commits(1, 1, b.Zxid); p.install(3, a, b) }},
		{"S9", "a snapshot that is not the staged one",
			func(p play) {
				p.commits(1, 1, b.Zxid)
				p.stage(3, a, b)
				p.handed(p.node(3), zab.Write{Install: &zab.Snapshot{Zxid: b.Zxid, Ref: 7}})
			},
			func(p play) { p.commits(1, 1, b.Zxid); p.install(3, a, b) }},
		{"L6", "a node begins anew from a snapshot that it does not have",
			func(p play) { p.restoredFrom(p.node(3), zab.Snapshot{Zxid: b.Zxid}) },
			func(p play) {
				p.commits(1, 1, b.Zxid)
				p.install(3, a, b)
				p.restoredFrom(p.node(3), zab.Snapshot{Zxid: b.Zxid})
				p.restarted(p.node(3))
			}},
		{"S10", "a leader counts what the peer never acknowledged",
			func(p play) { p.counts(1, 2, b.Zxid) },
			func(p play) { p.say(2, 1, 1, zab.Ack{Upto: b.Zxid}); p.counts(1, 2, b.Zxid) }},
		{"S10", "a leader counts what the peer's disk does not have",
			func(p play) { p.node(3).acked[1] = b.Zxid; p.counts(1, 3, b.Zxid) },
			func(p play) { p.append(3, b); p.node(3).acked[1] = b.Zxid; p.counts(1, 3, b.Zxid) }},
		{"S10", "an acknowledgement of NewLeader is counted whose epoch is not on disk",
			func(p play) {
				p.promise(1, zab.HardState{Accepted: 2, AcceptedFrom: 1, Current: 2})
				p.node(2).ackedNew[2] = b.Zxid
				p.role(1, zab.Leading, zab.Broadcast, 2, true)
			},
			func(p play) { p.elect(1, 2, 2) }},
		{"S10", "a leader is established without a quorum",
			func(p play) {
				p.promise(1, zab.HardState{Accepted: 2, AcceptedFrom: 1, Current: 2})
				p.role(1, zab.Leading, zab.Broadcast, 2, true)
			},
			func(p play) { p.elect(1, 2, 3) }},
		{"S11", "a counter is left out",
			func(p play) { p.node(2).lastDeliver = zx(1, 4); p.delivers(p.node(2), []zab.Entry{a}) },
			func(p play) { p.delivers(p.node(2), []zab.Entry{a}) }},
		{"S12", "epochs go back",
			func(p play) { p.node(2).lastDeliver = zx(2, 1); p.delivers(p.node(2), []zab.Entry{a}) },
			func(p play) { p.delivers(p.node(2), []zab.Entry{a}) }},
		{"S13", "an old proposal is committed behind a new leader's first",
			func(p play) {
				p.elect(2, 2, 1) // its history has 1.2, which it does not commit first
				p.append(2, entry(zx(2, 1), zx(1, 2)))
				p.append(1, entry(zx(2, 1), zx(1, 2)))
				p.commits(2, 2, b.Zxid)
			},
			func(p play) {
				p.elect(2, 2, 1)
				p.commits(2, 2, b.Zxid)
				p.append(2, entry(zx(2, 1), zx(1, 2)))
				p.append(1, entry(zx(2, 1), zx(1, 2)))
				p.commits(2, 2, zx(2, 1))
			}},
		{"S14", "an observer has what is not committed",
			func(p play) { p.append(4, a, b) },
			func(p play) { p.append(4, a) }},
		{"S14", "an observer truncates",
			func(p play) {
				p.commits(1, 1, b.Zxid)
				p.node(4).Disk.Log, p.node(4).Disk.View = []zab.Entry{a, entry(zx(2, 1), zx(1, 1))},
					[]zab.Entry{a, entry(zx(2, 1), zx(1, 1))}
				p.write(4, zab.Write{TruncateAfter: &a.Zxid})
			},
			func(p play) { p.append(4, a); p.write(4, zab.Write{TruncateAfter: &a.Zxid}) }},
		{"S10", "an observer's acknowledgement is counted",
			func(p play) {
				p.promise(4, zab.HardState{Accepted: 2, AcceptedFrom: 1, Current: 2})
				p.say(4, 1, 2, zab.AckNewLeader{})
				p.promise(1, zab.HardState{Accepted: 2, AcceptedFrom: 1, Current: 2})
				p.role(1, zab.Leading, zab.Broadcast, 2, true)
			},
			func(p play) {
				p.promise(3, zab.HardState{Accepted: 2, AcceptedFrom: 1, Current: 2})
				p.say(3, 1, 2, zab.AckNewLeader{End: a.Zxid})
				p.promise(1, zab.HardState{Accepted: 2, AcceptedFrom: 1, Current: 2})
				p.role(1, zab.Leading, zab.Broadcast, 2, true)
			}},
		{"S15", "a read misses what was committed before it was asked",
			func(p play) { p.ReadReady(p.node(2), p.ReadAsked(), zx(0, 0)) },
			func(p play) { p.applyAt(2, a); p.ReadReady(p.node(2), p.ReadAsked(), a.Zxid) }},
		{"S15", "a read sees what is not committed",
			func(p play) { p.applyAt(2, a); p.ReadReady(p.node(2), p.ReadAsked(), b.Zxid) },
			func(p play) { p.applyAt(2, a); p.ReadReady(p.node(2), p.ReadAsked(), a.Zxid) }},
		{"S15", "a read is served before its index is applied",
			func(p play) { p.ReadReady(p.node(2), p.ReadAsked(), a.Zxid) },
			func(p play) { p.applyAt(2, a); p.ReadReady(p.node(2), p.ReadAsked(), a.Zxid) }},
		{"S15", "a client sees less than it saw before, at another node",
			func(p play) { p.SessionSees(p.node(3), 1, b.Zxid, a.Zxid) },
			func(p play) { p.SessionSees(p.node(3), 1, a.Zxid, a.Zxid) }},
		{"S9", "a node says that histories diverged",
			func(p play) { p.noted(p.node(1), zab.Note{Text: "ALARM sync node 2: histories diverged"}) },
			func(p play) { p.noted(p.node(1), zab.Note{Text: "sync node 2: DIFF"}) }},
		{"V3", "a follower waits without a step forward for longer than it may",
			func(p play) { p.waitFor(2, 12) },
			func(p play) { p.waitFor(2, 11) }},
		{"V3", "a follower that once made a step waits too long after it",
			func(p play) {
				p.waitFor(2, 11)
				p.waits(p.node(2), zab.Persisted{}, []zab.Effect{zab.Write{}}, zab.Status{Role: zab.Following}, 10)
				p.waitFor(2, 12)
			},
			func(p play) {
				p.waitFor(2, 11)
				p.waits(p.node(2), zab.Persisted{}, []zab.Effect{zab.Write{}}, zab.Status{Role: zab.Following}, 10)
				p.waitFor(2, 11)
			}},
	} {
		t.Run(fmt.Sprintf("%s %s", row.id, row.name), func(t *testing.T) {
			good := begin()
			require.Nil(t, good.Violation, "the common beginning")
			row.good(good)
			require.Nil(t, good.Violation)
			bad := begin()
			row.bad(bad)
			require.NotNil(t, bad.Violation)
			require.Equal(t, row.id, bad.Violation.ID, bad.Violation.Detail)
		})
	}
}

func (p play) applyAt(id int, e zab.Entry) {
	p.applied(p.node(id), e)
	p.node(id).Disk.apply(e)
}

// counts is a leader whose status says that it counts a peer up to z.
func (p play) counts(leader, peer int, z zab.Zxid) {
	p.counted(p.node(leader), zab.Status{Epoch: 1,
		Peers: []zab.PeerStatus{{ID: zab.NodeID(peer), Synced: true, Match: z}}})
}

// waitFor gives a node that is being synchronized ticks and nothing else. It may wait for 10.
func (p play) waitFor(id, ticks int) {
	for range ticks {
		p.waits(p.node(id), zab.Tick{}, nil, zab.Status{Role: zab.Following, Phase: zab.Synchronization}, 10)
	}
}
