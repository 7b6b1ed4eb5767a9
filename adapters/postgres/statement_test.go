// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWhatTheTextOfAStatementShows(t *testing.T) {
	read, write := statement{}, statement{works: true}
	loud := statement{loud: true, works: true}
	rolls, ends := statement{ends: true, loud: true}, statement{ends: true, keeps: true, loud: true}
	sets, keeps := statement{leaves: revoked}, statement{loud: true, works: true, leaves: lasting}
	several := func(st statement) statement { st.several = true; return st }
	for sql, want := range map[string]statement{
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
		"update t set v = 1 where false":   write,
		"show lock_timeout":                read,
		"set local search_path = x":        read,
		"set transaction read only":        read,
		"select set_config('a', $1, true)": read,
		"insert into account (k, v) values ($1, $2) on conflict (k) do nothing": write,
		`insert into bank."account" (k) select k from (values (1)) as t (k)`:    write,
		"insert into account (k) values (f(1))":                                 loud,
		"begin":                                                                 read,
		"savepoint A":                                                           {savedAs: "a"},
		`savepoint "A"`:                                                         {savedAs: "A"},
		"release a":                                                             {released: "a"},
		"RELEASE SAVEPOINT a":                                                   {released: "a"},
		"rollback to a":                                                         {backTo: "a"},
		"rollback transaction to savepoint A;":                                  {backTo: "a"},
		"rollback work to a":                                                    {backTo: "a"},
		"select my_function(1)":                                                 loud,
		"select public.count(1)":                                                loud,
		`select "count"(1)`:                                                     loud,
		"select pg_notify('c', 'x')":                                            loud,
		"select pg_notify -- count\n('c')":                                      loud,
		"notify c":                                                              loud,
		"rollback; insert into t values (1)":                                    several(statement{ends: true, works: true, loud: true}),
		"call p()":                                                              loud,
		"execute p":                                                             loud,
		"a_name_that_was_prepared":                                              loud,
		"create table t (i int)":                                                loud,
		"select temp, hold from weather":                                        read,
		"commit":                                                                ends,
		"/* x */ COMMIT and chain":                                              ends,
		"end;":                                                                  ends,
		"abort":                                                                 rolls,
		"rollback":                                                              rolls,
		"rollback and chain":                                                    rolls,
		"select 1; rollback; begin":                                             several(rolls),
		"select $1; commit":                                                     several(ends),
		"set search_path = x":                                                   sets,
		"set session characteristics as transaction read only": sets,
		"select set_config('a', 'true', false)":                sets,
		"select set_config('a', $1, $2)":                       sets,
		"reset all":                                            statement{loud: true, works: true, leaves: revoked},
		"listen c":                                             statement{loud: true, works: true, leaves: revoked},
		"declare c cursor with hold for select 1":              statement{loud: true, works: true, leaves: revoked},
		"create temp table t (i int)":                          statement{loud: true, works: true, leaves: revoked},
		"select 1 as i into temporary t":                       statement{loud: true, leaves: revoked},
		"select pg_advisory_lock(1)":                           keeps,
		"select pg_catalog.pg_try_advisory_lock(1)":            keeps,
		"do $$ begin null; end $$":                             keeps,
		"prepare p as select 1":                                statement{loud: true, leaves: lasting},
		"prepare transaction 'x'":                              statement{ends: true, keeps: true, loud: true, leaves: lasting},
		"select 'never ends":                                   opaque,
		"select 1 /* never ends":                               opaque,
		"select $$ never ends":                                 opaque,
	} {
		require.Equal(t, want, readStatement(sql, true), "%s", sql)
	}
	for sql, want := range map[string]statement{
		"select 1 -- comment\r; commit":                         several(ends),
		"select 1 -- comment; commit":                           read,
		"select e'a'\n'b\\'; commit; select '":                  read,
		"select e'a' -- comment\n'b\\'; commit; select '":       read,
		"select e'a' 'b\\'; commit; select ''":                  several(ends),
		"select 'a'\n'b\\'; commit":                             several(ends),
		"select 1 as a$b$; commit; select 1 as a$b$":            several(ends),
		"select u&'d\\0061t' || b'01' || x'1f' || n'x; commit'": read,
	} {
		require.Equal(t, want, readStatement(sql, true), "%s", sql)
	}
	require.Equal(t, several(ends), readStatement(`select 'a\'; commit; select 'b'`, true))
	require.Equal(t, opaque, readStatement(`select 'a\'; commit; select 'b'`, false))
	require.Equal(t, several(ends), readStatement(`select 'a\''; commit; select 'b'`, false))
}
