// SPDX-License-Identifier: Apache-2.0

package commit

import (
	"container/heap"
	"time"

	"github.com/concordtx/concord/txn"
)

// aged belongs to a transaction, and knows its place in a byAge.
type aged interface {
	transaction() txn.ID
	place() *int
}

// byAge is a heap of what belongs to transactions: the oldest transactions first.
type byAge[T aged] []T

func (h *byAge[T]) add(x T)    { heap.Push(h, x) }
func (h *byAge[T]) remove(x T) { heap.Remove(h, *x.place()) }

// oldest returns the birth of the oldest transaction; zero if there is none.
func (h byAge[T]) oldest() time.Time {
	if len(h) == 0 {
		return time.Time{}
	}
	return h[0].transaction().Time()
}

func (h byAge[T]) Len() int           { return len(h) }
func (h byAge[T]) Less(i, j int) bool { return h[i].transaction().Compare(h[j].transaction()) < 0 }
func (h byAge[T]) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	*h[i].place(), *h[j].place() = i, j
}

// Push implements heap.Interface.
func (h *byAge[T]) Push(x any) {
	*x.(T).place() = len(*h)
	*h = append(*h, x.(T))
}

// Pop implements heap.Interface.
func (h *byAge[T]) Pop() any {
	last := len(*h) - 1
	x := (*h)[last]
	var none T
	(*h)[last] = none
	*h = (*h)[:last]
	return x
}
