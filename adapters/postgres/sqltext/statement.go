// SPDX-License-Identifier: Apache-2.0

package sqltext

import (
	"slices"
	"strings"
)

// Statement is what the text of one message to the server shows without asking anybody.
// It is never trusted to be harmless where that would cost a right answer: the vote asks
// the server whether the transaction is still the branch's own, and only PREPARE
// TRANSACTION tells whether a branch has done what cannot be prepared. The text decides
// when the more expensive question has to be put.
type Statement struct {
	Ends     bool // it may end the transaction: COMMIT, ROLLBACK, PREPARE TRANSACTION and the like
	Keeps    bool // and not by a rollback
	works    bool // it may have effects that a commit keeps
	Several  bool // it is more than one, of which the later may be outside of any transaction
	Loud     bool // it may do more than read and write: anything but plain texts with known functions
	Writes   bool // it may change data
	Asks     bool // it asks for data that does not come with it: COPY FROM STDIN
	Leaves   leaves
	SavedAs  string // SAVEPOINT name
	Released string // RELEASE name
	BackTo   string // ROLLBACK TO name
	Points   bool   // it may do several of these, or one to a savepoint that is not known
}

// leaves is what a statement leaves in its session, for whoever uses that next.
type leaves uint8

const (
	nothing leaves = iota
	Revoked        // what a rollback takes back and a commit or PREPARE keeps: SET, LISTEN, temporary tables
	Lasting        // what stays whatever happens: locks of the session, prepared statements
)

// Opaque is what a text that nobody could read may be.
var Opaque = Statement{Ends: true, Keeps: true, works: true, Several: true, Loud: true, Writes: true,
	Leaves: Lasting, Points: true}

// And is two statements in one message.
func (st Statement) And(other Statement) Statement {
	return Statement{
		Ends: st.Ends || other.Ends, Keeps: st.Keeps || other.Keeps, works: st.works || other.works, Several: true,
		Loud: st.Loud || other.Loud, Writes: st.Writes || other.Writes, Asks: st.Asks || other.Asks,
		Leaves: max(st.Leaves, other.Leaves), Points: st.moves() || other.moves(),
	}
}

// moves reports whether a statement is about a savepoint.
func (st Statement) moves() bool {
	return st.Points || st.SavedAs != "" || st.Released != "" || st.BackTo != ""
}

// MayCommit reports whether a text that ends the transaction may commit something that the
// number of the transaction does not tell of.
func (st Statement) MayCommit() bool { return st.Several && (st.Keeps || st.works) }

// Read reads a text of one statement or of several. conforming is the server's
// setting of that name: a backslash is an ordinary character.
func Read(sql string, conforming bool) Statement {
	var all Statement
	lex := lexer{text: sql, conforming: conforming}
	for first := true; ; {
		tokens, more := lex.statement()
		switch {
		case len(tokens) == 0:
		case first:
			all, first = readOne(tokens), false
		default:
			all = all.And(readOne(tokens))
		}
		if !more {
			break
		}
	}
	if lex.lost {
		return Opaque
	}
	return all
}

// readOne reads one statement.
func readOne(tokens []token) Statement {
	at := func(i int) string {
		if i < len(tokens) && tokens[i].kind == word {
			return tokens[i].text
		}
		return ""
	}
	st := Statement{Loud: !plain[at(0)], works: !idle[at(0)]}
	switch at(0) {
	case "commit", "end":
		st.Ends, st.Keeps = true, true
	case "rollback", "abort":
		i := 1
		if at(i) == "work" || at(i) == "transaction" {
			i++
		}
		if at(i) != "to" {
			st.Ends = true
			break
		}
		i++
		if at(i) == "savepoint" {
			i++
		}
		st.BackTo, st.Loud = nameAt(tokens, i), false
	case "copy":
		st.Asks = slices.ContainsFunc(tokens, func(t token) bool { return t.kind == word && t.text == "stdin" })
	case "savepoint":
		st.SavedAs = nameAt(tokens, 1)
	case "release":
		i := 1
		if at(i) == "savepoint" {
			i++
		}
		st.Released = nameAt(tokens, i)
	case "prepare":
		st.Ends, st.Leaves = at(1) == "transaction", Lasting
		st.Keeps = st.Ends
	case "set":
		if second := at(1); second != "local" && second != "transaction" && second != "constraints" {
			st.Leaves = Revoked
		}
	case "reset", "discard", "listen", "unlisten":
		st.Leaves = Revoked
	case "load", "do":
		st.Leaves = Lasting
	case "deallocate":
		if at(1) == "all" || at(2) == "all" { // pgx goes on to use what it has prepared
			st.Leaves = Lasting
		}
	}
	for i, t := range tokens {
		switch {
		case t.kind == word && writes[t.text] && (i == 0 || at(i-1) != "for" && at(i-1) != "key"): // FOR UPDATE locks
			st.Writes = true
		case t.kind == symbol && t.text == "(" && i > 0:
			call := readCall(tokens, i)
			st.Loud, st.works, st.Leaves = st.Loud || call.Loud, st.works || call.Loud, max(st.Leaves, call.Leaves)
		case t.kind == word && at(0) == "declare" && t.text == "hold",
			t.kind == word && (t.text == "temp" || t.text == "temporary") &&
				(at(0) == "create" || i > 0 && at(i-1) == "into"):
			st.Loud, st.Leaves = true, max(st.Leaves, Revoked)
		}
	}
	return st
}

// readCall reads what stands before an opening parenthesis.
func readCall(tokens []token, open int) Statement {
	name, first := tokens[open-1], open-1
	for first > 1 && tokens[first-1].text == "." {
		first -= 2
	}
	switch {
	case first > 0 && tokens[first-1].kind == word && (tokens[first-1].text == "into" || tokens[first-1].text == "as"):
		return Statement{} // the columns of a table or an alias
	case name.kind == quoted, first < open-1:
		return Statement{Loud: true}.locking(name.text)
	case name.kind != word, harmless[name.text]:
		return Statement{}
	case name.text == "set_config":
		if end := closing(tokens, open); end > 1 && tokens[end-1].text == "true" {
			return Statement{}
		}
		return Statement{Leaves: Revoked}
	}
	return Statement{Loud: true}.locking(name.text)
}

// locking adds what a function leaves that takes a lock of the session.
func (st Statement) locking(function string) Statement {
	switch function {
	case "pg_advisory_lock", "pg_advisory_lock_shared", "pg_try_advisory_lock", "pg_try_advisory_lock_shared":
		st.Leaves = Lasting
	}
	return st
}

// closing is the place of the parenthesis that closes the one at open, or -1.
func closing(tokens []token, open int) int {
	depth := 0
	for i := open; i < len(tokens); i++ {
		switch tokens[i].text {
		case "(":
			depth++
		case ")":
			if depth--; depth == 0 {
				return i
			}
		}
	}
	return -1
}

// nameAt is the name at a place, as the server folds it.
func nameAt(tokens []token, i int) string {
	if i < len(tokens) && tokens[i].kind != symbol {
		return tokens[i].text
	}
	return ""
}

func set(words string) map[string]bool {
	m := map[string]bool{}
	for _, w := range strings.Fields(words) {
		m[w] = true
	}
	return m
}

// plain begin statements that do no more than they say, unless they call something. A setting ends with
// a branch that wrote nothing. LOCK is none: what it keeps out has to wait for the decision.
var plain = set(`select with values table show fetch move close declare explain set savepoint release begin start
	insert update delete merge`)

// writes are words that begin a change, also within WITH and EXPLAIN ANALYZE. No transaction number tells
// of it if it was made to a foreign table.
var writes = set("insert update delete merge")

// idle begin statements that have no effects of their own, unless they call something.
var idle = set("select values table show savepoint release rollback abort begin start set commit end prepare")

// harmless may stand before a parenthesis: keywords, types, and functions that change
// nothing, not even for their own session beyond the transaction, and keep nobody out until its end.
var harmless = set(`
	in any all some exists and or not as on using values select from where having when then else case between like
	ilike is over filter group by order union intersect except join lateral array row sets cube rollup
	limit offset conflict
	distinct with materialized recursive returning set only explain into insert default partition interval first last
	char character varchar varying bit numeric decimal float time timestamp timestamptz precision
	cast coalesce nullif greatest least grouping count sum min max avg every bool_and bool_or bit_and bit_or
	string_agg array_agg json_agg jsonb_agg json_object_agg jsonb_object_agg stddev variance corr any_value
	row_number rank dense_rank percent_rank cume_dist ntile lag lead first_value last_value nth_value mode
	percentile_cont percentile_disc lower upper initcap length char_length character_length octet_length bit_length
	trim btrim ltrim rtrim substring substr position strpos overlay replace translate left right lpad rpad repeat
	reverse concat concat_ws format split_part starts_with ascii chr md5 sha224 sha256 sha384 sha512 encode decode
	regexp_replace regexp_match regexp_matches regexp_split_to_array regexp_split_to_table regexp_count regexp_like
	quote_ident quote_literal quote_nullable to_hex
	abs ceil ceiling floor round trunc mod div power sqrt cbrt exp ln log sign random pi degrees radians sin cos tan
	width_bucket gcd lcm
	now extract date_part date_trunc date_bin age to_char to_date to_timestamp to_number make_date make_time
	make_interval make_timestamp make_timestamptz justify_days justify_hours justify_interval isfinite
	clock_timestamp statement_timestamp transaction_timestamp timezone
	current_timestamp current_time localtimestamp localtime
	generate_series generate_subscripts unnest array_length array_lower array_upper array_ndims cardinality
	array_position array_positions array_append array_prepend array_cat array_remove array_replace array_to_string
	string_to_array array_fill
	row_to_json to_json to_jsonb array_to_json json_build_object jsonb_build_object json_build_array
	jsonb_build_array json_object jsonb_object json_array_length jsonb_array_length json_array_elements
	jsonb_array_elements json_array_elements_text jsonb_array_elements_text json_each jsonb_each json_each_text
	jsonb_each_text json_object_keys jsonb_object_keys json_typeof jsonb_typeof json_extract_path
	jsonb_extract_path json_extract_path_text jsonb_extract_path_text jsonb_set jsonb_insert jsonb_strip_nulls
	jsonb_pretty jsonb_path_query jsonb_path_query_array jsonb_path_query_first jsonb_path_exists jsonb_path_match
	json_to_record jsonb_to_record json_to_recordset jsonb_to_recordset json_populate_record jsonb_populate_record
	to_tsvector to_tsquery plainto_tsquery phraseto_tsquery websearch_to_tsquery ts_rank ts_rank_cd ts_headline
	lower_inc upper_inc isempty range_merge int4range int8range numrange daterange tsrange tstzrange
	gen_random_uuid hashtext version current_database current_schema current_schemas current_setting pg_typeof
	pg_sleep pg_backend_pid pg_is_in_recovery pg_current_xact_id_if_assigned txid_current_if_assigned
	pg_size_pretty pg_relation_size pg_total_relation_size pg_table_size to_regclass
	has_table_privilege pg_has_role
	pg_advisory_unlock pg_advisory_unlock_shared pg_advisory_unlock_all`)
