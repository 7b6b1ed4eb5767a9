// SPDX-License-Identifier: Apache-2.0

package explore

import "math/bits"

// numbering gives each fingerprint a number, in the order in which they come: a hash table
// of twelve bytes a slot, at most three quarters full.
type numbering struct {
	prints  []uint64 // 0: free
	numbers []uint32
	count   uint32
}

// number returns the number of a fingerprint, and whether it is new.
func (n *numbering) number(print uint64) (number uint32, fresh bool) {
	if print == 0 {
		print = 1
	}
	if int(n.count) >= len(n.prints)/4*3 {
		n.grow()
	}
	at := n.slot(print)
	if n.prints[at] == print {
		return n.numbers[at], false
	}
	n.prints[at], n.numbers[at] = print, n.count
	n.count++
	return n.count - 1, true
}

// slot finds where a fingerprint stands, or the free slot where it would.
func (n *numbering) slot(print uint64) int {
	mask := len(n.prints) - 1
	at := int(print) & mask
	for n.prints[at] != 0 && n.prints[at] != print {
		at = (at + 1) & mask
	}
	return at
}

func (n *numbering) grow() {
	old := *n
	size := max(1<<10, 2*len(n.prints))
	n.prints, n.numbers = make([]uint64, size), make([]uint32, size)
	for i, print := range old.prints {
		if print != 0 {
			at := n.slot(print)
			n.prints[at], n.numbers[at] = print, old.numbers[i]
		}
	}
}

// Mix folds a word into a hash: a multiplication to 128 bits, both halves of it.
func Mix(h, word uint64) uint64 {
	hi, lo := bits.Mul64(h^word^0x9e3779b97f4a7c15, 0xd6e8feb86659fd93)
	return hi ^ lo ^ bits.RotateLeft64(h, 23)
}

// Bit is 1 for true: a part of a fingerprint.
func Bit(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}
