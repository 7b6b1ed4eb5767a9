// SPDX-License-Identifier: Apache-2.0

package txn

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

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
