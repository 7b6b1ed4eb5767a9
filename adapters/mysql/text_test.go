// SPDX-License-Identifier: Apache-2.0

package mysql

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/txn"
)

func TestKindErrsOnTheCarefulSide(t *testing.T) {
	read, write := kind{reads: true, plain: true, steady: true, traced: true}, kind{plain: true, steady: true, traced: true}
	dirty, call, ends, anything := kind{steady: true, traced: true}, kind{traced: true}, kind{ends: true, traced: true}, kind{}
	point := func(v verb, name string) kind {
		return kind{plain: true, steady: true, traced: name != "", verb: v, savepoint: name}
	}
	tests := []struct {
		text string
		want kind
	}{
		{"SELECT 1", read},
		{"  \n\tselect * from t", read},
		{"SELECT count(*) FROM t WHERE a = 'x'", read},
		{"SELECT 1;", read},
		{"SELECT 1 ; -- the end", read},
		{"SELECT 5--1", read},
		{"SELECT * FROM t FOR UPDATE", write},
		{"SELECT * FROM t FOR SHARE SKIP LOCKED", write},
		{"SELECT * FROM t LOCK IN SHARE MODE", write},
		{"SELECT * FROM t /*!50000 for update*/", write},
		{"SELECT * FROM t /*M!100500 for update*/", write},
		{"SELECT * FROM t -- c\nFOR UPDATE", write},
		{"SELECT '/*' FROM t FOR UPDATE -- '*/'", write},
		{"SELECT `-- ` FROM t FOR UPDATE", write},
		{"SELECT '#' FROM t FOR UPDATE", write},
		{`SELECT '\' FOR UPDATE -- '`, write}, // whether that is a string depends on the mode
		{"SELECT a FROM t INTO OUTFILE '/tmp/x'", write},
		{"SELECT 'FOR'", read},
		{"SELECT 1 /* FOR UPDATE; COMMIT */", read},
		{"SELECT 1 # FOR UPDATE", read},
		{"SELECT /*+ SET_VAR(sort_buffer_size = 16M) NO_ICP(t) */ 1", read},
		{"SELECT GET_LOCK('a', 1)", dirty},
		{"SELECT @a:=1", kind{reads: true, steady: true, traced: true}},
		{"SELECT 1 INTO @a", dirty},
		{"-- name: GetX :one\nSELECT 1", read},
		{"--\nSELECT 1", read},
		{"# a\n  # b\nSELECT 1", read},
		{"/* traceparent='00-1' */ SELECT 1", read},
		{"/**/ -- x\n # y\n /* z */ SELECT 1 /* controller='for' */", read},
		{"--name\nSELECT 1", anything},
		{"/*! SELECT */ 1", anything},
		{"/*!50000 XA END 'x' */", anything},
		{"/*M! CALL p() */", anything},
		{"/* SELECT 1", anything},
		{"SELECT 1 /* ", anything},
		{"SELECT 'x", anything},
		{"/* SELECT */ DELETE FROM t", write},
		{"(SELECT 1) UNION (SELECT 2)", read},
		{"((SELECT 1 FOR UPDATE))", write},
		{"WITH x AS (SELECT 1) SELECT * FROM x", read},
		{"WITH x AS (SELECT 1) DELETE FROM t", write},
		{"VALUES ROW(1)", read},
		{"TABLE t", read},
		{"TABLE t FOR UPDATE", write},
		{"SHOW TABLES", read},
		{"EXPLAIN SELECT 1", read},
		{"EXPLAIN ANALYZE DELETE t FROM t JOIN u", write},
		{"INSERT INTO t VALUES (1)", write},
		{"INSERT INTO t SELECT GET_LOCK('a', 1)", dirty},
		{"update t set a=1", write},
		{"DELETE FROM t", write},
		{"UPDATE t SET a = 1; XA END 'x'", anything},
		{`UPDATE t SET a = '\'; XA END ''x'`, anything},
		{"SELECT 1; -- ;\n;COMMIT", anything},
		{"SAVEPOINT a", point(setVerb, "a")},
		{"savepoint `A`", point(setVerb, "a")},
		{`SAVEPOINT "a";`, point(setVerb, "a")},
		{"SAVEPOINT /* one */ a -- two", point(setVerb, "a")},
		{"SAVEPOINT ä", point(setVerb, "")},
		{"SAVEPOINT `a``b`", point(setVerb, "")},
		{"ROLLBACK TO SAVEPOINT sp1", point(rollbackVerb, "sp1")},
		{"ROLLBACK WORK TO sp1", point(rollbackVerb, "sp1")},
		{"RELEASE SAVEPOINT sp1", point(releaseVerb, "sp1")},
		{"ROLLBACK", ends},
		{"ROLLBACK AND CHAIN", ends},
		{"COMMIT", ends},
		{"BEGIN", ends.untraced()},
		{"BEGIN NOT ATOMIC COMMIT", anything},
		{"CREATE TABLE x (i INT)", ends},
		{"SET autocommit=1", dirty},
		{"SET STATEMENT max_statement_time=1 FOR CALL p()", anything},
		{"SET @transaction = 1", dirty},
		{"SET @@session.transaction_isolation = 'SERIALIZABLE'", kind{steady: true, traced: true, refused: errLevel}},
		{"SET SESSION TRANSACTION READ ONLY", kind{steady: true, traced: true, refused: errLevel}},
		{"XA END 'x'", kind{traced: true, refused: errOwnXA}},
		{"XA RECOVER", call},
		{"USE other", dirty},
		{"CALL p()", call},
		{"EXECUTE p", anything},
		{"", anything},
		{";", anything},
		{"'SELECT'", anything},
	}
	for _, tt := range tests {
		t.Run(tt.text, func(t *testing.T) { require.Equal(t, tt.want, kindOf(tt.text)) })
	}
}

func (k kind) untraced() kind { k.traced = false; return k }

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
