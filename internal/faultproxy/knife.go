// SPDX-License-Identifier: Apache-2.0

package faultproxy

import (
	"fmt"
	"sync"
)

// Place is where in a message a connection is cut.
type Place uint8

const (
	Before Place = iota // none of the message is delivered
	In                  // its first bytes are
	After               // all of it is, and no answer
)

// String is for the names of tests.
func (p Place) String() string { return [...]string{"before", "in", "after"}[p] }

// String is for the names of tests.
func (d Direction) String() string { return [...]string{"forward", "backward"}[d] }

// Framing tells where messages end.
type Framing struct {
	// Header is how many bytes tell the length of a message.
	Header int
	// Length is that of a whole message, from its header.
	Length func(header []byte) int
	// Greeting, if not nil, is Header and Length of the first message of a dialer.
	Greeting *Framing
}

// Postgres frames the protocol of PostgreSQL without TLS.
var Postgres = Framing{
	Header: 5, Length: func(h []byte) int { return 1 + bigEndian(h[1:]) },
	Greeting: &Framing{Header: 4, Length: func(h []byte) int { return bigEndian(h) }},
}

// MySQL frames the protocol of MySQL and MariaDB without TLS and compression.
var MySQL = Framing{Header: 4, Length: func(h []byte) int { return 4 + int(h[0]) + int(h[1])<<8 + int(h[2])<<16 }}

func bigEndian(b []byte) int {
	return int(b[0])<<24 + int(b[1])<<16 + int(b[2])<<8 + int(b[3])
}

// Knife cuts a connection of its links at a message, once for each Aim. A cut is a reset of
// both directions, so what is under way the other way is lost as well.
type Knife struct {
	framing Framing

	mu    sync.Mutex
	aimed bool
	at    Direction
	place Place
	skip  int // messages that pass before
	cut   bool
}

// inside is how many bytes of a message In lets pass: less than any header.
const inside = 3

// NewKnife makes a knife for a protocol.
func NewKnife(f Framing) *Knife { return &Knife{framing: f} }

// Aim makes the knife count messages from now on, and cut at the one with a number, from 0.
func (k *Knife) Aim(d Direction, message int, p Place) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.aimed, k.at, k.skip, k.place, k.cut = true, d, message, p, false
}

// Rest ends the counting, and reports whether there was a cut.
func (k *Knife) Rest() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.aimed = false
	return k.cut
}

// Use lets a knife cut the connections of a link that are opened from now on.
func (l *Link) Use(k *Knife) { l.change(func() { l.knife = k }) }

// blade is a knife at one direction of one connection.
type blade struct {
	*Knife
	direction Direction
	framing   Framing
	header    []byte // of the message that passes, as far as it has
	passed    int    // bytes of it that have
	marked    bool   // it is the one to cut
}

func (k *Knife) blade(d Direction) *blade {
	b := &blade{Knife: k, direction: d, framing: k.framing}
	if d == Forward && k.framing.Greeting != nil {
		b.framing = *k.framing.Greeting
	}
	return b
}

// pass returns how many of some bytes may be delivered, and whether the connection is cut
// behind them.
func (b *blade) pass(bytes []byte) (n int, cut bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for n, c := range bytes {
		if b.passed == 0 && b.begins() || b.marked && b.place == In && b.passed == inside {
			b.cut = true
			return n, true
		}
		if b.passed++; len(b.header) < b.framing.Header {
			b.header = append(b.header, c)
		}
		if len(b.header) < b.framing.Header || b.passed < b.framing.Length(b.header) {
			continue
		}
		if b.passed > b.framing.Length(b.header) {
			panic(fmt.Sprintf("a message that claims %d bytes", b.framing.Length(b.header)))
		}
		b.framing, b.header, b.passed = b.Knife.framing, b.header[:0], 0
		if b.marked { // and the place is After
			b.cut = true
			return n + 1, true
		}
	}
	return len(bytes), false
}

// begins counts a message, and reports whether it must not even begin.
func (b *blade) begins() bool {
	if !b.aimed || b.cut || b.at != b.direction {
		return false
	}
	if b.skip > 0 {
		b.skip--
		return false
	}
	b.aimed, b.marked = false, true
	return b.place == Before
}
