// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/api"
	"github.com/concordtx/concord/txn"
)

func TestTextsAreMadeOfWhatIsSeen(t *testing.T) {
	for _, fine := range []string{"", "Überweisung 4711", "ödeme", "送金", "перевод", "a—b", "50 €", "💳", "e\u0301",
		"नमस्ते", "a\u00a0b"} {
		require.NoError(t, api.ParseText("label", fine, 64), "%q", fine)
	}
	for what, bad := range map[string]string{
		"escape": "a\x1b[2Jb", "C1 escape": "a\u009b2Jb", "newline": "a\nb", "tab": "a\tb", "delete": "a\x7fb",
		"NUL": "\x00", "bidi override": "a\u202eb",
		"bidi isolate": "a\u2066b", "bidi mark": "a\u200fb", "Arabic letter mark": "a\u061cb",
		"zero width space": "a\u200bb", "zero width joiner": "a\u200db",
		"word joiner": "a\u2060b", "byte order mark": "\ufeffa", "soft hyphen": "a\u00adb",
		"grapheme joiner": "a\u034fb", "Hangul filler": "a\u3164b",
		"variation selector": "a\ufe0fb", "tag": "a\U000e0041b", "line separator": "a\u2028b",
		"paragraph separator": "a\u2029b", "not UTF-8": "a\xffb",
	} {
		require.ErrorIs(t, api.ParseText("label", bad, 64), txn.ErrInvalid, what)
	}
	require.ErrorContains(t, api.ParseText("label", "abcd", 3), "at most 3")
}
