// SPDX-License-Identifier: Apache-2.0

package txn

import (
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
