// SPDX-License-Identifier: Apache-2.0

package sim

// network carries encoded messages over one connection per ordered pair of nodes.
//
// What holds: within a connection bytes arrive in order or not at all, and nothing
// arrives after something that was lost. Before the first message of a new connection
// arrives, both ends have been told that the old one was lost. Everything else may
// happen: bytes of an old connection arrive late, twice, or after those of the new one.
type network struct {
	sched  *scheduler
	swarm  Swarm
	Links  [][]*link // by sender, then receiver
	arrive func(to int, data []byte)
	lost   func(node, peer int) // the node hears that a connection with the peer died
	up     func(node int) bool
	late   func(again bool) // bytes of a dead connection arrive
	dead   []*packet        // the last that a connection died with
}

const deadPackets = 64

// link is the way from one node to another.
type link struct {
	from, to     int
	open         bool
	connection   int     // counts them
	retry        Instant // no new connection before this
	lastArrival  Instant
	Cuts         int // a message that is sent while cut waits in held
	flying, held []*packet
	// A side is owed when the connection died and it has not been told.
	senderOwed, receiverOwed bool
}

type packet struct {
	data       []byte
	gone       bool // it arrived, or its connection died with it
	link       *link
	connection int
}

func newNetwork(sched *scheduler, swarm Swarm, nodes int) *network {
	n := &network{sched: sched, swarm: swarm}
	for from := range nodes {
		var row []*link
		for to := range nodes {
			row = append(row, &link{from: from, to: to})
		}
		n.Links = append(n.Links, row)
	}
	return n
}

// send puts a message on the connection, and opens one if there is none.
func (n *network) send(from, to int, data []byte) {
	l := n.Links[from][to]
	if !l.open && !n.dial(l) {
		// Something was asked to be sent and is not: both ends must learn of a loss
		// before anything that is sent later arrives.
		l.senderOwed, l.receiverOwed = true, true
		return
	}
	if n.sched.Chance(n.swarm.Loss) {
		n.kill(l)
		return
	}
	p := &packet{data: data, link: l, connection: l.connection}
	if l.Cuts > 0 {
		l.held = append(l.held, p)
		return
	}
	n.fly(l, p)
}

func (n *network) dial(l *link) bool {
	if l.Cuts > 0 || n.sched.Now < l.retry || !n.up(l.to) {
		return false
	}
	l.open = true
	l.connection++
	l.lastArrival = n.sched.Now + n.sched.About(n.swarm.Latency)
	n.tell(l)
	return true
}

// tell pays what the two ends are owed, at this instant and so before anything that is
// sent from now on arrives.
func (n *network) tell(l *link) {
	if l.senderOwed {
		l.senderOwed = false
		n.sched.After(0, func() { n.lost(l.from, l.to) })
	}
	if l.receiverOwed {
		l.receiverOwed = false
		n.sched.After(0, func() { n.lost(l.to, l.from) })
	}
}

// owed reports whether one of the ends has not been told yet of the death of a connection.
func (n *network) owed(from, to int) bool {
	l := n.Links[from][to]
	return l.senderOwed || l.receiverOwed
}

func (n *network) fly(l *link, p *packet) {
	l.lastArrival = max(l.lastArrival+1, n.sched.Now+n.sched.About(n.swarm.Latency))
	l.flying = append(l.flying, p)
	n.sched.After(l.lastArrival-n.sched.Now, func() {
		if p.gone {
			return
		}
		p.gone = true
		l.flying = l.flying[1:]
		if !n.up(l.to) {
			n.kill(l)
			return
		}
		n.arrive(l.to, p.data)
	})
}

// kill ends a connection. Of what is under way a prefix may still arrive, later and
// perhaps twice.
func (n *network) kill(l *link) {
	if !l.open {
		return
	}
	late := n.sched.Chance(n.swarm.LateBytes)
	at := n.sched.About(20 * n.swarm.Latency)
	for _, p := range append(l.flying, l.held...) {
		p.gone = true
		n.dead = append(n.dead, p)
		if !late || !n.up(l.to) {
			continue
		}
		at += n.sched.About(n.swarm.Latency) + 1
		n.sched.After(at, func() { n.late(false); n.arrive(l.to, p.data) })
		if n.sched.Chance(n.swarm.Duplicate) {
			n.sched.After(at+n.sched.About(50*n.swarm.Latency), func() { n.late(true); n.arrive(l.to, p.data) })
		}
		late = !n.sched.Chance(0.2)
	}
	n.dead = n.dead[max(0, len(n.dead)-deadPackets):]
	l.flying, l.held, l.open = nil, nil, false
	l.retry = n.sched.Now + n.sched.About(50*Millisecond)
	l.senderOwed, l.receiverOwed = true, true
	if !n.sched.Chance(n.swarm.HalfOpen) {
		n.sched.After(n.sched.About(100*Millisecond), func() { n.tell(l) })
	}
}

// replay lets one of the packets arrive that died with a connection, however long ago, if
// there has been another since.
func (n *network) replay() {
	if len(n.dead) == 0 {
		return
	}
	p := n.dead[n.sched.RNG.IntN(len(n.dead))]
	if p.connection < p.link.connection && n.up(p.link.to) {
		n.late(true)
		n.arrive(p.link.to, p.data)
	}
}

// isolate kills all connections of a node that crashed. Nobody remembers anything on
// its side, so only the peers are owed.
func (n *network) isolate(node int) {
	for peer := range n.Links {
		n.kill(n.Links[node][peer])
		n.kill(n.Links[peer][node])
		n.Links[node][peer].senderOwed = false
		n.Links[peer][node].receiverOwed = false
	}
}

// Cut stops one direction for a while: new messages wait, or the connection dies.
func (n *network) Cut(from, to int, d Instant) {
	l := n.Links[from][to]
	l.Cuts++
	if n.sched.Chance(0.5) {
		n.kill(l)
	}
	n.sched.After(d, func() { n.mend(l) })
}

func (n *network) mend(l *link) {
	if l.Cuts == 0 {
		return // everything was healed meanwhile
	}
	if l.Cuts--; l.Cuts > 0 {
		return
	}
	if n.sched.Chance(0.3) {
		n.kill(l)
	}
	held := l.held
	l.held = nil
	for _, p := range held {
		n.fly(l, p)
	}
}

// Split cuts all links between the two sides, one way or both.
func (n *network) Split(side func(node int) bool, bothWays bool, d Instant) {
	for from := range n.Links {
		for to := range n.Links {
			if from != to && side(from) != side(to) && (bothWays || side(from)) {
				n.Cut(from, to, d)
			}
		}
	}
}

// heal ends all cuts.
func (n *network) heal(calm Swarm) {
	n.swarm = calm
	for _, row := range n.Links {
		for _, l := range row {
			for l.Cuts > 0 {
				n.mend(l)
			}
		}
	}
}
