// SPDX-License-Identifier: Apache-2.0

package txn

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// keyed is a record of a transaction that was born at a time.
func keyed(at time.Time, key, result string) CommitRecord {
	return CommitRecord{ID: NewID(at).WithClass(Recorded), Branches: two, Key: key, Result: []byte(result)}
}

func TestOneTransactionIsCommittedUnderAKey(t *testing.T) {
	r := newReplica()
	now := time.UnixMilli(1_700_000_000_000)
	first, second, other := keyed(now, "order 4711", "paid"), keyed(now, "order 4711", "paid again"), keyed(now,
		"order 4712", "")
	c := r.fold(t, first, second, other) // in one entry
	require.Equal(t, []Decision{Commit, Abort, Commit}, []Decision{c.Verdicts[0].Decision, c.Verdicts[1].Decision,
		c.Verdicts[2].Decision})
	require.Equal(t, "its key was used: transaction "+first.ID.String()+" is committed under it", c.Verdicts[1].Reason)
	require.Len(t, c.Keys, 2)
	r.fold(t, End{IDs: []ID{first.ID}})
	for _, replica := range []*replica{r, r.restarted()} { // in another entry, and after a restart
		third := keyed(now, "order 4711", "")
		c = replica.fold(t, third)
		require.Equal(t, Abort, c.Verdicts[0].Decision)
		require.Empty(t, c.Keys)
		use, ok := replica.Key("order 4711")
		require.True(t, ok)
		require.Equal(t, KeyUse{Key: "order 4711", ID: first.ID, Result: []byte("paid")}, use)
	}
	c = r.fold(t, first) // again
	require.Equal(t, Commit, c.Verdicts[0].Decision)
	require.Empty(t, c.Keys)
	_, ok := r.Key("order 4713")
	require.False(t, ok)
}

// What was aborted used no key, and a transaction that comes too late with its own key neither.
func TestAnAbortUsesNoKey(t *testing.T) {
	r := newReplica()
	now := time.UnixMilli(1_700_000_000_000)
	first := keyed(now, "k", "")
	r.fold(t, AbortRecord{ID: first.ID})
	c := r.fold(t, first)
	require.Equal(t, Abort, c.Verdicts[0].Decision)
	require.Empty(t, c.Keys)
	c = r.fold(t, keyed(now, "k", ""))
	require.Equal(t, Commit, c.Verdicts[0].Decision)
}

// A key is forgotten with its transaction, at all nodes at the same position, whatever is still stored.
func TestAKeyIsForgottenWithItsTransaction(t *testing.T) {
	r := newReplica()
	begin := time.UnixMilli(1_700_000_000_000)
	first := keyed(begin, "k", "one")
	r.fold(t, first, End{IDs: []ID{first.ID}})
	r.fold(t, Watermark{Time: begin})
	_, ok := r.Key("k")
	require.True(t, ok)
	r.fold(t, Watermark{Time: begin.Add(time.Millisecond)})
	_, ok = r.Key("k")
	require.False(t, ok)
	second := keyed(begin.Add(time.Hour), "k", "two")
	c := r.fold(t, second)
	require.Equal(t, Commit, c.Verdicts[0].Decision)
	use, _ := r.Key("k")
	require.Equal(t, "two", string(use.Result))
	c = r.fold(t, keyed(begin.Add(2*time.Hour), "k", "three"))
	require.Equal(t, Abort, c.Verdicts[0].Decision)
}

func TestKeyUseRoundTrip(t *testing.T) {
	for _, result := range []string{"", "\x00\xff", strings.Repeat("x", MaxResult)} {
		want := KeyUse{ID: NewID(time.Now()), Result: []byte(result)}
		b, err := want.AppendBinary(nil)
		require.NoError(t, err)
		var got KeyUse
		require.NoError(t, got.UnmarshalBinary(b))
		require.Equal(t, want.ID, got.ID)
		require.Equal(t, result, string(got.Result))
		require.ErrorIs(t, got.UnmarshalBinary(b[:10]), ErrBadTxn)
	}
	var u KeyUse
	require.ErrorIs(t, u.UnmarshalBinary(append(make([]byte, 17), make([]byte, MaxResult+1)...)), ErrBadTxn)
	for _, r := range []CommitRecord{keyed(time.Now(), strings.Repeat("k", MaxKey+1), ""), keyed(time.Now(), "k",
		strings.Repeat("x", MaxResult+1))} {
		_, err := DecodeRecords(EncodeRecords(nil, r))
		require.ErrorIs(t, err, ErrBadRecord)
	}
	without := append(EncodeRecords(nil), byte(kindKeyedCommit)) // which is a record of another kind
	without = append(without, keyed(time.Now(), "", "").append(nil)...)
	_, err := DecodeRecords(append(without, 0, 0))
	require.ErrorIs(t, err, ErrBadRecord)
}
