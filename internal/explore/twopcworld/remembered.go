// SPDX-License-Identifier: Apache-2.0

package twopcworld

import (
	"fmt"

	"github.com/concordtx/concord/protocol"
	"github.com/concordtx/concord/txn"
)

// coreID numbers the states of the cores of one kind. Zero is no core.
type coreID uint16

// core is what the three cores of two-phase commit have in common.
type core[C any] interface {
	Step(protocol.Event) []protocol.Effect
	Clone() C
}

// remembered are all states that cores of one kind were met in, and what they did with
// each event. Equal states, field by field, have one number.
type remembered[C core[C]] struct {
	world    *twoPC
	carryOut func(no txn.BranchNo, e protocol.Event, s *step) // what the driver makes of effects

	cores  []C
	byText map[string]coreID
	births []birth
	steps  [][]step   // by state and event
	twins  [][]coreID // by renaming and state; 0: not known yet
}

// birth says how a core came into a state: from another one by an event, or made so.
type birth struct {
	from coreID
	at   int
	made func(*renaming) coreID // the same under other names; nil if there was an event
}

// step is what a core does with an event, as far as its world is concerned.
type step struct {
	known          bool
	next           coreID
	effects        []protocol.Effect
	net, tasks     uint64
	told           uint8
	alarmed, ended bool
}

func remember[C core[C]](w *twoPC, carryOut func(txn.BranchNo, protocol.Event, *step)) remembered[C] {
	return remembered[C]{
		world: w, carryOut: carryOut, byText: map[string]coreID{},
		cores: make([]C, 1), births: make([]birth, 1), steps: make([][]step, 1),
		twins: make([][]coreID, len(w.renamings)),
	}
}

// number gives a core its number. The core must not be stepped any more.
func (m *remembered[C]) number(c C, b birth) coreID {
	text := fmt.Sprintf("%#v", c) // all fields, unlike String
	id, known := m.byText[text]
	if !known {
		id = coreID(len(m.cores))
		if int(id) != len(m.cores) {
			panic("a core has more than 65,535 states")
		}
		m.byText[text] = id
		m.cores, m.births, m.steps = append(m.cores, c), append(m.births, b), append(m.steps, nil)
	}
	return id
}

// step returns what the core, of a branch if it is a participant, does with an event.
func (m *remembered[C]) step(id coreID, no txn.BranchNo, at int, e protocol.Event) *step {
	if at >= len(m.steps[id]) {
		m.steps[id] = append(m.steps[id], make([]step, at+1-len(m.steps[id]))...)
	}
	s := &m.steps[id][at]
	if !s.known {
		c := m.cores[id].Clone()
		made := step{known: true}
		made.effects = append(made.effects, c.Step(e)...)
		made.next = m.number(c, birth{from: id, at: at})
		m.carryOut(no, e, &made)
		s = &m.steps[id][at]
		*s = made
		m.mustBeSymmetric(id, no, e, made)
	}
	return s
}

// twin finds the state that the core of the other names is in.
func (m *remembered[C]) twin(r *renaming, id coreID) coreID {
	if id == 0 {
		return 0
	}
	if missing := len(m.cores) - len(m.twins[r.at]); missing > 0 {
		m.twins[r.at] = append(m.twins[r.at], make([]coreID, missing)...)
	}
	if t := m.twins[r.at][id]; t != 0 {
		return t
	}
	var t coreID
	if b := m.births[id]; b.made != nil {
		t = b.made(r)
	} else {
		e := r.event(m.world.events[b.at])
		c := m.cores[m.twin(r, b.from)].Clone()
		c.Step(e)
		t = m.number(c, birth{from: m.twin(r, b.from), at: m.world.number(e)})
	}
	m.twins[r.at][id] = t
	return t
}

// mustBeSymmetric compares a step with the same step under all other names.
func (m *remembered[C]) mustBeSymmetric(id coreID, no txn.BranchNo, e protocol.Event, s step) {
	for _, r := range m.world.renamings {
		o := r.event(e)
		t := *m.step(m.twin(r, id), r.no(no), m.world.number(o), o)
		if t.next != m.twin(r, s.next) || t.net != m.world.renamedMessages(r, s.net) ||
			t.tasks != m.world.renamedTasks(r, s.tasks) ||
			t.told != s.told || t.alarmed != s.alarmed || t.ended != s.ended {
			panic(fmt.Sprintf("not symmetric: %v with %T%v becomes %v, but %v with %T%v becomes %v",
				m.cores[id], e, e, m.cores[s.next], m.cores[m.twin(r, id)], o, o, m.cores[t.next]))
		}
	}
}
