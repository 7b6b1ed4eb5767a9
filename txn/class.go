// SPDX-License-Identifier: Apache-2.0

package txn

import (
	"encoding/binary"
	"fmt"
)

// Class says who decides a transaction. It is the last character of its gid, so that whoever
// meets a bare gid, in a listing or in a question, presumes nothing that is not so.
type Class uint8

// Plain: the cluster if two or more databases changed, the database alone if one did, of
// which the cluster never hears. Recorded: the cluster, always. ThreePhase: the agents and the
// cluster together. LastResource: a marker row in one of the databases.
//
// The values are those of the characters 0, R, T and M in Crockford's base 32.
const (
	Plain        Class = 0
	LastResource Class = 20
	Recorded     Class = 24
	ThreePhase   Class = 26
)

const classMask = 1<<5 - 1

// Known reports whether this version knows what the class means.
func (c Class) Known() bool {
	return c == Plain || c == Recorded || c == ThreePhase || c == LastResource
}

// mayCommitAlone reports whether a database that is the only one changed commits without the cluster ever hearing
// of it.
func (c Class) mayCommitAlone() bool { return c == Plain || c == LastResource }

// String returns plain, recorded, three_phase or last_resource.
func (c Class) String() string {
	switch c {
	case Plain:
		return "plain"
	case Recorded:
		return "recorded"
	case ThreePhase:
		return "three_phase"
	case LastResource:
		return "last_resource"
	}
	return fmt.Sprintf("invalid(%d)", uint8(c))
}

// Class returns the class of a transaction.
func (id ID) Class() Class { return Class(id[15] & classMask) }

// WithClass returns the same id with another class.
func (id ID) WithClass(c Class) ID {
	id[15] = id[15]&^classMask | byte(c)
	return id
}

// Lease numbers the lease under which a client begins transactions. 0 is none.
type Lease uint32

// The random bits of an ID, from the highest: whether there is a lease; then its number, or
// more random bits; 42 random bits; the class.
const (
	leasedBit  = 1 << 63
	leaseShift = 31
	leaseMask  = 1<<32 - 1
)

// Lease returns the lease that a transaction was begun under, or 0.
func (id ID) Lease() Lease {
	b := binary.BigEndian.Uint64(id[6:])
	if b&leasedBit == 0 {
		return 0
	}
	return Lease(b >> leaseShift & leaseMask)
}

// WithLease returns the same id under a lease, or under none.
func (id ID) WithLease(l Lease) ID {
	b := binary.BigEndian.Uint64(id[6:]) &^ leasedBit
	if l != 0 {
		b = b&^(leaseMask<<leaseShift) | leasedBit | uint64(l)<<leaseShift
	}
	binary.BigEndian.PutUint64(id[6:], b)
	return id
}
