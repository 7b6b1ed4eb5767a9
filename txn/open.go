// SPDX-License-Identifier: Apache-2.0

package txn

// held is a transaction that is not finished, as a Table holds it.
type held struct {
	Txn
	next, prev *held
	place      uint64 // in the queue; 0: not in it
	unended    bool   // as it was counted
	alarming   bool
}

// openQueue has what is open in the order in which it came, so that it can be gone through a
// piece at a time while it changes.
type openQueue struct {
	first, last *held
	places      uint64

	walk *held  // is visited next
	upto uint64 // the walk ends behind this place
}

func (q *openQueue) push(x *held) {
	q.places++
	x.place, x.prev = q.places, q.last
	if q.last == nil {
		q.first = x
	} else {
		q.last.next = x
	}
	q.last = x
}

func (q *openQueue) remove(x *held) {
	if q.walk == x {
		q.walk = x.next
	}
	if x.prev == nil {
		q.first = x.next
	} else {
		x.prev.next = x.next
	}
	if x.next == nil {
		q.last = x.prev
	} else {
		x.next.prev = x.prev
	}
	x.next, x.prev, x.place = nil, nil, 0
}

// keep has a transaction that a fold has left open in the queue and in the counts.
func (t *Table) keep(x *held) {
	if x.place == 0 {
		t.queue.push(x)
	}
	t.count(x, !x.Ended, x.Alarming())
}

// drop lets go of a transaction that is open no more.
func (t *Table) drop(x *held) {
	delete(t.open, x.ID)
	if x.place != 0 {
		t.queue.remove(x)
	}
	t.count(x, false, false)
}

func (t *Table) count(x *held, unended, alarming bool) {
	t.unended += change(x.unended, unended)
	t.alarming += change(x.alarming, alarming)
	x.unended, x.alarming = unended, alarming
}

func change(from, to bool) int {
	switch {
	case from == to:
		return 0
	case to:
		return 1
	}
	return -1
}

// StartWalk begins a walk through what is open now, in place of one that is under way.
func (t *Table) StartWalk() { t.queue.walk, t.queue.upto = t.queue.first, t.queue.places }

// Walk goes on with the walk: it visits up to n transactions, which were open when the walk
// began and are still, each once and in the order in which they came. It reports whether
// there are more. Folds may come between two calls, and not within one.
func (t *Table) Walk(n int, visit func(Txn)) (more bool) {
	for q := &t.queue; q.walk != nil && q.walk.place <= q.upto; n-- {
		if n <= 0 {
			return true
		}
		x := q.walk
		q.walk = x.next
		visit(x.Txn)
	}
	return false
}
