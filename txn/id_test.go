// SPDX-License-Identifier: Apache-2.0

package txn

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestXIDRoundTrips(t *testing.T) {
	x := XID{Cluster: 0xc0ffee01, ID: NewID(time.Now()), Branch: 0xab}
	require.Len(t, x.String(), 46)
	require.Len(t, x.Gtrid(), 43)
	got, ok := ParseXID(x.String())
	require.True(t, ok)
	require.Equal(t, x, got)
	got, ok = ParseXA(FormatID, []byte(x.Gtrid()), []byte(x.Bqual()))
	require.True(t, ok)
	require.Equal(t, x, got)
}

func TestForeignNamesDoNotParse(t *testing.T) {
	good := XID{Cluster: 1, ID: NewID(time.Now()), Branch: 10}.String()
	for _, s := range []string{
		"", "concord-", good[:45], good + "0", " " + good[1:], "x'; DROP TABLE account; --",
		good[:44] + "0A",                     // upper-case hex
		"concord-0000000G" + good[16:],       // not hex
		good[:17] + "o" + good[18:],          // lower-case base 32
		good[:17] + "8" + good[18:],          // overflows 128 bits
		good[:20] + "\x00" + good[21:],       // NUL
		good[:16] + "_" + good[17:],          // separator
		good[:len(good)-3] + "_" + good[44:], // separator
	} {
		_, ok := ParseXID(s)
		require.False(t, ok, "%q", s)
	}
	x, _ := ParseXID(good)
	_, ok := ParseXA(FormatID+1, []byte(x.Gtrid()), []byte(x.Bqual()))
	require.False(t, ok)
}

func FuzzParseXID(f *testing.F) {
	f.Add(XID{Cluster: 1, ID: NewID(time.Now()), Branch: 10}.String())
	f.Add("x'; drop table acct; --")
	f.Add("concord-\xff\x00")
	f.Fuzz(func(t *testing.T, s string) {
		if x, ok := ParseXID(s); ok {
			require.Equal(t, s, x.String())
		}
	})
}

func FuzzParseXA(f *testing.F) {
	x := XID{Cluster: 1, ID: NewID(time.Now()), Branch: 10}
	f.Add(int64(FormatID), []byte(x.Gtrid()), []byte(x.Bqual()))
	f.Add(int64(-1), []byte(x.Gtrid()), []byte(x.Bqual()))
	f.Add(int64(FormatID), []byte(x.Gtrid()), []byte("A0"))
	f.Fuzz(func(t *testing.T, format int64, gtrid, bqual []byte) {
		if x, ok := ParseXA(format, gtrid, bqual); ok {
			require.EqualValues(t, FormatID, format)
			require.Equal(t, string(gtrid), x.Gtrid())
			require.Equal(t, string(bqual), x.Bqual())
		}
	})
}

func TestIDsSortByBirth(t *testing.T) {
	at := time.UnixMilli(1_700_000_000_123)
	early, late := NewID(at), NewID(at.Add(time.Millisecond))
	require.Less(t, early.String(), late.String())
	require.True(t, early.Time().Equal(at))
	require.LessOrEqual(t, FirstID(at).String(), early.String())
	require.Greater(t, FirstID(at.Add(time.Millisecond)).String(), early.String())
}

// The text form is that of the specification of ULIDs, whose example this is.
func TestTheTextOfAnID(t *testing.T) {
	id := ID{0x01, 0x56, 0x3e, 0x3a, 0xb5, 0xd3, 0xd6, 0x76, 0x4c, 0x61, 0xef, 0xb9, 0x93, 0x02, 0xbd, 0x5b}
	require.Equal(t, "01ARZ3NDEKTSV4RRFFQ69G5FAV", id.String())
	require.Equal(t, time.UnixMilli(1469922850259), id.Time())
}

func TestIDsAreReadInEitherCase(t *testing.T) {
	for _, class := range []Class{Plain, Recorded, ThreePhase, LastResource} {
		id := NewID(time.Now()).WithClass(class)
		for _, s := range []string{id.String(), strings.ToLower(id.String())} {
			got, err := ParseID(s)
			require.NoError(t, err)
			require.Equal(t, id, got)
		}
	}
	good := NewID(time.Now()).String()
	for _, s := range []string{
		"", good[:25], good + "0", " " + good[1:],
		// no aliases
		good[:3] + "I" + good[4:], good[:3] + "l" + good[4:], good[:3] + "o" + good[4:], good[:3] + "u" + good[4:],
		good[:3] + "\u017f" + good[5:], good[:3] + "\u212a" + good[6:], // which other alphabets fold to S and K
		"8" + good[1:], // more than 128 bits
		good[:25] + "1",
	} {
		_, err := ParseID(s)
		require.ErrorIs(t, err, ErrBadID, "%q", s)
	}
}

func FuzzParseID(f *testing.F) {
	f.Add(NewID(time.Now()).String())
	f.Add(strings.ToLower(NewID(time.Now()).WithClass(Recorded).String()))
	f.Fuzz(func(t *testing.T, s string) {
		if id, err := ParseID(s); err == nil {
			require.Equal(t, strings.ToUpper(s), id.String())
		}
	})
}

func TestAnIDGoesIntoColumnsAndDocumentsAsItsText(t *testing.T) {
	id := NewID(time.Now()).WithClass(Recorded)
	value, err := id.Value()
	require.NoError(t, err)
	require.Equal(t, id.String(), value)
	for _, src := range []any{id.String(), []byte(strings.ToLower(id.String()))} {
		var got ID
		require.NoError(t, got.Scan(src))
		require.Equal(t, id, got)
	}

	zero, err := ID{}.Value()
	require.NoError(t, err)
	require.Nil(t, zero)
	got := id
	require.NoError(t, got.Scan(nil))
	require.True(t, got.IsZero())

	type order struct {
		GID  ID            `json:"gid"`
		Seen map[ID]string `json:"seen"`
	}
	text, err := json.Marshal(order{GID: id, Seen: map[ID]string{id: "x"}})
	require.NoError(t, err)
	require.JSONEq(t, `{"gid":"`+id.String()+`","seen":{"`+id.String()+`":"x"}}`, string(text))
	var back order
	require.NoError(t, json.Unmarshal(text, &back))
	require.Equal(t, order{GID: id, Seen: map[ID]string{id: "x"}}, back)

	require.ErrorIs(t, got.Scan("x'; drop table account; --"), ErrBadID)
	require.EqualError(t, got.Scan(int64(7)), "a int64: "+ErrBadID.Error())
	require.True(t, got.IsZero(), "what cannot be read changes nothing")
	require.ErrorIs(t, json.Unmarshal([]byte(`{"gid":"no"}`), &back), ErrBadID)
}

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
