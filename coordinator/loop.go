// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"context"
	"time"

	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
	"github.com/concordtx/concord/wal"
)

// loop is the goroutine that owns the Core: it collects events, lets the Core handle
// them in turns and carries its effects out to goroutines that may wait.
type loop struct {
	*Node
	writer    *wal.Writer
	requests  map[uint64]func(Reply)
	next      uint64
	events    []Event
	handled   []Event // by the last turn
	turns     turns
	reports   map[zab.NodeID]peerReport
	standings map[zab.NodeID]standing // as last told
	reported  time.Time
	published time.Time
	present   time.Time // when this node last knew an established leader
	ticked    time.Time
	role      zab.RoleChanged // as last published
	diskFull  bool            // as the core was told
	resigned  time.Time       // last, because of that
}

// always is ready to be received from.
var always = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

type peerReport struct {
	report
	at time.Time
}

func newLoop(n *Node, w *wal.Writer) *loop {
	return &loop{Node: n, writer: w, present: time.Now(), ticked: time.Now(), requests: map[uint64]func(Reply){}, reports: map[zab.NodeID]peerReport{}, standings: map[zab.NodeID]standing{}}
}

func (l *loop) run(ctx context.Context) error {
	ticker := time.NewTicker(tickInterval)
	defer ticker.Stop()
	defer func() {
		for _, done := range l.requests {
			done(Reply{Err: errClosed})
		}
	}()
	l.publish(time.Now())
	for {
		// While the disk is behind, only what makes it catch up is taken in.
		asks, received := l.asks, l.received
		if l.writer.Full() || l.archive.full() {
			asks, received = nil, nil
		}
		// What is left of earlier turns goes on at once.
		var more chan struct{}
		if l.core.More() || len(l.events) > 0 {
			more = always
		}
		var tick time.Time
		select {
		case <-ctx.Done():
			return nil
		case tick = <-ticker.C:
		case <-more:
		case id := <-l.persisted:
			l.events = append(l.events, Peer{zab.Persisted{Write: id}})
		case e := <-l.posted:
			l.events = append(l.events, e)
		case in := <-received:
			l.receive(in)
		case a := <-asks:
			l.admit(a)
		}
		l.turn(tick, asks, received)
	}
}

// turn handles what waits. tick is zero unless a tick began it.
func (l *loop) turn(tick time.Time, asks chan ask, received chan inbound) {
	t := turn{began: time.Now()}
	if !tick.IsZero() {
		l.tick(tick)
	}
	l.drain(asks, received)
	fx, err := l.core.Step(l.events...)
	if err != nil {
		l.fatal(err)
	}
	t.stepped, t.effects = time.Now(), fx
	// What carryOut finds to be an event belongs to the next turn.
	t.events, l.events = l.events, l.handled[:0]
	l.carryOut(fx)
	t.ended = time.Now()
	l.turns.count(l.log, t)
	clear(t.events)
	l.handled = t.events
}

// drain collects what waits already, so that it shares a turn.
func (l *loop) drain(asks chan ask, received chan inbound) {
	for len(l.events)+l.core.Left() < maxTurn {
		select {
		case id := <-l.persisted:
			l.events = append(l.events, Peer{zab.Persisted{Write: id}})
		case e := <-l.posted:
			l.events = append(l.events, e)
		case in := <-received:
			l.receive(in)
		case a := <-asks:
			l.admit(a)
		default:
			return
		}
	}
}

func (l *loop) tick(now time.Time) {
	l.ticked = now
	if heard := l.heard.take(); len(heard) > 0 { // before the tick that would end them
		l.events = append(l.events, LeasesHeard{Leases: heard})
	}
	l.events = append(l.events, Tick{Now: now, Peers: l.peersNow(now)})
	l.watchDisk(now)
	l.compact()
	if now.Sub(l.reported) >= reportInterval {
		l.reported = now
		r, s := l.toldReport(), l.ownStanding()
		for _, m := range l.core.list.Members {
			told := s
			if heard, ok := l.standings[m.ID]; ok && heard.ListAt.Less(s.ListAt) {
				told.List = l.core.list
			}
			l.peers.send(m.ID, outbound{report: &r, standing: &told})
		}
		l.watchMembers()
	}
	if now.Sub(l.published) >= publishInterval {
		l.publish(now)
	}
}

// peersNow is what the clocks of the peers show, by what they said lately, the latest of them.
func (l *loop) peersNow(now time.Time) (latest time.Time) {
	for _, r := range l.reports {
		if since := now.Sub(r.at); since < 3*reportInterval && !r.Clock.IsZero() && r.Clock.Add(since).After(latest) {
			latest = r.Clock.Add(since)
		}
	}
	return latest
}

func (l *loop) receive(in inbound) {
	switch {
	case in.lost:
		l.events = append(l.events, Peer{zab.PeerLost{Peer: in.from}})
	case in.met != nil:
		l.events = append(l.events, *in.met)
	case in.report != nil:
		l.reports[in.from] = peerReport{report: *in.report, at: time.Now()}
		l.events = append(l.events, StateSeen{Node: in.from, At: in.report.Applied, Digest: in.report.Digest})
	case in.standing != nil:
		l.standings[in.from] = *in.standing
		if l.core.list.At.Less(in.standing.List.At) {
			l.events = append(l.events, PeerMet{Node: in.from, Cluster: txn.ClusterID(l.cluster.Load()), List: in.standing.List})
		}
	default:
		l.events = append(l.events, Peer{zab.Received{Message: in.message}})
	}
}

// admit gives a request its number, under which it is answered exactly once.
func (l *loop) admit(a ask) {
	if len(l.requests) >= maxRequests {
		a.done(Reply{Err: errBusy})
		return
	}
	l.next++
	l.requests[l.next] = a.done
	l.events = append(l.events, a.event(l.next))
}

func (l *loop) carryOut(fx *Effects) {
	if l.core.zxid() != *l.applied.Load() {
		at := l.core.zxid()
		l.applied.Store(&at)
	}
	l.publishLeases(l.core.table.Leases()) // before anybody hears that one was granted, or has ended
	l.tellStores()
	l.followMembers()
	for _, e := range fx.SendSnapshot {
		l.sender.allow(e)
	}
	if fx.FetchSnapshot.Session != 0 {
		l.fetcher.fetch(fx.FetchSnapshot)
	}
	if fx.Discard != 0 {
		l.fetcher.forget(fx.Discard)
	}
	for _, w := range fx.Write {
		l.writer.Enqueue(w)
	}
	for _, m := range fx.Send {
		l.peers.send(m.To, outbound{message: m})
	}
	for _, r := range fx.Reply {
		done := l.requests[r.Request]
		delete(l.requests, r.Request)
		if r.Fresh || r.Seen && l.snapshot.Load().Zxid.Less(r.Zxid) {
			l.publish(time.Now())
		}
		done(r)
	}
	for _, t := range fx.Finish {
		w := l.workers[t.Branch.Resource]
		queue := w.tasks
		if t.Again {
			queue = w.retries
		}
		select {
		case queue <- t:
		default: // a former leadership has left the queue full
			l.events = append(l.events, Failed{XID: t.XID, Why: "the workers are busy"})
		}
	}
	for _, name := range fx.Scan {
		select {
		case l.workers[name].scans <- struct{}{}:
		default: // one is due already, and is answered
		}
	}
	l.forget(fx.Forget)
	if fx.Distrust != "" {
		if err := l.store.WriteNote(wal.DistrustNote, fx.Distrust); err != nil {
			l.fatal(err)
		}
	}
	for _, e := range fx.Evidence {
		select {
		case l.workers[e.Resource].kept <- e.After:
		default: // one is due already, and is answered
		}
	}
	for _, note := range fx.Notes {
		if note.Alarm {
			l.log.Error(note.Text)
		} else {
			l.log.Info(note.Text)
		}
	}
	l.level.Store(uint32(l.core.table.Level()))
	formed := l.core.table.Cluster()
	if uint32(formed) != l.cluster.Load() {
		l.cluster.Store(uint32(formed))
		l.log.Info("the cluster is formed", "cluster", formed.String())
	} else if l.role == l.core.role {
		return
	}
	l.role = l.core.role
	l.publish(time.Now()) // clients look for a leader here
}

// followMembers lets the connections be those to the members.
func (l *loop) followMembers() {
	if l.core.list.At != l.list.Load().At {
		list := l.core.list
		l.list.Store(&list)
		l.peers.follow()
	}
}

// forget hands out branches whose evidence can go. When a resource is slow the evidence
// stays, which costs space only.
func (l *loop) forget(spent map[string][]txn.XID) {
	for name, xs := range spent {
		if w := l.workers[name]; w != nil { // else it has left the configuration
			select {
			case w.forgets <- xs:
			default:
			}
		}
	}
}
