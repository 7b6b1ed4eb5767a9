// SPDX-License-Identifier: Apache-2.0

package threepcworld

import (
	"fmt"
	"regexp"

	"github.com/concordtx/concord/protocol"
	"github.com/concordtx/concord/txn"
)

// stepped is a core of three-phase commit.
type stepped[C any] interface {
	Step(protocol.Event) []protocol.Effect
	Clone() C
}

// memo has all states that cores of one kind were met in, and what they did with each event.
// States that are equal, field by field but for reasons, have one number; zero is no core.
type memo[C stepped[C]] struct {
	cores    []C
	byText   map[string]uint32
	deeds    [][]*deed // by state and event
	carryOut driver[C]
	// unread are parts of a core that nothing depends on, and seen the numbers of cores without what they
	// have seen of elections: see reduce.go.
	unread  *regexp.Regexp
	seenOut map[string]uint32
	unseen  []uint32
}

// driver says what is made of a step.
type driver[C any] func(before, after C, e protocol.Event, effects []protocol.Effect, o *deed)

func newMemo[C stepped[C]](carryOut driver[C], unread *regexp.Regexp) *memo[C] {
	return &memo[C]{cores: make([]C, 1), byText: map[string]uint32{}, deeds: make([][]*deed, 1), carryOut: carryOut,
		unread: unread, seenOut: map[string]uint32{}, unseen: make([]uint32, 1)}
}

// number gives a core its number. The core must not be stepped any more.
func (m *memo[C]) number(c C) uint32 {
	text := m.unread.ReplaceAllString(fmt.Sprintf("%#v", c), "") // all fields, unlike String
	id, known := m.byText[text]
	if !known {
		id = uint32(len(m.cores))
		m.byText[text] = id
		m.cores, m.deeds = append(m.cores, c), append(m.deeds, nil)
		text = numbersSeen.ReplaceAllString(text, "")
		if m.seenOut[text] == 0 {
			m.seenOut[text] = id
		}
		m.unseen = append(m.unseen, m.seenOut[text])
	}
	return id
}

// step returns what the core does with an event, which has a number of its own.
func (m *memo[C]) step(id uint32, at int, e protocol.Event) *deed {
	if at >= len(m.deeds[id]) {
		m.deeds[id] = append(m.deeds[id], make([]*deed, at+1-len(m.deeds[id]))...)
	}
	if m.deeds[id][at] == nil {
		before := m.cores[id]
		after := before.Clone()
		effects := after.Step(e)
		o := &deed{next: m.number(after)}
		m.carryOut(before, after, e, effects, o)
		o.quiet = o.next == id && len(o.writes) == 0 && len(o.records) == 0 && !o.prepare &&
			o.finish == txn.Undecided &&
			!o.begun && !o.ended && o.fixed == 0 && o.tried == [2]uint64{} && o.breach == ""
		m.deeds[id][at] = o
	}
	return m.deeds[id][at]
}
