// SPDX-License-Identifier: Apache-2.0

package mysql

import (
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/txn"
)

// FuzzMySQLListing reads a row of XA RECOVER, in which everything is somebody else's:
// the format, both lengths and the bytes.
func FuzzMySQLListing(f *testing.F) {
	x := txn.XID{Cluster: 7, ID: txn.NewID(time.Now()), Branch: 3}
	format, data := strconv.Itoa(txn.FormatID), x.Gtrid()+x.Bqual()
	gtrid := strconv.Itoa(len(x.Gtrid()))
	f.Add(format, gtrid, "2", data)
	f.Add(format, "-1", strconv.Itoa(len(data)+1), data)
	f.Add(format, "9223372036854775807", "9223372036854775807", data)
	f.Add(format, gtrid, "2", data[:10])
	f.Add("99999999999999999999", "0", "0", "")
	f.Add("1", "64", "64", string(make([]byte, 128)))
	f.Add(format, gtrid, "2", "x'; drop table canary; -- \x00\xff\\")
	f.Fuzz(func(t *testing.T, format, gtrid, bqual, data string) {
		x, ours := parseListed([]string{format, gtrid, bqual, data})
		if ours {
			require.Equal(t, data, x.Gtrid()+x.Bqual(), "what is ours is written as we write it")
		}
		_, ours = parseListed([]string{format, gtrid, bqual})
		require.False(t, ours, "a row without a name")
	})
}

// FuzzMySQLDSN opens a resource of any data source name. An error never repeats it.
func FuzzMySQLDSN(f *testing.F) {
	f.Add("app:secret@tcp(127.0.0.1:3306)/billing")
	f.Add("app:s@c/r(e)t@unix(/run/mysqld.sock)/billing?parseTime=true&timeout=5s")
	f.Add("@tcp()/")
	f.Add("app:secret@tcp(db:3306)/billing?serverPubKey=%zz")
	f.Fuzz(func(t *testing.T, dsn string) {
		r, err := Open("billing", dsn)
		if err != nil {
			require.EqualError(t, err, `resource "billing": `+ErrBadDSN.Error())
			return
		}
		require.NoError(t, r.Close())
	})
}
