// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/txn"
)

func TestOnlyEvidenceOfThisAdapterIsValid(t *testing.T) {
	r := &Resource{name: "bank"}
	e := evidence{true, "18446744073709551615", "7301234567890123456", "0000002A", "16384", "app"}
	good := txn.Branch{Evidence: e.String(), Holder: holder{pid: 4711, start: 1_700_000_000_123_456}.String()}
	require.NoError(t, r.Validate(good))
	require.NoError(t, r.Validate(txn.Branch{}), "neither has to be there")
	with := func(old, new string) string { return strings.Replace(e.String(), old, new, 1) }
	for _, evidence := range []string{"poison", "v1", with("v2", "v3"), with("18446744073709551615", "18446744073709551616"),
		with("18446744073709551615", "007"), with("7301234567890123456", "99999999999999999999"), with("16384", "4294967296"),
		e.String() + "'; drop table t; --", strings.Repeat("a", 1<<20)} {
		b := good
		b.Evidence = evidence
		require.ErrorIs(t, r.Validate(b), errEvidence, "%.80q", evidence)
	}
	for _, holder := range []string{"4711", "v1;pid=0;start=1", "v1;pid=2147483648;start=1", "v1;pid=1;start=1;", good.Evidence} {
		b := good
		b.Holder = holder
		require.ErrorIs(t, r.Validate(b), errEvidence, "%q", holder)
	}
}

// FuzzValidate takes what anybody may say of a branch.
func FuzzValidate(f *testing.F) {
	f.Add("v1;xid8=1;system=2;timeline=00000001;db=3;role=app", "v1;pid=1;start=2")
	f.Add("v2;xid8=1;system=2;timeline=00000001;db=3;role=app", "")
	f.Add("poison", "7@1@0123456789abcdef")
	f.Fuzz(func(t *testing.T, evidence, holder string) {
		if (&Resource{}).Validate(txn.Branch{Evidence: evidence, Holder: holder}) != nil {
			return
		}
		if evidence != "" {
			e, err := parseEvidence(evidence)
			require.NoError(t, err)
			require.Equal(t, evidence, e.String())
		}
		if holder != "" {
			h, err := parseHolder(holder)
			require.NoError(t, err)
			require.Equal(t, holder, h.String())
		}
	})
}
