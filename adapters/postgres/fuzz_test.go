// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/txn"
)

// FuzzPostgresListing reads a row of pg_prepared_xacts: names of anybody.
func FuzzPostgresListing(f *testing.F) {
	f.Add(txn.XID{Cluster: 7, ID: txn.NewID(time.Now()), Branch: 3}.String(), "app")
	f.Add("x'; drop table canary; --", `a"; drop role app; --`)
	f.Add("concord-\x00\xff\\", "")
	f.Fuzz(func(t *testing.T, gid, owner string) {
		p, ours := parseListed(gid, owner, time.Time{})
		if ours {
			require.Equal(t, gid, p.XID.String(), "what is ours is written as we write it")
			require.Equal(t, owner, p.Owner)
		}
	})
}

// FuzzPostgresDSN opens a resource of any data source name, without connecting.
func FuzzPostgresDSN(f *testing.F) {
	f.Add("postgres://app:secret@127.0.0.1:5432/orders")
	f.Add("host=127.0.0.1 user=app password='a b' dbname=orders")
	f.Add("postgres://app:s%zzcret@[::1")
	f.Add("service=none sslmode=verify-full")
	f.Fuzz(func(t *testing.T, dsn string) {
		r, err := Open(context.Background(), "orders", dsn)
		if err == nil {
			require.NoError(t, r.Close())
		}
	})
}

// FuzzStatement reads any text as the application may send it. What is added behind it is
// seen, unless the text never ends.
func FuzzStatement(f *testing.F) {
	for _, text := range []string{"select 1", "select 'a;''b' -- c\n", "$x$;$x$", "/* /* */", `e'\'`, `"a""b`, "select $1;", "a$b$c"} {
		f.Add(text, true)
	}
	f.Fuzz(func(t *testing.T, text string, conforming bool) {
		st := readStatement(text+"\n;commit", conforming)
		require.True(t, st.ends && st.keeps, "%+v", st)
		_ = readStatement(text, conforming)
	})
}
