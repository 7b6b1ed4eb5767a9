// SPDX-License-Identifier: Apache-2.0

package mysql

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/txn"
)

func TestOnlyEvidenceOfThisAdapterIsValid(t *testing.T) {
	r := &Resource{name: "bank"}
	good := txn.Branch{Evidence: markerEvidence, Holder: holder{connection: 7, start: 1795467444, server: "0123456789abcdef", detaches: true}.String()}
	require.NoError(t, r.Validate(good))
	require.NoError(t, r.Validate(txn.Branch{}), "neither has to be there")
	for _, evidence := range []string{"poison", "marker", markerEvidence + " ", strings.ToUpper(markerEvidence), strings.Repeat("a", 1<<20)} {
		b := good
		b.Evidence = evidence
		require.ErrorIs(t, r.Validate(b), errNotOurs, "%.80q", evidence)
	}
	for _, holder := range []string{"7", "0@1@0123456789abcdef", "7@0@0123456789abcdef", "7@-1@0123456789abcdef", "07@1@0123456789abcdef",
		"7@1@0123456789abcdeg", "7@1@0123456789abcdef; KILL 8", "v1;pid=1;start=1", "18446744073709551616@1@0123456789abcdef"} {
		b := good
		b.Holder = holder
		require.ErrorIs(t, r.Validate(b), errNotOurs, "%q", holder)
	}
}

// FuzzValidate takes what anybody may say of a branch.
func FuzzValidate(f *testing.F) {
	f.Add(markerEvidence, "7@1795467444@0123456789abcdef+detached")
	f.Add("poison", "v1;pid=1;start=2")
	f.Fuzz(func(t *testing.T, evidence, text string) {
		if (&Resource{}).Validate(txn.Branch{Evidence: evidence, Holder: text}) != nil {
			return
		}
		require.Contains(t, []string{"", markerEvidence}, evidence)
		if text != "" {
			h, ok := parseHolder(text)
			require.True(t, ok)
			require.Equal(t, text, h.String())
		}
	})
}
