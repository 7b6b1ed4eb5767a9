// SPDX-License-Identifier: Apache-2.0

package txn

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
)

// Secret is what only who has begun a transaction knows. From it come the Capability, which goes with
// every call of another service in the transaction, and the proofs that a vote is asked for, and a decision
// told, by who has begun it: whoever has seen no more than the capability makes none of them, and whoever has
// seen the proof that a vote is asked for makes none of a decision.
type Secret [32]byte

// Capability lets a service join a transaction. The gid has its digest, so that who knows no more than
// the gid cannot make one up.
type Capability [32]byte

// Proof shows to who knows the capability that what is said comes from who has begun the transaction.
type Proof []byte

// NewSecret draws a secret.
func NewSecret() (s Secret) {
	_, _ = rand.Read(s[:]) // it ends the process if it fails
	return s
}

// Proof proves a decision; with Undecided, that a vote is asked for.
//
//	capability = H(vote), vote = H(H(commit) H(abort)), commit and abort = H(their name, secret)
//
// The proof of a decision is the pair under vote, with one of the two in the clear. So it proves no other
// decision.
func (s Secret) Proof(d Decision) Proof {
	commit, abort := s.leaf(Commit), s.leaf(Abort)
	switch d {
	case Commit:
		return append(commit[:], digest(abort[:])...)
	case Abort:
		return append(digest(commit[:]), abort[:]...)
	}
	return digest(digest(commit[:]), digest(abort[:]))
}

// Capability returns the capability that the proofs belong to.
func (s Secret) Capability() Capability { return Capability(digest(s.Proof(Undecided))) }

func (s Secret) leaf(d Decision) [32]byte {
	return [32]byte(digest([]byte(d.String()), s[:]))
}

// Proves reports whether p is the proof of a decision; with Undecided, that a vote is asked for.
func (c Capability) Proves(p Proof, d Decision) bool {
	const half = sha256.Size
	switch {
	case d == Undecided && len(p) == half:
	case d == Commit && len(p) == 2*half:
		p = digest(digest(p[:half]), p[half:])
	case d == Abort && len(p) == 2*half:
		p = digest(p[:half], digest(p[half:]))
	default:
		return false
	}
	return bytes.Equal(digest(p), c[:])
}

// capabilityMask has the random bits of an ID that it has under a lease, too, as class.go lays them out:
// the 42 before its class.
const capabilityMask = (1<<42 - 1) << 5

// WithCapability returns the same id with the digest of a capability in place of 42 of its random bits.
func (id ID) WithCapability(c Capability) ID {
	b := binary.BigEndian.Uint64(id[8:])
	d := binary.BigEndian.Uint64(digest(c[:]))
	binary.BigEndian.PutUint64(id[8:], b&^capabilityMask|d&capabilityMask)
	return id
}

// Fits reports whether id has the digest of a capability.
func (c Capability) Fits(id ID) bool { return id.WithCapability(c) == id }

func digest(parts ...[]byte) []byte {
	h := sha256.New()
	for _, p := range parts {
		_, _ = h.Write(p) // never fails
	}
	return h.Sum(nil)
}
