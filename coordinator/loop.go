// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"context"
	"errors"
	"time"

	"github.com/concordtx/concord/api/member"
	"github.com/concordtx/concord/coordinator/commit"
	"github.com/concordtx/concord/coordinator/peer"
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
	"github.com/concordtx/concord/wal"
)

// reportInterval is how often a node tells its peers about itself.
const reportInterval = 500 * time.Millisecond

// loop is the goroutine that owns the cores: it collects events, lets the cores handle
// them in turns and carries their effects out to goroutines that may wait.
type loop struct {
	*Node
	writer    *wal.Writer
	requests  map[uint64]func(commit.Reply)
	next      uint64
	events    []replica.Event
	handled   []replica.Event // by the last turn
	turns     turns
	reports   map[zab.NodeID]peerReport
	standings map[zab.NodeID]peer.Standing // as last told
	reported  time.Time
	published time.Time
	present   time.Time // when this node last knew an established leader
	ticked    time.Time
	role      zab.RoleChanged // as last published
	diskFull  bool            // as the core was told
	resigned  time.Time       // last, because of that
	toldOf    txn.ClusterID   // what the workers remember is of
}

// always is ready to be received from.
var always = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

type peerReport struct {
	peer.Report
	at time.Time
}

func newLoop(n *Node, w *wal.Writer) *loop {
	return &loop{Node: n, writer: w, present: time.Now(), ticked: time.Now(), requests: map[uint64]func(commit.Reply){},
		reports: map[zab.NodeID]peerReport{}, standings: map[zab.NodeID]peer.Standing{}}
}

func (l *loop) run(ctx context.Context) error {
	ticker := time.NewTicker(tickInterval)
	defer ticker.Stop()
	defer func() {
		for _, done := range l.requests {
			done(commit.Reply{Err: errClosed})
		}
	}()
	l.publish(time.Now())
	// Until the first tick the core would not know the time, and take every transaction for one of the future.
	l.turn(time.Now(), nil, nil)
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
			l.events = append(l.events, replica.Peer{Event: zab.Persisted{Write: id}})
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
func (l *loop) turn(tick time.Time, asks chan ask, received chan peer.Inbound) {
	t := turn{began: time.Now()}
	if !tick.IsZero() {
		l.tick(tick)
	}
	l.drain(asks, received)
	fx, err := l.core.Step(l.events...)
	if err != nil {
		l.fatal(err)
	}
	out := l.commits.Take()
	t.stepped, t.log, t.commits = time.Now(), fx, out
	// What carryOut finds to be an event belongs to the next turn.
	t.events, l.events = l.events, l.handled[:0]
	l.carryOut(fx)
	l.carryOutCommits(out)
	l.publishRole()
	t.ended = time.Now()
	l.turns.count(l.log, t)
	clear(t.events)
	l.handled = t.events
}

// drain collects what waits already, so that it shares a turn.
func (l *loop) drain(asks chan ask, received chan peer.Inbound) {
	for len(l.events)+l.core.Left() < maxTurn {
		select {
		case id := <-l.persisted:
			l.events = append(l.events, replica.Peer{Event: zab.Persisted{Write: id}})
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
		l.events = append(l.events, commit.LeasesHeard{Leases: heard})
	}
	l.events = append(l.events, replica.Tick{Now: now, Peers: l.peersNow(now)})
	l.watchDisk(now)
	l.compact()
	if now.Sub(l.reported) >= reportInterval {
		l.reported = now
		r, s := l.toldReport(), l.ownStanding()
		for _, m := range l.core.Known().Members {
			told := s
			if heard, ok := l.standings[m.ID]; ok && heard.ListAt.Less(s.ListAt) {
				told.List = l.core.Known()
			}
			l.peers.Tell(m.ID, &r, &told)
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

func (l *loop) receive(in peer.Inbound) {
	switch {
	case in.Lost:
		l.events = append(l.events, replica.Peer{Event: zab.PeerLost{Peer: in.From}})
	case in.Met != nil:
		l.events = append(l.events, replica.PeerMet(*in.Met))
	case in.Report != nil:
		l.reports[in.From] = peerReport{Report: *in.Report, at: time.Now()}
		l.events = append(l.events, replica.StateSeen{Node: in.From, At: in.Report.Applied, Digest: in.Report.Digest})
	case in.Standing != nil:
		l.standings[in.From] = *in.Standing
		if l.core.Known().At.Less(in.Standing.List.At) {
			l.events = append(l.events, replica.PeerMet{Node: in.From, Cluster: txn.ClusterID(l.cluster.Load()),
				List: in.Standing.List})
		}
	default:
		l.events = append(l.events, replica.Peer{Event: zab.Received{Message: in.Message}})
	}
}

// admit gives a request its number, under which it is answered exactly once.
func (l *loop) admit(a ask) {
	if len(l.requests) >= maxRequests {
		a.done(commit.Reply{Err: replica.ErrBusy})
		return
	}
	l.next++
	l.requests[l.next] = a.done
	l.events = append(l.events, a.event(l.next))
}

func (l *loop) carryOut(fx *replica.Effects) {
	if l.core.Zxid() != *l.applied.Load() {
		at := l.core.Zxid()
		l.applied.Store(&at)
	}
	l.publishLeases(l.commits.Leases()) // before anybody hears that one was granted, or has ended
	l.tellStores()
	l.tellRemembered()
	l.followMembers()
	for _, e := range fx.SendSnapshot {
		l.peers.AllowSnapshot(e)
	}
	if fx.FetchSnapshot.Session != 0 {
		l.peers.FetchSnapshot(fx.FetchSnapshot)
	}
	if fx.Discard != 0 {
		l.peers.DiscardSnapshot(fx.Discard)
	}
	for _, w := range fx.Write {
		l.writer.Enqueue(w)
	}
	for _, m := range fx.Send {
		l.peers.Send(m)
	}
	for _, r := range fx.Reply {
		if r.Fresh || r.Seen && l.snapshot.Load().Zxid.Less(r.Zxid) {
			l.publish(time.Now())
		}
		l.reply(commit.Reply{Request: r.Request, Err: r.Err, Zxid: r.Zxid})
	}
	if fx.Distrust != "" {
		if err := l.store.WriteNote(wal.DistrustNote, fx.Distrust); err != nil {
			l.fatal(err)
		}
	}
	for _, note := range fx.Notes {
		if note.Alarm {
			l.log.Error(note.Text)
		} else {
			l.log.Info(note.Text)
		}
	}
}

// reply answers a request.
func (l *loop) reply(r commit.Reply) {
	done := l.requests[r.Request]
	delete(l.requests, r.Request)
	done(r)
}

// carryOutCommits does for the transaction machine what it wants.
func (l *loop) carryOutCommits(fx *commit.Effects) {
	for _, r := range fx.Reply {
		l.reply(r)
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
			l.events = append(l.events, commit.Failed{XID: t.XID, Why: "the workers are busy"})
		}
	}
	for _, t := range fx.Settle {
		select {
		case l.workers[t.Resource].settles <- t:
		default: // a former leadership has left the queue full
			l.events = append(l.events, commit.LastSettled{LastTask: t, Err: errors.New("the workers are busy")})
		}
	}
	for _, name := range fx.Scan {
		select {
		case l.workers[name].scans <- struct{}{}:
		default: // one is due already, and is answered
		}
	}
	for _, m := range fx.Send {
		l.sender.Send(txn.ClusterID(l.cluster.Load()), m.To.Addr,
			member.Envelope{ID: m.ID, To: m.To.PartyID, Message: m.Message})
	}
	l.forget(fx.Forget)
	for _, e := range fx.Evidence {
		select {
		case l.workers[e.Resource].kept <- e.After:
		default: // one is due already, and is answered
		}
	}
	for _, e := range fx.Waits {
		select {
		case l.workers[e.Resource].waits <- e.Look:
		default: // it has not answered the last time: it says nothing in this look
		}
	}
}

// tellRemembered tells the workers what the log remembers of their databases, before they hear what else
// there is to do.
func (l *loop) tellRemembered() {
	list, formed := l.commits.Remembered(), l.core.State().Cluster()
	old := l.remembered.Load()
	if formed == l.toldOf && old != nil && len(*old) == len(list) && (len(list) == 0 || &(*old)[0] == &list[0]) {
		return // a list that is replaced is another one
	}
	l.remembered.Store(&list)
	l.toldOf = formed
	for name, w := range l.workers {
		w.remember(formed, l.rememberedOf(name))
	}
	if len(list) > 0 {
		l.publish(time.Now())
	}
}

// publishRole shows at once who leads which cluster: clients look for a leader here.
func (l *loop) publishRole() {
	l.level.Store(uint32(l.core.State().Level()))
	formed := l.core.State().Cluster()
	if uint32(formed) != l.cluster.Load() {
		l.cluster.Store(uint32(formed))
		l.log.Info("the cluster is formed", "cluster", formed.String())
	} else if l.role == l.core.Role() {
		return
	}
	l.role = l.core.Role()
	l.publish(time.Now())
}

// followMembers lets the connections be those to the members.
func (l *loop) followMembers() {
	if l.core.Known().At != l.list.Load().At {
		list := l.core.Known()
		l.list.Store(&list)
		l.peers.Follow()
	}
}

// forget hands out branches whose evidence can go. When a resource is slow the evidence
// stays, which costs space only.
func (l *loop) forget(spent map[string]commit.Spent) {
	for name, s := range spent {
		if w := l.workers[name]; w != nil { // else it has left the configuration
			select {
			case w.forgets <- s:
			default:
			}
		}
	}
}

// ownStanding is where this node stands.
func (l *loop) ownStanding() peer.Standing {
	return peer.Standing{Distrusted: l.core.Stopped(), Peer: l.self.Peer, API: l.self.API, ListAt: l.core.Known().At}
}
