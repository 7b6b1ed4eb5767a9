// SPDX-License-Identifier: Apache-2.0

package txn

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTheLastCharacterOfAGidIsItsClass(t *testing.T) {
	for class, last := range map[Class]string{Plain: "0", Recorded: "R", ThreePhase: "T", LastResource: "M"} {
		id := NewID(time.Now()).WithClass(class)
		require.True(t, strings.HasSuffix(id.String(), last), "%v: %v", class, id)
		require.Equal(t, class, id.Class())
		got, err := ParseID(id.String())
		require.NoError(t, err)
		require.Equal(t, id, got)
		x := XID{Cluster: 1, ID: id, Branch: 2}
		parsed, ok := ParseXID(x.String())
		require.True(t, ok)
		require.Equal(t, x, parsed)
	}
	require.Equal(t, Plain, NewID(time.Now()).Class())
}

func TestAGidOfAnUnknownClassIsRefused(t *testing.T) {
	gid := NewID(time.Now()).String()
	for _, last := range "123456789ABCDEFGHJKNPQSVWXYZ" {
		_, err := ParseID(gid[:25] + string(last))
		require.ErrorIs(t, err, ErrBadID, "%c", last)
		require.ErrorContains(t, err, "the last is 0, R, T or M")
		_, ok := ParseXID("concord-00000001-" + gid[:25] + string(last) + "-00")
		require.False(t, ok, "%c: foreign", last)
	}
	for _, bad := range []string{"", gid[:25], gid + "0", gid[:25] + "l", gid[:25] + "O", " " + gid[1:],
		"8" + gid[1:]} {
		_, err := ParseID(bad)
		require.ErrorIs(t, err, ErrBadID, "%q", bad)
	}
}

func TestALeaseInAGidChangesNeitherItsTimeNorItsClass(t *testing.T) {
	at := time.UnixMilli(1_700_000_000_123)
	for _, lease := range []Lease{1, 2, 1 << 31, math.MaxUint32} {
		for _, class := range []Class{Plain, Recorded} {
			id := NewID(at).WithClass(class).WithLease(lease)
			require.Equal(t, lease, id.Lease())
			require.Equal(t, class, id.Class())
			require.True(t, id.Time().Equal(at))
			require.NotEqual(t, id, NewID(at).WithClass(class).WithLease(lease), "42 random bits are left")
			require.Zero(t, id.WithLease(0).Lease())
		}
	}
	for range 100 {
		require.Zero(t, NewID(at).Lease())
	}
	require.Zero(t, FirstID(at).Lease())
}
