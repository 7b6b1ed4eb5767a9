// SPDX-License-Identifier: Apache-2.0

package sqltext

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWhatTheTextOfAStatementShows(t *testing.T) {
	read, write := Statement{}, Statement{works: true}
	change, loud := Statement{works: true, Writes: true}, Statement{Loud: true, works: true}
	rolls, ends := Statement{Ends: true, Loud: true}, Statement{Ends: true, Keeps: true, Loud: true}
	sets, keeps := Statement{Leaves: Revoked}, Statement{Loud: true, works: true, Leaves: Lasting}
	several := func(st Statement) Statement { st.Several = true; return st }
	for sql, want := range map[string]Statement{
		"":                  {},
		"select 1":          read,
		"Select 1;":         read,
		";; -- nothing\n ;": {},
		"-- name: Get :one\nselect * from account where k = $1 and v in ($2, $3)":               read,
		"/* a /* nested */ ; */ select count(*), coalesce(max(v), 0) from (select 1 as v) as t": read,
		"with t as (select 1) select case when 1 = 1 then (2) else 3 end from t":                write,
		"select 'it''s; commit', e'\\'; commit', \"a;\"\"b\", $x$; commit$x$, $$;commit$$":      read,
		`select 'a\'`:                      read,
		"select v::numeric(10, 2) from t":  read,
		"update t set v = 1 where false":   change,
		"show lock_timeout":                read,
		"set local search_path = x":        read,
		"set transaction read only":        read,
		"select set_config('a', $1, true)": read,
		"insert into account (k, v) values ($1, $2) on conflict (k) do nothing": change,
		`insert into bank."account" (k) select k from (values (1)) as t (k)`:    change,
		"insert into account (k) values (f(1))": Statement{Loud: true, works: true,
			Writes: true},
		"with x as (insert into t values (1) returning 1) select count(*) from x": change,
		"explain analyze delete from t":                                           change,
		"explain (analyze) merge into t using s on true when matched then delete": change,
		"select 1 from t for update":                                              read,
		"select 1 from t for no key update":                                       read,
		"begin":                                                                   read,
		"savepoint A":                                                             {SavedAs: "a"},
		`savepoint "A"`:                                                           {SavedAs: "A"},
		"release a":                                                               {Released: "a"},
		"RELEASE SAVEPOINT a":                                                     {Released: "a"},
		"rollback to a":                                                           {BackTo: "a"},
		"rollback transaction to savepoint A;":                                    {BackTo: "a"},
		"rollback work to a":                                                      {BackTo: "a"},
		"select my_function(1)":                                                   loud,
		"select public.count(1)":                                                  loud,
		`select "count"(1)`:                                                       loud,
		"select pg_notify('c', 'x')":                                              loud,
		"select pg_notify -- count\n('c')":                                        loud,
		"notify c":                                                                loud,
		"rollback; insert into t values (1)": several(Statement{Ends: true,
			works: true, Loud: true, Writes: true}),
		"call p()":                       loud,
		"execute p":                      loud,
		"a_name_that_was_prepared":       loud,
		"create table t (i int)":         loud,
		"select temp, hold from weather": read,
		"commit":                         ends,
		"/* x */ COMMIT and chain":       ends,
		"end;":                           ends,
		"abort":                          rolls,
		"rollback":                       rolls,
		"rollback and chain":             rolls,
		"select 1; rollback; begin":      several(rolls),
		"select $1; commit":              several(ends),
		"set search_path = x":            sets,
		"set session characteristics as transaction read only": sets,
		"select set_config('a', 'true', false)":                sets,
		"select set_config('a', $1, $2)":                       sets,
		"reset all":                                            Statement{Loud: true, works: true, Leaves: Revoked},
		"listen c":                                             Statement{Loud: true, works: true, Leaves: Revoked},
		"declare c cursor with hold for select 1":              Statement{Loud: true, works: true, Leaves: Revoked},
		"create temp table t (i int)":                          Statement{Loud: true, works: true, Leaves: Revoked},
		"select 1 as i into temporary t":                       Statement{Loud: true, Leaves: Revoked},
		"select pg_advisory_lock(1)":                           keeps,
		"select pg_catalog.pg_try_advisory_lock(1)":            keeps,
		"do $$ begin null; end $$":                             keeps,
		"deallocate all":                                       keeps,
		"deallocate prepare all":                               keeps,
		"deallocate p":                                         Statement{Loud: true, works: true},
		"prepare p as select 1":                                Statement{Loud: true, Leaves: Lasting},
		"prepare transaction 'x'": Statement{Ends: true, Keeps: true, Loud: true,
			Leaves: Lasting},
		"select 'never ends":     Opaque,
		"select 1 /* never ends": Opaque,
		"select $$ never ends":   Opaque,
	} {
		require.Equal(t, want, Read(sql, true), "%s", sql)
	}
	for sql, want := range map[string]Statement{
		"select 1 -- comment\r; commit":                         several(ends),
		"select 1 -- comment; commit":                           read,
		"select e'a'\n'b\\'; commit; select '":                  read,
		"select e'a' -- comment\n'b\\'; commit; select '":       read,
		"select e'a' 'b\\'; commit; select ''":                  several(ends),
		"select 'a'\n'b\\'; commit":                             several(ends),
		"select 1 as a$b$; commit; select 1 as a$b$":            several(ends),
		"select u&'d\\0061t' || b'01' || x'1f' || n'x; commit'": read,
	} {
		require.Equal(t, want, Read(sql, true), "%s", sql)
	}
	require.Equal(t, several(ends), Read(`select 'a\'; commit; select 'b'`, true))
	require.Equal(t, Opaque, Read(`select 'a\'; commit; select 'b'`, false))
	require.Equal(t, several(ends), Read(`select 'a\''; commit; select 'b'`, false))
}

// FuzzStatement reads any text as the application may send it. What is added behind it is
// seen, unless the text never ends.
func FuzzStatement(f *testing.F) {
	for _, text := range []string{"select 1", "select 'a;''b' -- c\n", "$x$;$x$", "/* /* */", `e'\'`, `"a""b`,
		"select $1;", "a$b$c"} {
		f.Add(text, true)
	}
	f.Fuzz(func(t *testing.T, text string, conforming bool) {
		st := Read(text+"\n;commit", conforming)
		require.True(t, st.Ends && st.Keeps, "%+v", st)
		_ = Read(text, conforming)
	})
}
