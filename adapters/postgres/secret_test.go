// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/internal/testdb"
	"github.com/concordtx/concord/txn"
)

const canary = "c4n4ry-p4ss"

func TestPasswordIsInNoError(t *testing.T) {
	for _, dsn := range []string{
		"postgres://app:" + canary + "%zz@127.0.0.1/bank",
		"postgres://app:" + canary + "@127.0.0.1:port/bank",
		"postgres://app:" + canary + "@127.0.0.1/bank?sslmode=" + canary,
		"postgres://app:" + canary + "@127.0.0.1/bank?pool_max_conns=" + canary,
		"host=127.0.0.1 password='" + canary,
		"host=127.0.0.1 password=" + canary + " port=" + canary,
		canary,
	} {
		_, err := Open(context.Background(), "bank", dsn)
		require.Error(t, err, "%s", strings.ReplaceAll(dsn, canary, "*"))
		require.NotContains(t, err.Error(), canary)
		require.ErrorContains(t, err, "write it as postgres://")
	}

	b := bankWith(t, testdb.WithPasswords())
	every := func(user string) {
		r, err := Open(b.ctx, "bank", b.db.UserDSN(user, canary, ""))
		require.NoError(t, err)
		defer r.Close()
		var errs []error
		note := func(err error) { errs = append(errs, err) }
		_, err = r.Identity(b.ctx)
		note(err)
		_, err = r.Recover(b.ctx)
		note(err)
		_, err = r.Check(b.ctx)
		note(err)
		_, err = r.Open(b.ctx, newXID())
		note(err)
		_, err = r.Commit(b.ctx, newXID(), txn.Branch{})
		note(err)
		_, err = r.Rollback(b.ctx, newXID(), txn.Branch{})
		note(err)
		for _, err := range errs {
			require.Error(t, err)
			require.NotContains(t, err.Error(), canary)
			require.ErrorContains(t, err, "check ") // the next step
		}
	}
	every("app") // wrong password
	require.NoError(t, b.db.Exec(b.ctx, "", "alter role app password '"+canary+"'"))
	require.NoError(t, b.db.Stop())
	every("app") // nobody listens
	require.NoError(t, b.db.Start())
	b.admin.Reset()
	b.Resource = New("bank", b.admin)
}

func TestOpenDoesNotConnect(t *testing.T) {
	r, err := Open(context.Background(), "bank", "postgres://app@127.0.0.1:1/bank")
	require.NoError(t, err)
	require.NoError(t, r.Close())
}

func TestEvidenceAndHolderRoundTrip(t *testing.T) {
	e := evidence{true, "18446744073709551615", "7301234567890123456", "0000002A", "16384", `we;rd "röle"` + "\n="}
	got, err := parseEvidence(e.String())
	require.NoError(t, err)
	require.Equal(t, e, got)
	h, err := parseHolder(holder{4294967295, 1700000000123456}.String())
	require.NoError(t, err)
	require.Equal(t, holder{4294967295, 1700000000123456}, h)
	require.Empty(t, holder{}.String())
	for _, bad := range []string{"", "v1", e.String() + ";", " " + e.String(), strings.Replace(e.String(), "v2", "v3", 1), strings.Replace(e.String(), "0000002A", "0000002a", 1)} {
		_, err := parseEvidence(bad)
		require.ErrorIs(t, err, errEvidence, "%q", bad)
	}
	for _, bad := range []string{"", "v1;pid=0;start=1", "v1;pid=4294967296;start=1", "v1;pid=01;start=1", "v1;pid=1;start=1\n"} {
		_, err := parseHolder(bad)
		require.ErrorIs(t, err, errEvidence, "%q", bad)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("v1;xid8=1;system=2;timeline=00000001;db=3;role=app")
	f.Add("v1;pid=1;start=2")
	f.Fuzz(func(t *testing.T, s string) {
		if e, err := parseEvidence(s); err == nil {
			require.Equal(t, s, e.String())
		}
		if h, err := parseHolder(s); err == nil {
			require.Equal(t, s, h.String())
		}
	})
}
