// SPDX-License-Identifier: Apache-2.0

package mysql

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/txn"
)

func TestKindErrsOnTheCarefulSide(t *testing.T) {
	read, plain, other := kind{reads: true, plain: true}, kind{plain: true}, kind{}
	tests := []struct {
		text string
		want kind
	}{
		{"SELECT 1", read},
		{"  \n\tselect * from t", read},
		{"SELECT count(*) FROM t WHERE a = 'x'", read},
		{"SELECT * FROM t FOR UPDATE", plain},
		{"SELECT * FROM t FOR SHARE SKIP LOCKED", plain},
		{"SELECT * FROM t LOCK IN SHARE MODE", plain},
		{"SELECT * FROM t /*!50000 for update*/", plain},
		{"SELECT a FROM t INTO OUTFILE '/tmp/x'", plain},
		{"SELECT 'FOR'", plain}, // a write, to be careful
		{"SELECT GET_LOCK('a', 1)", other},
		{"SELECT @a:=1", kind{reads: true}},
		{"/* SELECT */ DELETE FROM t", other},
		{"(SELECT 1)", other},
		{"WITH x AS (SELECT 1) DELETE FROM t", other},
		{"INSERT INTO t VALUES (1)", plain},
		{"INSERT INTO t SELECT GET_LOCK('a', 1)", other},
		{"update t set a=1", plain},
		{"DELETE FROM t", plain},
		{"SAVEPOINT a", plain},
		{"SET autocommit=1", other},
		{"USE other", other},
		{"CREATE TEMPORARY TABLE x (i INT)", other},
		{"CALL p()", other},
		{"", other},
		{";", other},
	}
	for _, tt := range tests {
		t.Run(tt.text, func(t *testing.T) { require.Equal(t, tt.want, kindOf(tt.text)) })
	}
}

func TestHolderIsReadBackExactly(t *testing.T) {
	for _, h := range []holder{
		{connection: 7, start: 1795467444, server: "0123456789abcdef"},
		{connection: 1 << 40, start: 1, server: "ffffffffffffffff", detaches: true},
	} {
		got, ok := parseHolder(h.String())
		require.True(t, ok)
		require.Equal(t, h, got)
	}
	for _, text := range []string{"", "7", "7@1@short", "-7@1@0123456789abcdef", "07@1@0123456789abcdef", "7@1@0123456789abcdef+", "7; KILL 8@1@0123456789abcdef", "7@1@0123456789abcdef+detached+detached"} {
		_, ok := parseHolder(text)
		require.False(t, ok, text)
	}
}

func TestXAWritesHexadecimal(t *testing.T) {
	x := txn.XID{Cluster: 0x0badcafe, Branch: 255}
	require.Equal(t, "X'636f6e636f72642d30626164636166652d3030303030303030303030303030303030303030303030303030',X'6666',1129270851", xa(x))
}

func TestListedRowsThatAreNotOursAreForeign(t *testing.T) {
	x := txn.XID{Cluster: 1, ID: txn.ID{1}, Branch: 2}
	data := x.Gtrid() + x.Bqual()
	got, ours := parseListed([]string{"1129270851", "43", "2", data})
	require.True(t, ours)
	require.Equal(t, x, got)
	for _, row := range [][]string{
		nil,
		{"1129270851", "43", "2"},
		{"1", "43", "2", data},
		{"1129270851", "42", "3", data},
		{"1129270851", "43", "3", data},
		{"1129270851", "-1", "46", data},
		{"1129270851", "43", "2", "x" + data[1:]},
		{"x", "43", "2", data},
	} {
		_, ours := parseListed(row)
		require.False(t, ours, "%q", row)
	}
}

func TestVersionsCompareAsNumbers(t *testing.T) {
	for version, want := range map[string]bool{"8.0.29": true, "8.0.9": false, "8.0.30-22": true, "9.7.4": true, "10.1.0": true, "5.7.44-log": false, "8.1.0": true, "unknown": false} {
		require.Equal(t, want, server{version: version}.atLeast(8, 0, 29), version)
	}
}
