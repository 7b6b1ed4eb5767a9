// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// run posts a Run; each statement is its JSON without braces.
func (w *world) run(node int, key string, statements ...string) map[string]any {
	w.Helper()
	return w.call(node, "TransactionService/Run", runBody(key, statements...))
}

func runBody(key string, statements ...string) string {
	return fmt.Sprintf(`{"key": %q, "statements": [{%s}]}`, key, strings.Join(statements, "}, {"))
}

func one(resource, text, more string) string {
	s, _ := json.Marshal(text)
	return fmt.Sprintf(`"resource": %q, "statement": %s%s`, resource, s, more)
}

// keyed waits until every node answers about keys.
func (w *world) keyed() {
	w.Helper()
	require.Eventually(w, func() bool {
		for i := range w.members {
			if w.call(i, "CoordinatorService/KeyUse", `{"key": "nobody's"}`)["code"] != nil {
				return false
			}
		}
		return true
	}, patience, 2e7)
}

func TestRunCommitsOnceForAKey(t *testing.T) {
	w := newWorld(t, 3, append(sql(t), ledger(t))...)
	w.keyed()
	pay := []string{
		one("orders", "update account set cents = cents - $1 where id = $2 returning cents",
			`, "arguments": [{"int": "300"}, {"int": "1"}], "rowsExpected": "1"`),
		one("billing", "update account set cents = cents + ? where id = ?", `, "arguments": [{"int": "300"}, `+
			`{"int": "1"}], "rowsExpected": "1"`),
		one("ledger", "add moved 300", ""),
	}
	m := w.run(0, "order 4711", pay...)
	require.Equal(t, "committed", m["outcome"], "%v", m)
	require.Nil(t, m["replayed"])
	require.Len(t, m["results"], 3)
	require.Equal(t, "1", m["results"].([]any)[1].(map[string]any)["affected"])
	require.Equal(t, map[string]any{"int": "700"}, value(t, m["results"].([]any)[0].(map[string]any)))
	m["replayed"] = true
	for node := range 3 {
		require.Equal(t, m, w.run(node, "order 4711", pay...), "the same answer, at any node")
	}
	require.Equal(t, "committed", outcomeOf(t, w, m["gid"].(string)))
	require.Equal(t, "700", w.cents("orders"))
	require.Equal(t, "1300", w.cents("billing"))
	require.Equal(t, "300", w.amount("moved"))

	other := w.run(1, "order 4711", pay[0])
	require.Equal(t, "failed_precondition", other["code"])
	require.Equal(t, "the key belongs to another request: send that word for word, or use another key",
		other["message"])

	// What was aborted has used no key.
	pay[0] = one("orders", "update account set cents = cents - 300 where id = 1 and cents >= 1000",
		`, "rowsExpected": "1"`)
	m = w.run(2, "order 4712", pay...)
	require.Equal(t, "aborted", m["outcome"])
	require.Equal(t, "statement 1: orders: 0 rows, and 1 were expected", m["reason"])
	w.settled(m["gid"].(string))
	d := w.begin(0, `{}`)
	d.execute("orders", "update account set cents = 1000 where id = 1")
	require.Equal(t, "committed", d.commit()["outcome"])
	m = w.run(0, "order 4712", pay...)
	require.Equal(t, "committed", m["outcome"], "%v", m)
	require.Equal(t, "1600", w.cents("billing"))
}

func TestRunsThatFailLeaveNothing(t *testing.T) {
	w := newWorld(t, 1, sql(t)...)
	w.keyed()
	zero := one("billing", "update account set cents = 0", "")
	for _, x := range []struct{ name, second, resource, says string }{
		{"a statement fails", one("orders", "select 1/0", ""), "orders", "statement 2: orders: ERROR: division by " +
			"zero"},
		{"a statement that is not sent", one("orders", "commit", ""), "orders", "statement 2: orders: BEGIN, " +
			"COMMIT, ROLLBACK and the like are not allowed inside a branch"},
		{"a result that is too large to keep", one("orders", "select repeat('x', 5000)", ""), "",
			"bytes, and at most 4096 are kept with a key"},
		{"a result that is too large", one("orders", "select n from generate_series(1, 1000000) n", ""), "orders",
			"the result is too large"},
		{"a bad value", one("orders", "update account set cents = $1", `, "arguments": [{"decimal": "1,5"}]`),
			"orders", `arguments[0]: "1,5" is not a valid decimal`},
	} {
		t.Run(x.name, func(t *testing.T) {
			m := w.run(0, x.name, zero, x.second)
			require.Equal(t, "aborted", m["outcome"], "%v", m)
			require.Contains(t, m["reason"], x.says)
			resource, _ := m["resource"].(string)
			require.Equal(t, x.resource, resource)
			w.settled(m["gid"].(string))
		})
	}
	require.Equal(t, "1000", w.cents("billing"))
	for _, x := range []struct{ name, body, code, says string }{
		{"no key", `{"statements": [{` + zero + `}]}`, "invalid_argument", "key: is empty, want an idempotency key, " +
			"such as the number of an order"},
		{"no statements", `{"key": "k"}`, "invalid_argument", "statements: are 0, want 1 to 100"},
		{"too many", runBody("k", strings.Split(strings.Repeat(zero+"\n", 101), "\n")[:101]...), "invalid_argument",
			"statements: are 101, want 1 to 100"},
		{"no such resource", runBody("k", zero, one("nowhere", "select 1", "")), "not_found",
			`statements[1].resource: there is no "nowhere", only billing, orders: correct the name, or add it to ` +
				`the nodes' configuration`},
		{"fewer rows than none", runBody("k", one("orders", "select 1", `, "rowsExpected": "-1"`)), "invalid_argument",
			"statements[0].rows_expected: is -1, want 0 or more"},
		{"a time before now", `{"key": "k", "timeoutMs": "-1"}`, "invalid_argument", "timeout_ms: is -1, want 0 to " +
			"86400000"},
	} {
		t.Run(x.name, func(t *testing.T) {
			m := w.call(0, "TransactionService/Run", x.body)
			require.Equal(t, x.says, m["message"], "%v", m)
			require.Equal(t, x.code, m["code"])
		})
	}
}

// Fifty requests with one key at three nodes, one of which stops: one effect, and fifty equal answers.
func TestFiftyRunsOfOneKey(t *testing.T) {
	w := newWorld(t, 3, ledger(t))
	w.keyed()
	const calls = 50
	body := runBody("order 4711", one("ledger", "add moved 1", ""))
	var mu sync.Mutex
	answers := map[string]int{}
	var asking sync.WaitGroup
	for i := range calls {
		asking.Go(func() {
			for node := i; ; node++ { // whoever got no answer sends it again, to another node
				m, err := post(w.members[node%3].API, "TransactionService/Run", body)
				if err != nil || m["outcome"] != "committed" {
					continue
				}
				delete(m, "replayed")
				b, err := json.Marshal(m)
				mu.Lock()
				answers[fmt.Sprint(string(b), err)]++
				mu.Unlock()
				return
			}
		})
	}
	w.stop(2)
	asking.Wait()
	require.Len(t, answers, 1, "%v", answers)
	for _, n := range answers {
		require.Equal(t, calls, n)
	}
	require.Equal(t, "1", w.amount("moved"))
}
