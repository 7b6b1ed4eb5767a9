// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/concordtx/concord/txn"
)

// httpClient is a client of the HTTP API, as one would write it with curl: JSON in, JSON out, and the next node
// if one does not answer. Nodes drive its transactions.
type httpClient struct {
	name  string
	addrs []string
	diary *diary
	over  <-chan struct{}
	rng   *rand.Rand
	http  *http.Client
}

func newHTTPClient(name string, addrs []string, d *diary, seed uint64, over <-chan struct{}) *httpClient {
	return &httpClient{name: name, addrs: append([]string{}, addrs...), diary: d, over: over,
		rng: rand.New(rand.NewPCG(seed, 7)), http: &http.Client{Transport: &http.Transport{}}}
}

// errUnavailable says that no node answered for as long as the client asks.
var errUnavailable = errors.New("no node answers")

// refusedError is the answer of a node that did nothing.
type refusedError struct{ code, message string }

func (e *refusedError) Error() string { return e.code + ": " + e.message }

// answer is what the API says, as far as these clients read it.
type answer struct {
	Session, GID    string
	Outcome, Reason string
	Error           string
	Code, Message   string
}

// call asks until a node answers: a numbered request is done once, a begun transaction holds nothing.
func (c *httpClient) call(method string, request map[string]any) (a answer, err error) {
	body, err := json.Marshal(request)
	if err != nil {
		return a, err
	}
	for deadline := time.Now().Add(15 * time.Second); ; {
		a, err = c.post(method, body)
		if err == nil {
			return a, nil
		}
		var refused *refusedError
		if errors.As(err, &refused) {
			switch refused.code {
			case "unavailable", "deadline_exceeded", "resource_exhausted":
			default:
				return a, err
			}
		}
		if time.Now().After(deadline) {
			return a, fmt.Errorf("%s: %w: %v", method, errUnavailable, err)
		}
		c.addrs = append(c.addrs[1:], c.addrs[0])
		select {
		case <-time.After(100 * time.Millisecond):
		case <-c.over:
			if time.Now().Add(5 * time.Second).Before(deadline) {
				deadline = time.Now().Add(5 * time.Second)
			}
			time.Sleep(100 * time.Millisecond) // the nodes are to answer meanwhile
		}
	}
}

func (c *httpClient) post(method string, body []byte) (a answer, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+c.addrs[0]+"/concord.v1."+method,
		bytes.NewReader(body))
	if err != nil {
		return a, err
	}
	r.Header.Set("Content-Type", "application/json")
	res, err := c.http.Do(r)
	if err != nil {
		return a, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return a, err
	}
	if err := json.Unmarshal(text, &a); err != nil {
		return a, err
	}
	if res.StatusCode != http.StatusOK {
		return a, &refusedError{a.Code, a.Message}
	}
	return a, nil
}

func (c *httpClient) work() {
	for {
		select {
		case <-c.over:
			return
		default:
		}
		ok := false
		if c.rng.IntN(4) == 0 {
			ok = c.once()
		} else {
			ok = c.transaction()
		}
		if !ok {
			time.Sleep(50 * time.Millisecond) // a client that is refused does not ask as fast as it can
		}
	}
}

func (c *httpClient) note(r record) {
	if err := c.diary.write(r); err != nil {
		panic(err)
	}
}

// transaction moves from one place behind the agent to the other, request by request.
func (c *httpClient) transaction() bool {
	protocol := "two_phase"
	if c.rng.IntN(3) == 0 {
		protocol = "three_phase"
	}
	a, err := c.call("TransactionService/Begin",
		map[string]any{"timeoutMs": limit.Milliseconds(), "label": c.name, "protocol": protocol})
	if err != nil {
		return false
	}
	payload := fmt.Sprintf("%s %x", c.name, c.rng.Uint64())
	c.note(record{Op: begun, GID: a.GID, Kind: "http", Rows: agentNames, Payload: payload})
	amount, id := c.rng.IntN(41)-20, c.rng.IntN(accounts)
	number := 0
	for _, s := range []struct {
		at, text string
		args     []any
	}{
		{desk, "UPDATE account SET balance = balance - $1 WHERE id = $2", []any{amount, id}},
		{desk, "INSERT INTO uniq VALUES ($1, $2)", []any{a.GID, payload}},
		{ledger, "add ? ?", []any{fmt.Sprintf("account%d", id), amount}},
		{ledger, "set ? ?", []any{a.GID, payload}},
	} {
		number++
		r, err := c.call("TransactionService/Execute", map[string]any{"session": a.Session, "number": number,
			"resource": s.at, "statement": s.text, "arguments": values(s.args)})
		if err == nil && r.Error != "" {
			err = errors.New(r.Error)
		}
		if err != nil { // nobody has asked for a commit, and nobody will
			_, _ = c.call("TransactionService/Rollback", map[string]any{"session": a.Session})
			c.note(record{Op: told, GID: a.GID, Kind: "http", Outcome: aborted, Error: err.Error()})
			return false
		}
	}
	c.note(record{Op: asked, GID: a.GID})
	since := time.Now().UnixNano()
	r, err := c.call("TransactionService/Commit", map[string]any{"session": a.Session, "number": number + 1})
	c.note(told0(record{GID: a.GID, Kind: "http", Since: since}, r, err))
	return err == nil && r.Outcome == committed
}

// told0 is what an answer says of a transaction.
func told0(r record, a answer, err error) record {
	r.Op, r.Outcome, r.Error = told, a.Outcome, a.Reason
	switch {
	case err != nil:
		r.Outcome, r.Error = unknown, err.Error()
	case a.Outcome != committed && a.Outcome != aborted && a.Outcome != unknown:
		r.Error, r.Outcome = fmt.Sprintf("the answer %q: %s", a.Outcome, a.Reason), wrong
	}
	return r
}

func values(args []any) (list []map[string]any) {
	for _, a := range args {
		switch a := a.(type) {
		case int:
			list = append(list, map[string]any{"int": fmt.Sprint(a)})
		case string:
			list = append(list, map[string]any{"text": a})
		}
	}
	return list
}

// once asks for the same work under one key until it is told that it is done, and once more after that: it
// happens once.
func (c *httpClient) once() bool {
	key := fmt.Sprintf("%s-%x", c.name, c.rng.Uint64())
	request := map[string]any{"key": key, "timeoutMs": limit.Milliseconds(), "statements": []map[string]any{
		{"resource": desk, "statement": "INSERT INTO keyed VALUES ($1)", "arguments": values([]any{key})},
		{"resource": ledger, "statement": "add ? ?", "arguments": values([]any{key, 1})},
	}}
	c.note(record{Op: begun, Key: key, Kind: "run"})
	c.note(record{Op: asked, Key: key})
	told := false
	for range 5 {
		again := told
		a, err := c.call("TransactionService/Run", request)
		c.note(told0(record{GID: a.GID, Key: key, Kind: "run"}, a, err))
		told = told || err == nil && a.Outcome == committed
		if again {
			break
		}
		select {
		case <-c.over:
			return told
		default:
		}
	}
	return told
}

// gidOf parses what the API calls a gid.
func gidOf(text string) (txn.ID, error) { return txn.ParseID(text) }
