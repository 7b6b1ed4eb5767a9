// SPDX-License-Identifier: Apache-2.0

package sqltext

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestKindErrsOnTheCarefulSide(t *testing.T) {
	read, write := Kind{Reads: true, Plain: true, Steady: true, Traced: true},
		Kind{Plain: true, Steady: true, Traced: true}
	dirty, call, ends, anything := Kind{Steady: true, Traced: true}, Kind{Traced: true}, Kind{Ends: true, Traced: true},
		Kind{}
	point := func(v Verb, name string) Kind {
		return Kind{Plain: true, Steady: true, Traced: name != "", Verb: v, Savepoint: name}
	}
	tests := []struct {
		text string
		want Kind
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
		{"SELECT @a:=1", Kind{Reads: true, Steady: true, Traced: true}},
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
		{"SELECT 1 /*!99999 ' */; XA END 'x'; SELECT 1 -- '", anything}, // the server skips that comment
		{"SELECT 1 /*!99999 ` */; XA END 'x'; SELECT 1 -- `", anything},
		{"SELECT 1 /*!99999 -- */; XA END 'x'", anything},
		{"SELECT 1 /*M!999999 /* */; XA END 'x' */", anything},
		{"SELECT 1 /*! ", anything},
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
		{"SAVEPOINT a", point(SetVerb, "a")},
		{"savepoint `A`", point(SetVerb, "a")},
		{`SAVEPOINT "a";`, point(SetVerb, "a")},
		{"SAVEPOINT /* one */ a -- two", point(SetVerb, "a")},
		{"SAVEPOINT ä", point(SetVerb, "")},
		{"SAVEPOINT `a``b`", point(SetVerb, "")},
		{"ROLLBACK TO SAVEPOINT sp1", point(RollbackVerb, "sp1")},
		{"ROLLBACK WORK TO sp1", point(RollbackVerb, "sp1")},
		{"RELEASE SAVEPOINT sp1", point(ReleaseVerb, "sp1")},
		{"ROLLBACK", ends},
		{"ROLLBACK AND CHAIN", ends},
		{"COMMIT", ends},
		{"BEGIN", ends.untraced()},
		{"BEGIN NOT ATOMIC COMMIT", anything},
		{"CREATE TABLE x (i INT)", ends},
		{"SET autocommit=1", dirty},
		{"SET STATEMENT max_statement_time=1 FOR CALL p()", anything},
		{"SET @transaction = 1", dirty},
		{"SET @@session.transaction_isolation = 'SERIALIZABLE'", Kind{Steady: true, Traced: true, Refused: ErrLevel}},
		{"SET SESSION TRANSACTION READ ONLY", Kind{Steady: true, Traced: true, Refused: ErrLevel}},
		{"XA END 'x'", Kind{Traced: true, Refused: ErrOwnXA}},
		{"INSERT DELAYED INTO x VALUES (1)", Kind{Plain: true, Steady: true, Traced: true, Refused: ErrDelayed}},
		{"REPLACE /* so */ delayed x VALUES (1)", Kind{Plain: true, Steady: true, Traced: true, Refused: ErrDelayed}},
		{"XA RECOVER", call},
		{"USE other", dirty},
		{"CALL p()", call},
		{"EXECUTE p", anything},
		{"", anything},
		{";", anything},
		{"'SELECT'", anything},
	}
	for _, tt := range tests {
		t.Run(tt.text, func(t *testing.T) { require.Equal(t, tt.want, Read(tt.text)) })
	}
}

func (k Kind) untraced() Kind { k.Traced = false; return k }

func TestNamesAreFoundWhereverTheyMayBe(t *testing.T) {
	is := func(name string) bool { return strings.EqualFold(name, "stays") }
	for text, want := range map[string]bool{
		"INSERT INTO stays VALUES (1)":                true,
		"-- name: Put :exec\nINSERT INTO `Stays` () ": true,
		`INSERT INTO "stays" VALUES (1)`:              true,
		"INSERT INTO shop.STAYS VALUES (1)":           true,
		"/*! INSERT INTO other VALUES (1) */":         true, // who knows
		"INSERT INTO other VALUES (1); SELECT 2":      true,
		"INSERT INTO other VALUES ('it stays')":       false,
		"INSERT INTO stay VALUES (1) /* not stays */": false,
	} {
		require.Equal(t, want, Names(text, is), text)
	}
}
