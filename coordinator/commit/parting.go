// SPDX-License-Identifier: Apache-2.0

package commit

// maxWaiters requests may wait for the decision of one transaction.
const maxWaiters = 256

// askedList has the transactions that somebody waits for, in the order in which they were first
// asked about.
type askedList struct{ first, last *live }

func (w *askedList) push(l *live) {
	l.prev = w.last
	if w.last == nil {
		w.first = l
	} else {
		w.last.next = l
	}
	w.last = l
}

func (w *askedList) remove(l *live) {
	if l.prev == nil {
		w.first = l.next
	} else {
		l.prev.next = l.next
	}
	if l.next == nil {
		w.last = l.prev
	} else {
		l.next.prev = l.prev
	}
	l.next, l.prev = nil, nil
}

// parting is what a lost leadership leaves behind: transactions of which whoever waits hears of
// it, a piece in a turn.
type parting struct {
	asked askedList
	err   error
}

// sayFarewell goes on with the oldest parting.
func (c *Machine) sayFarewell() {
	if len(c.partings) == 0 {
		return
	}
	p := c.partings[0]
	for left := c.core.Piece(); left > 0; left-- {
		l := p.asked.first
		if l == nil {
			c.partings = c.partings[1:]
			return
		}
		for _, request := range l.requests {
			c.reply(Reply{Request: request, Err: p.err})
		}
		left -= len(l.requests)
		l.requests = nil
		p.asked.remove(l)
	}
}
