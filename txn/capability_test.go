// SPDX-License-Identifier: Apache-2.0

package txn

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Each proof proves what it is for and nothing else, also to who has seen all the others.
func TestAProofProvesOneThing(t *testing.T) {
	s := NewSecret()
	c := s.Capability()
	for _, d := range []Decision{Undecided, Commit, Abort} {
		for _, other := range []Decision{Undecided, Commit, Abort} {
			require.Equal(t, d == other, c.Proves(s.Proof(d), other), "%v as %v", d, other)
			require.False(t, NewSecret().Capability().Proves(s.Proof(d), other), "to another transaction")
		}
		for i := range s.Proof(d) {
			p := s.Proof(d)
			p[i]++
			require.False(t, c.Proves(p, d))
		}
		require.False(t, c.Proves(nil, d))
		require.False(t, c.Proves(c[:], d), "the capability proves nothing")
		require.False(t, c.Proves(append(s.Proof(d), 0), d))
	}
}

// What one has seen of the vote and of the other decision does not make a proof.
func TestProofsCannotBePutTogether(t *testing.T) {
	s := NewSecret()
	c := s.Capability()
	vote, abort := s.Proof(Undecided), s.Proof(Abort)
	require.False(t, c.Proves(append(vote, vote...), Commit))
	require.False(t, c.Proves(abort, Commit))
	swapped := append(append(Proof{}, abort[32:]...), abort[:32]...)
	require.False(t, c.Proves(swapped, Commit))
	require.False(t, c.Proves(append(append(Proof{}, abort[:32]...), digest(abort[32:])...), Commit),
		"the digest of what has to be shown is not it")
}

func TestAnIDHasTheDigestOfItsCapability(t *testing.T) {
	for _, class := range []Class{Plain, Recorded} {
		for _, lease := range []Lease{0, 1, 4711, math.MaxUint32} {
			c := NewSecret().Capability()
			id := NewID(time.Now()).WithClass(class).WithLease(lease).WithCapability(c)
			require.True(t, c.Fits(id))
			require.Equal(t, lease, id.Lease())
			require.Equal(t, class, id.Class())
			require.True(t, c.Fits(id.WithLease(lease/2+1).WithClass(ThreePhase)), "it has bits of its own")
			require.False(t, NewSecret().Capability().Fits(id))
		}
	}
}
