// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestATransactionOverTwoDatabasesInJSON(t *testing.T) {
	w := newWorld(t, 3, append(sql(t), ledger(t))...)
	d := w.begin(0, `{"timeoutMs": "20000", "label": "a transfer"}`)
	d.node = 1 // any node answers
	m := d.execute("orders", "update account set cents = cents - $1 where id = $2", `{"int": "300"}`, `{"int": "1"}`)
	require.Equal(t, "1", m["affected"])
	d.node = 2
	d.execute("billing", "update account set cents = cents + ? where id = ?", `{"int": "300"}`, `{"int": "1"}`)
	d.execute("ledger", "add moved ?", `{"int": "300"}`)
	m = d.commit()
	require.Equal(t, map[string]any{"outcome": "committed", "gid": d.gid}, m)
	for node := range 3 { // again, at any node: the same answer
		d.node = node
		require.Equal(t, m, d.commit())
		require.Equal(t, "committed", d.rollback()["outcome"], "too late")
	}
	require.Equal(t, "committed", outcomeOf(t, w, d.gid))
	require.Equal(t, "700", w.cents("orders"))
	require.Equal(t, "1300", w.cents("billing"))
	require.Equal(t, "300", w.amount("moved"))
	refused := d.ask("Execute", statementOf("orders", "select 1"))
	require.Equal(t, "failed_precondition", refused["code"])
	require.Equal(t, "transaction "+d.gid+" accepts no more requests: it is committed: begin a new one",
		refused["message"])

	d = w.begin(1, `{}`)
	d.execute("orders", "update account set cents = 0")
	d.execute("billing", "update account set cents = 0")
	m = d.rollback()
	require.Equal(t, "aborted", m["outcome"])
	require.Equal(t, "aborted", d.commit()["outcome"])
	w.settled(d.gid)
	require.Equal(t, "aborted", outcomeOf(t, w, d.gid))
	require.Equal(t, "700", w.cents("orders"))
	require.Equal(t, "1300", w.cents("billing"))
}

func TestValuesSurvive(t *testing.T) {
	w := newWorld(t, 1, sql(t)...)
	d := w.begin(0, `{}`)
	values := []string{`{"bool": true}`, `{"int": "-9007199254740993"}`,
		`{"decimal": "12345678901234567890.0123456789"}`, `{"float": 0.1}`,
		`{"text": "grüße \"x\" 漢"}`, `{"bytes": "AP8B"}`, `{"time": "2026-01-31T23:59:59.123456Z"}`,
		`{"json": "{\"a\": [1, null]}"}`}
	d.execute("orders", "insert into v values ($1, $2, $3, $4, $5, $6, $7, $8)", values...)
	d.execute("orders", "insert into v values ($1, $2, $3, $4, $5, $6, $7, $8)", `{}`, `{}`, `{}`, `{}`, `{}`, `{}`,
		`{}`, `{}`)
	m := d.execute("orders", "select * from v order by a")
	require.Equal(t, []any{
		map[string]any{"values": []any{
			map[string]any{"bool": true}, map[string]any{"int": "-9007199254740993"},
			map[string]any{"decimal": "12345678901234567890.0123456789"},
			map[string]any{"float": 0.1}, map[string]any{"text": "grüße \"x\" 漢"}, map[string]any{"bytes": "AP8B"},
			map[string]any{"time": "2026-01-31T23:59:59.123456Z"}, map[string]any{"json": `{"a": [1, null]}`}}},
		map[string]any{"values": []any{map[string]any{}, map[string]any{}, map[string]any{}, map[string]any{},
			map[string]any{}, map[string]any{}, map[string]any{}, map[string]any{}}},
	}, m["rows"])
	require.Equal(t, map[string]any{"name": "a", "type": "boolean"}, m["columns"].([]any)[0])
	d.execute("billing", "insert into v values (?, ?, ?, ?, ?)", `{"uint": "18446744073709551615"}`, values[2],
		values[4], values[5], `{"time": "2026-01-31 23:59:59.123456"}`)
	m = d.execute("billing", "select * from v")
	require.Equal(t, []any{map[string]any{"values": []any{
		map[string]any{"uint": "18446744073709551615"}, map[string]any{"decimal": "12345678901234567890.0123456789"},
		map[string]any{"text": "grüße \"x\" 漢"},
		map[string]any{"bytes": "AP8B"}, map[string]any{"time": "2026-01-31T23:59:59.123456"}}}}, m["rows"])
	require.Equal(t, "committed", d.commit()["outcome"])
}

// A savepoint is one of the whole transaction: a database that is used for the first time behind it goes
// back to where it was before.
func TestSavepointsReachEveryDatabase(t *testing.T) {
	w := newWorld(t, 1, append(sql(t), ledger(t))...)
	d := w.begin(0, `{}`)
	d.execute("orders", "update account set cents = cents - 1 where id = 1")
	require.Nil(t, d.answer("Savepoint", `, "name": "a"`)["error"])
	d.execute("orders", "update account set cents = cents - 10 where id = 1")
	d.execute("billing", "update account set cents = cents + 10 where id = 1")
	d.execute("ledger", "add moved 10")
	failed := d.answer("Execute", statementOf("orders", "select 1/0"))
	require.Contains(t, failed["error"], "division by zero")
	require.Nil(t, failed["notSent"])
	require.NotNil(t, d.answer("Execute", statementOf("orders", "select 1"))["error"], "the branch has failed")
	require.Nil(t, d.answer("RollbackTo", `, "name": "a"`)["error"], "which heals it")
	d.execute("billing", "update account set cents = cents + 1 where id = 1")
	require.Nil(t, d.answer("Savepoint", `, "name": "b"`)["error"])
	d.execute("ledger", "add moved 5")
	require.Nil(t, d.answer("RollbackTo", `, "name": "a"`)["error"], "twice")
	d.execute("billing", "update account set cents = cents + 1 where id = 1")
	none := d.answer("RollbackTo", `, "name": "b"`)
	require.Equal(t, "the transaction has no savepoint b: nothing was sent; ask for one before the work that may "+
		"have to be undone", none["error"])
	require.Equal(t, true, none["notSent"])
	require.Equal(t, "committed", d.commit()["outcome"])
	require.Equal(t, "999", w.cents("orders"))
	require.Equal(t, "1001", w.cents("billing"))
	require.Equal(t, "0", w.amount("moved"))

	// One that moves in a database and cannot in another is none any more: nobody goes back to it in half of them.
	d = w.begin(0, `{}`)
	require.Nil(t, d.answer("Savepoint", `, "name": "a"`)["error"])
	d.execute("orders", "update account set cents = cents - 10 where id = 1")
	require.NotNil(t, d.answer("Execute", statementOf("billing", "insert into account values (1, 1)"))["error"])
	require.NotNil(t, d.answer("Savepoint", `, "name": "a"`)["error"])
	require.Contains(t, d.answer("RollbackTo", `, "name": "a"`)["error"], "the transaction has no savepoint a")
	require.Equal(t, "aborted", d.commit()["outcome"])
	w.settled(d.gid)
	require.Equal(t, "999", w.cents("orders"))
}

// What fails in one database undoes the work in all of them.
func TestAFailedStatementAbortsEverything(t *testing.T) {
	w := newWorld(t, 1, sql(t)...)
	d := w.begin(0, `{}`)
	d.execute("orders", "update account set cents = 0")
	failed := d.answer("Execute", statementOf("billing", "insert into account values (1, 1)"))
	require.Contains(t, failed["error"], "Duplicate entry")
	m := d.commit()
	require.Equal(t, "aborted", m["outcome"])
	require.Equal(t, "billing", m["resource"])
	require.Contains(t, m["reason"], "Duplicate entry")
	w.settled(d.gid)
	require.Equal(t, "1000", w.cents("orders"))

	// What was not sent has changed nothing, also as the first statement of its database.
	d = w.begin(0, `{}`)
	for _, x := range []struct{ resource, text, says string }{
		{"orders", "commit", "BEGIN, COMMIT, ROLLBACK"}, {"billing", "create table x (id int)", "no DDL"},
		{"billing", "XA END 'x'", "XA and prepared transactions inside a branch are reserved for concord"},
		{"orders", "select 1; select 2", "several statements"}, {"billing", "set autocommit = 1", "autocommit"},
	} {
		m := d.answer("Execute", statementOf(x.resource, x.text))
		require.Contains(t, m["error"], x.says)
		require.Equal(t, true, m["notSent"], x.text)
	}
	m = d.answer("Execute", statementOf("orders", "update account set cents = $1", `{"decimal": "1,5"}`))
	require.Contains(t, m["error"], `arguments[0]: "1,5" is not a valid decimal: want digits such as -12.50`)
	require.Equal(t, true, m["notSent"])
	d.execute("orders", "update account set cents = 5 where id = 1")
	require.Equal(t, "committed", d.commit()["outcome"])
	require.Equal(t, "5", w.cents("orders"))
}

// A result that is too large is refused, and nothing of its transaction commits.
func TestLargeResultsAreRefused(t *testing.T) {
	w := newWorld(t, 1, sql(t)...)
	for _, x := range []struct{ text, more, says string }{
		{"select n from generate_series(1, 1000000) n", "",
			"more than 10000 rows: the result is too large: ask for less with WHERE or LIMIT"},
		{"select repeat('x', 2000000)", "", "row 1 is beyond the limit of bytes: the result is too large"},
		{"select n from generate_series(1, 10) n", `, "maxRows": 3`, "more than 3 rows: the result is too large"},
	} {
		d := w.begin(0, `{}`)
		d.execute("billing", "update account set cents = 0")
		m := d.answer("Execute", statementOf("orders", x.text)+x.more)
		require.Contains(t, m["error"], x.says)
		m = d.commit()
		require.Equal(t, "aborted", m["outcome"], "%v", m)
		w.settled(d.gid)
	}
	require.Equal(t, "1000", w.cents("billing"))
}

// A procedure that commits by a detour: the transaction is not committed, and part of it may be.
func TestATornTransactionSaysSo(t *testing.T) {
	dbs := sql(t)
	w := newWorld(t, 1, dbs...)
	d := w.begin(0, `{}`)
	d.execute("billing", "update account set cents = 0")
	d.execute("orders", "create procedure ends() language plpgsql as $$ begin commit; end $$")
	require.Equal(t, "committed", d.commit()["outcome"])
	d = w.begin(0, `{}`)
	d.execute("billing", "update account set cents = 7")
	m := d.answer("Execute", statementOf("orders", "do $$ begin commit; end $$"))
	if m["error"] == nil {
		m = d.commit()
		require.Equal(t, "torn", m["outcome"], "%v", m)
		require.Equal(t, "orders", m["resource"])
	} else { // the server refuses it inside a transaction block
		require.Contains(t, m["error"], "invalid transaction termination")
		require.Equal(t, "aborted", d.commit()["outcome"])
	}
	w.settled(d.gid)
	require.Equal(t, "0", w.cents("billing"))
}

// Two requests of one transaction at once, and one that is sent twice.
func TestARequestIsDoneOnceAndOneAtATime(t *testing.T) {
	w := newWorld(t, 1, ledger(t))
	holder, waiter := w.begin(0, `{}`), w.begin(0, `{}`)
	holder.execute("ledger", "add key 1")
	first := waiter.body(1, statementOf("ledger", "add key 1"))
	answers := make(chan map[string]any, 8)
	var asking sync.WaitGroup
	for range cap(answers) { // all of them wait for the lock
		asking.Go(func() { answers <- w.call(0, "TransactionService/Execute", first) })
	}
	require.Eventually(t, func() bool {
		m := w.call(0, "TransactionService/Execute", waiter.body(2, statementOf("ledger", "add key 1")))
		return m["message"] == "request 1 of this transaction is still under way: wait for its answer before you "+
			"send the next one"
	}, patience, 5e6)
	require.Equal(t, "committed", holder.commit()["outcome"])
	asking.Wait()
	close(answers)
	for m := range answers {
		require.Equal(t, map[string]any{"int": "2"}, value(t, m))
	}
	waiter.number = 1
	m := w.call(0, "TransactionService/Execute", waiter.body(1, statementOf("ledger", "add key 2")))
	require.Equal(t, "number: request 1 of this transaction was a different one: a repeated request must be "+
		"identical", m["message"])
	require.Equal(t, "committed", waiter.commit()["outcome"])
	require.Equal(t, "2", w.amount("key"))
}

// Rollback cuts off a statement that waits, also the first one of its database.
func TestRollbackCutsOffAStatement(t *testing.T) {
	w := newWorld(t, 1, ledger(t))
	holder, waiter := w.begin(0, `{}`), w.begin(0, `{}`)
	holder.execute("ledger", "add key 1")
	answer := make(chan map[string]any, 1)
	go func() { answer <- waiter.ask("Execute", statementOf("ledger", "add key 1")) }()
	require.Eventually(t, func() bool {
		m := w.call(0, "TransactionService/Execute", waiter.body(2, statementOf("ledger", "add key 1")))
		return m["message"] == "request 1 of this transaction is still under way: wait for its answer before you "+
			"send the next one"
	}, patience, 5e6)
	require.Equal(t, map[string]any{"outcome": "aborted", "gid": waiter.gid, "reason": "its program asked for it"},
		waiter.rollback())
	<-answer
	w.settled(waiter.gid)
	require.Equal(t, "committed", holder.commit()["outcome"])
	require.Equal(t, "1", w.amount("key"))
}

func TestASilentTransactionIsRolledBack(t *testing.T) {
	w := newWorld(t, 1, ledger(t))
	for _, x := range []struct{ begin, why string }{
		{`{"silenceMs": "200"}`, "it heard nothing for 200ms: send its requests sooner, or allow more with " +
			"silence_ms"},
		{`{"timeoutMs": "300"}`, "its time limit of 300ms was reached: allow more with timeout_ms, or do less in one " +
			"transaction; the cluster's limit is transaction.max_age on the nodes"},
	} {
		d := w.begin(0, x.begin)
		d.answer("Execute", statementOf("ledger", "add key 1"))
		w.settled(d.gid)
		require.Eventually(t, func() bool {
			return d.ask("Execute", statementOf("ledger", "add key 1"))["code"] == "failed_precondition"
		}, patience, 1e7)
		require.Equal(t, map[string]any{"outcome": "aborted", "gid": d.gid, "reason": x.why}, d.commit())
		require.Equal(t, "0", w.amount("key"))
	}
}

// The node that held a transaction stops, or its agent does: nothing is left, and every node says what
// became of it.
func TestTheNodeOfATransactionIsGone(t *testing.T) {
	w := newWorld(t, 3, ledger(t))
	open, done := w.begin(2, `{}`), w.begin(2, `{}`)
	done.execute("ledger", "add done 1")
	require.Equal(t, "committed", done.commit()["outcome"])
	open.execute("ledger", "add open 1")
	w.stop(2)
	for _, d := range []*driven{open, done} {
		d.node = 0
	}
	m := open.ask("Execute", statementOf("ledger", "add open 1"))
	require.Equal(t, "unavailable", m["code"])
	require.Contains(t, m["message"], "node 3, which holds the transaction, did not answer at "+w.members[2].API)
	m = open.commit()
	require.Equal(t, "aborted", m["outcome"], "%v", m)
	require.Equal(t, "committed", done.commit()["outcome"])
	require.Equal(t, "committed", done.rollback()["outcome"])
	w.settled(open.gid)
	w.start(2)
	require.Eventually(t, func() bool { return w.ready(2) }, patience, 2e7)
	for node := range 3 {
		open.node = node
		m = open.commit()
		require.Equal(t, "aborted", m["outcome"])
		require.Equal(t, "this node no longer holds the transaction: it has restarted since, or the transaction "+
			"ended long ago", m["reason"])
		require.Equal(t, "aborted", open.rollback()["outcome"])
		m = open.ask("Execute", statementOf("ledger", "add open 1"))
		require.Equal(t, "not_found", m["code"])
	}
	require.Equal(t, "0", w.amount("open"))
	require.Equal(t, "1", w.amount("done"))
}

func TestTheAgentOfATransactionIsGone(t *testing.T) {
	w := newWorld(t, 1, ledger(t))
	d := w.begin(0, `{}`)
	d.execute("ledger", "add key 1")
	w.agent.stop()
	w.agent.start()
	m := d.commit()
	require.Equal(t, "aborted", m["outcome"])
	require.Equal(t, "ledger", m["resource"])
	require.NotEmpty(t, m["reason"])
	d = w.begin(0, `{}`)
	d.execute("ledger", "add key 1")
	w.agent.stop()
	w.agent.start()
	m = d.answer("Execute", statementOf("ledger", "add key 1"))
	require.Contains(t, m["error"], "roll the transaction back and begin a new one")
	require.Equal(t, "aborted", d.rollback()["outcome"])
	w.settled(d.gid)
	require.Equal(t, "0", w.amount("key"))
}

// What is wrong with a request is said in words that end with a next step, takes no number, and leaves
// the transaction as it was.
func TestBadRequests(t *testing.T) {
	w := newWorld(t, 1, ledger(t))
	d := w.begin(0, `{}`)
	d.execute("ledger", "add key 1")
	session := fmt.Sprintf(`"session": %q, `, d.session)
	elsewhere := fmt.Sprintf(`"session": "%s@7", `, d.gid)
	none := `"session": "` + d.gid + `", `
	for _, x := range []struct{ name, method, body, code, says string }{
		{"no session", "Execute", `{"number": "2"}`, "invalid_argument",
			`session: "" names no transaction of this service: send the session that Begin returned`},
		{"no node", "Execute", `{` + none + `"number": "2"}`, "invalid_argument",
			`session: "` + d.gid + `" names no transaction of this service: send the session that Begin returned`},
		{"a node that is none", "Execute", `{` + elsewhere + `"number": "2", "resource": "ledger"}`, "not_found",
			"session: node 7, which held the transaction, is no longer a member of this cluster: begin a new one"},
		{"no such resource", "Execute", `{` + session + `"number": "2", "resource": "nowhere"}`, "not_found",
			`resource: there is no "nowhere", only ledger: correct the name, or add it to the nodes' configuration`},
		{"a resource without an agent", "Execute", `{` + session + `"number": "2", "resource": "plain"}`,
			"failed_precondition",
			"resource: plain is a memory database that the nodes reach without an agent, and only agents hold " +
				"sessions for others: " +
				`run "concord agent" beside it, and give it driver: agent in the nodes' configuration`},
		{"no number", "Execute", `{` + session + `"resource": "ledger"}`, "invalid_argument",
			"number: is 0: the requests of a transaction are numbered from 1"},
		{"a gap", "Execute", `{` + session + `"number": "3", "resource": "ledger"}`, "failed_precondition",
			"the next request of this transaction has number 2, not 3: number them from 1 without a gap"},
		{"a commit with a gap", "Commit", `{` + session + `"number": "3"}`, "failed_precondition",
			"the next request of this transaction has number 2, not 3: number them from 1 without a gap"},
		{"a commit under the number of a statement", "Commit", `{` + session + `"number": "1"}`, "invalid_argument",
			"number: request 1 of this transaction was a different one: a repeated request must be identical"},
		{"a time that takes too long", "Execute",
			`{` + session + `"number": "2", "resource": "ledger", "timeoutMs": "400000"}`, "invalid_argument",
			"timeout_ms: is 400000, want 0 to 300000"},
		{"a savepoint that is none", "Savepoint", `{` + session + `"number": "2", "name": "a b"}`, "invalid_argument",
			"name: the name of a savepoint is not 1 to 32 letters, digits and underscores, a letter first: nothing " +
				"was sent; choose such a name"},
		{"no such protocol", "Begin", `{"protocol": "paxos"}`, "invalid_argument",
			`protocol: "paxos" is not a protocol that this version knows, want two_phase or three_phase`},
		{"a time before now", "Begin", `{"timeoutMs": "-1"}`, "invalid_argument",
			"timeout_ms: is -1, want 0 to 86400000"},
		{"a label that is none", "Begin", `{"label": "\u0007"}`, "invalid_argument",
			"label: contains a control or invisible character at byte 0: leave it out"},
	} {
		t.Run(x.name, func(t *testing.T) {
			m := w.call(0, "TransactionService/"+x.method, x.body)
			require.Equal(t, x.says, m["message"], "%v", m)
			require.Equal(t, x.code, m["code"])
		})
	}
	m := w.call(0, "TransactionService/Execute", `{`+session+`"number": "2", "resource": "ledger", "statement": 7}`)
	require.Equal(t, "invalid_argument", m["code"])
	m = w.call(0, "TransactionService/Execute",
		`{`+session+`"number": "2", "resource": "ledger", "arguments": [{"money": "1"}]}`)
	require.Equal(t, "invalid_argument", m["code"])
	require.Equal(t, "committed", d.commit()["outcome"])
	require.Equal(t, "1", w.amount("key"))
	w.settled(d.gid)
}
