// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/cmd/internal/terminal"
	"github.com/concordtx/concord/concordtest"
	"github.com/concordtx/concord/security"
	"github.com/concordtx/concord/txn"
)

// shell runs commands against a cluster, in this process.
type shell struct {
	*testing.T
	addrs string
}

func newShell(t *testing.T) (*shell, *concordtest.Cluster, *concordtest.MemoryDatabase) {
	orders := concordtest.Memory("orders")
	c := concordtest.New(t, orders, concordtest.Memory("billing"))
	return &shell{T: t, addrs: strings.Join(c.Addrs(), ",")}, c, orders
}

// try returns what a command prints, and its error.
func (s *shell) try(args ...string) (stdout, stderr string, err error) {
	var out, errw bytes.Buffer
	root := newRoot(strings.NewReader(""), &out, &errw)
	root.SetArgs(append([]string{"--addr", s.addrs}, args...))
	err = root.ExecuteContext(s.Context())
	return out.String(), errw.String(), err
}

func (s *shell) run(args ...string) (stdout string) {
	s.Helper()
	stdout, _, err := s.try(args...)
	require.NoError(s, err, "%v", args)
	return stdout
}

// A script pages through all transactions, each of them once.
func TestAScriptPagesThroughAllTransactions(t *testing.T) {
	s, c, _ := newShell(t)
	client, err := api.Dial(c.Addrs(), api.ClientOptions{})
	require.NoError(t, err)
	defer func() { require.NoError(t, client.Close()) }()
	const many = 250
	born := time.Now().Add(-time.Minute)
	for i := range many { // which nobody has begun: the question aborts them
		id := txn.NewID(born.Add(time.Duration(i) * time.Millisecond)).WithClass(txn.Recorded)
		_, err := client.Outcome(t.Context(), &concordv1.OutcomeRequest{Gid: id.String()})
		require.NoError(t, err)
	}
	seen, pages := map[string]bool{}, 0
	for next := ""; ; pages++ {
		args := []string{"tx", "ls", "--limit", "40", "-o", "json"}
		if next != "" {
			args = append(args, "--after", strings.ToLower(next)) // as somebody may have typed it
		}
		var page listJSON
		require.NoError(t, json.Unmarshal([]byte(s.run(args...)), &page))
		for _, x := range page.Transactions {
			require.False(t, seen[x.GID])
			seen[x.GID] = true
		}
		if next = page.Next; next == "" {
			break
		}
		require.Len(t, page.Transactions, 40)
	}
	require.Len(t, seen, many)
	require.Equal(t, 6, pages)
	_, stderr, err := s.try("tx", "ls", "--limit", "40")
	require.NoError(t, err)
	require.Regexp(t, `^there are more: go on with --after [0-9A-Z]{26}, or narrow`, stderr)
}

func TestEveryStateThatIsShownIsAccepted(t *testing.T) {
	s, _, _ := newShell(t)
	for _, state := range states {
		s.run("tx", "ls", "--state", state)
	}
	_, _, err := s.try("tx", "ls", "--state", "stuck")
	require.ErrorContains(t, err, `"stuck" is not one of `+strings.Join(states, ", "))
	require.Equal(t, terminal.ExitUsage, terminal.ExitCode(err))
}

func TestTheLabelIsInTheTable(t *testing.T) {
	s, c, orders := newShell(t)
	require.NoError(t, c.Client().Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
		m, err := orders.Resource().Tx(ctx, tx)
		if err != nil {
			return err
		}
		return m.Put(ctx, "a", 1)
	}, concord.WithLabel("order 7"), concord.Recorded()))
	require.Regexp(t, `(?m)^GID +STATE +AGE +RESOURCES +LABEL +REASON\n[0-9A-Z]{25}R +(committing|committed) +\S+ `+
		`+orders +order 7 +-`, s.run("tx", "ls"))
}

func TestShellsCompleteWhatTheClusterKnows(t *testing.T) {
	s, c, _ := newShell(t)
	tx, err := c.Client().Begin(t.Context(), concord.Recorded())
	require.NoError(t, err)
	require.NoError(t, tx.Commit(t.Context()))
	complete := func(args ...string) []string {
		lines := strings.Split(strings.TrimSpace(s.run(append([]string{"__complete"}, args...)...)), "\n")
		require.Equal(t, ":4", lines[len(lines)-1], "and no names of files")
		return lines[:len(lines)-1]
	}
	addr := []string{"--addr", s.addrs}
	require.Equal(t, states, complete(append(addr, "tx", "ls", "--state", "")...))
	resources := []string{"orders\tmemory", "billing\tmemory"}
	require.Equal(t, resources, complete(append(addr, "tx", "ls", "--resource", "")...))
	require.Equal(t, resources, complete(append(addr, "resource", "check", "")...))
	for _, command := range [][]string{{"tx", "get", ""}, {"tx", "wait", ""}, {"tx", "resolve", ""},
		{"tx", "forget", ""}, {"tx", "ls", "--after", ""}, {"recover", ""}} {
		require.Equal(t, []string{tx.ID().String() + "\tcommitted"}, complete(append(addr, command...)...), command)
	}
	require.Empty(t, complete("--addr", "127.0.0.1:1", "tx", "get", ""), "a cluster that does not answer")
}

func TestStatusIsWatchedUntilItIsInterrupted(t *testing.T) {
	s, _, _ := newShell(t)
	ctx, interrupt := context.WithCancel(t.Context())
	out := &counter{want: 3, reached: interrupt}
	root := newRoot(strings.NewReader(""), out, out)
	root.SetArgs([]string{"--addr", s.addrs, "status", "--watch", "--interval", "1ms", "-o", "json"})
	require.NoError(t, root.ExecuteContext(ctx))
	objects := json.NewDecoder(bytes.NewReader(out.text.Bytes()))
	for range out.want {
		var status statusJSON
		require.NoError(t, objects.Decode(&status))
		require.NotZero(t, status.Leader)
	}
	_, _, err := s.try("status", "--watch", "--interval", "0s")
	require.Equal(t, terminal.ExitUsage, terminal.ExitCode(err))
}

// counter counts objects, which end with a brace in a line of its own.
type counter struct {
	text    bytes.Buffer
	want    int
	reached func()
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.text.Write(p)
	if bytes.Count(c.text.Bytes(), []byte("\n}\n")) >= c.want {
		c.reached()
	}
	return n, err
}

func TestEveryCommandHasAManualPage(t *testing.T) {
	s := &shell{T: t, addrs: "127.0.0.1:1"}
	dir := filepath.Join(t.TempDir(), "man1")
	s.run("man", dir)
	for _, page := range []string{"concord.1", "concord-tx-ls.1", "concord-status.1", "concord-member-add.1"} {
		text, err := os.ReadFile(filepath.Join(dir, page))
		require.NoError(t, err)
		require.Contains(t, string(text), ".SH SYNOPSIS")
	}
	text, err := os.ReadFile(filepath.Join(dir, "concord-tx-ls.1"))
	require.NoError(t, err)
	require.Contains(t, string(text), "in-doubt, committing, aborting, committed")
}

// However a command line is wrong, it is the same exit code.
func TestWrongCommandLinesHaveOneExitCode(t *testing.T) {
	s := &shell{T: t, addrs: "127.0.0.1:1"}
	for _, line := range []string{"nonsense", "tx nonsense", "member nonsense", "resource nonsense", "status extra",
		"status --nonsense", "status --interval soon", "tx get",
		"tx get one two", "tx ls extra", "tx ls --limit many", "member add", "member remove", "lead",
		"resource check one two", "recover one two", "version extra", "-o yaml status", "statsu", "man",
		"completion nonsense", "completion bash extra", "help nonsense", "help tx nonsense"} {
		_, _, err := s.try(strings.Fields(line)...)
		require.Error(t, err, line)
		require.Equal(t, terminal.ExitUsage, terminal.ExitCode(err), "%s: %v", line, err)
		var own *terminal.ExitError
		require.True(t, errors.As(err, &own) || errors.Is(err, txn.ErrInvalid), line)
	}
}

// A monitoring system reads the exit code, and people the line.
func TestCheckInDoubtSpeaksAsPluginsOfNagiosDo(t *testing.T) {
	for _, c := range []struct {
		is   *concordv1.StatusResponse
		code int
		line string
	}{
		{&concordv1.StatusResponse{Known: true}, 0, "CONCORD OK - 0 in doubt, the oldest for 0s, 0 heuristic | " +
			"in_doubt=0 oldest=0.000s;30;300 heuristic=0"},
		{&concordv1.StatusResponse{Known: true, InDoubt: 3, OldestMs: 29_999}, 0, "CONCORD OK - 3 in doubt"},
		{&concordv1.StatusResponse{Known: true, InDoubt: 3, OldestMs: 30_000, Incomplete: true}, 1,
			"CONCORD WARNING - 3 in doubt, the oldest for 30s, 0 heuristic, at least: a resource has not been " +
				"listed yet: see \"concord tx ls --state in-doubt\" | in_doubt=3 oldest=30.000s;30;300"},
		{&concordv1.StatusResponse{Known: true, InDoubt: 1, OldestMs: 300_000}, 2, "CONCORD CRITICAL - 1 in doubt"},
		{&concordv1.StatusResponse{Known: true, Heuristic: 1}, 2, "CONCORD CRITICAL - 0 in doubt, the oldest for " +
			"0s, 1 heuristic: see \"concord tx ls --state heuristic\""},
		{&concordv1.StatusResponse{OldestMs: 1, InDoubt: 7}, 3, "CONCORD UNKNOWN - the node has not heard of a leader"},
	} {
		code, line := checkInDoubt(c.is, 30*time.Second, 5*time.Minute)
		require.Equal(t, c.code, code, line)
		require.Contains(t, line, c.line)
	}
}

var update = flag.Bool("update", false, "write docs/output.schema.json anew")

// The schema has what the commands print, so a field that is renamed or gone is seen in a review.
func TestTheSchemaSaysWhatIsPrinted(t *testing.T) {
	const file = "../../docs/output.schema.json"
	defs := map[string]any{}
	for command, printed := range map[string]any{
		"status": statusJSON{}, "tx ls": listJSON{}, "tx get": txJSON{}, "tx wait": txJSON{}, "recover": []actionJSON{},
		"resource ls": []resourceJSON{}, "resource check": []reportJSON{}, "member ls": []memberJSON{},
		"member add": memberJSON{}, "version": version{}, "cert ls": []security.Listed{},
		"token ls": []security.TokenEntry{}, "audit ls": auditJSON{},
	} {
		defs[command] = schemaOf(reflect.TypeOf(printed))
	}
	for command, fields := range map[string][]string{
		"tx resolve": {"gid", "decision", "zxid"}, "tx forget": {"gid", "forgotten"},
		"tx settle": {"gid", "no", "outcome", "zxid"}, "member remove": {"removed"}, "member replace": {"replaced"},
		"lead": {"leader"}, "tx retry": {"gid", "branches"},
	} {
		properties := map[string]any{}
		for _, name := range fields {
			kind := "string"
			if slices.Contains([]string{"no", "removed", "replaced", "leader", "branches"}, name) {
				kind = "integer"
			}
			properties[name] = map[string]any{"type": kind}
		}
		defs[command] = map[string]any{"type": "object", "properties": properties, "required": fields}
	}
	b, err := json.MarshalIndent(map[string]any{"$schema": "https://json-schema.org/draft/2020-12/schema",
		"title": "what the commands of concord print with -o json, by command", "$defs": defs}, "", "  ")
	require.NoError(t, err)
	b = append(b, '\n')
	if *update {
		require.NoError(t, os.WriteFile(file, b, 0o644))
	}
	written, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(b), string(written), "run this test with -update, and look at the difference: fields may "+
		"come, and none may go")
}

// schemaOf is the JSON schema of what encoding/json makes of a type.
func schemaOf(t reflect.Type) map[string]any {
	switch {
	case t == reflect.TypeFor[time.Time]():
		return map[string]any{"type": "string", "format": "date-time"}
	case t.Implements(reflect.TypeFor[encoding.TextMarshaler]()):
		return map[string]any{"type": "string"}
	}
	switch t.Kind() {
	case reflect.Pointer:
		s := schemaOf(t.Elem())
		s["type"] = []any{s["type"], "null"}
		return s
	case reflect.Slice:
		return map[string]any{"type": "array", "items": schemaOf(t.Elem())}
	case reflect.Struct:
		properties, required := map[string]any{}, []string{}
		for i := range t.NumField() {
			name, options, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
			if name == "-" || !t.Field(i).IsExported() {
				continue
			}
			if name == "" {
				name = t.Field(i).Name
			}
			properties[name] = schemaOf(t.Field(i).Type)
			if !strings.Contains(options, "omit") {
				required = append(required, name)
			}
		}
		return map[string]any{"type": "object", "properties": properties, "required": required}
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.String:
		return map[string]any{"type": "string"}
	case reflect.Float64:
		return map[string]any{"type": "number"}
	}
	return map[string]any{"type": "integer"}
}

// Whoever adds a command says what it is for, in its help and in the documents.
func TestEveryCommandIsExplained(t *testing.T) {
	var documents strings.Builder
	pages, err := filepath.Glob("../../docs/*.md")
	require.NoError(t, err)
	for _, page := range append(pages, "../../README.md", "../../CONTRIBUTING.md") {
		text, err := os.ReadFile(page)
		require.NoError(t, err)
		documents.Write(text)
	}
	root := newRoot(strings.NewReader(""), io.Discard, io.Discard)
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Name() == "help" || c.Name() == "completion" { // of the library
			return
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
		if c == root || c.Hidden || c.HasSubCommands() {
			return
		}
		path := c.CommandPath()
		assert.NotEmpty(t, c.Short, "%s: say in Short what it does, in a line", path)
		assert.NotEmpty(t, c.Long+c.Example, "%s: say in Long when to use it, what it prints, and what it changes",
			path)
		assert.True(t, strings.Contains(documents.String(), path), "%s: say in README or docs/ what it is for", path)
	}
	walk(root)
}

const nasty = "a\x1b]0;owned\x07b\u009b2Jc\u202ed\u200be\U000e0041f\ng\th\r"

// hostile is a cluster whose databases say what they should not.
var hostile = struct {
	status  *concordv1.StatusResponse
	tx      *concordv1.Transaction
	recover recovered
}{
	status: &concordv1.StatusResponse{Known: true, Warnings: []string{nasty}, Resources: []*concordv1.ResourceStatus{
		{Name: nasty, Driver: nasty, Error: nasty, Identity: nasty, OwnError: nasty + "!"}, {Name: "billing"}}},
	tx: &concordv1.Transaction{Gid: "01JD2M8Q4ZK3W6T9V0X5Y7ABCR", Label: nasty, Reason: nasty,
		Branches: []*concordv1.Branch{
			{Resource: nasty, Evidence: nasty, Holder: nasty, Error: nasty}},
		Heuristics: []*concordv1.Heuristic{{Who: nasty, Why: nasty}},
		Forgets:    []*concordv1.Forget{{Who: nasty, Why: nasty}},
		Acts:       []*concordv1.Act{{Subject: nasty, Who: nasty + "!", Reason: nasty, Says: nasty}}},
	recover: recovered{warnings: []string{nasty}, whole: nasty,
		actions: []actionJSON{{Resource: nasty, Why: nasty, Error: nasty}}},
}

func TestWhatDatabasesSayIsHarmlessOnATerminal(t *testing.T) {
	for _, output := range []string{"table", "json"} {
		var out, errs bytes.Buffer
		c := &cli{out: terminal.Harmless(&out), err: terminal.Harmless(&errs), output: output}
		require.NoError(t, c.printStatus(statusOf(hostile.status)))
		require.NoError(t, c.printList(&concordv1.ListResponse{Transactions: []*concordv1.Transaction{hostile.tx},
			Warnings: []string{nasty}}))
		require.NoError(t, c.printTx(txOf(hostile.tx, time.Now())))
		require.Error(t, c.printRecover(hostile.recover))
		require.NoError(t, c.printAudit(&concordv1.AuditResponse{Acts: hostile.tx.GetActs()}))
		require.NoError(t, c.printReports([]reportJSON{{Name: nasty, Driver: nasty, Version: nasty, Error: nasty,
			Findings: []findingJSON{{What: nasty, Detail: nasty, Fix: nasty}}}}))
		for _, r := range out.String() + errs.String() {
			require.False(t, r != '\n' && api.Hidden(r), "%q in\n%q", r, out.String()+errs.String())
		}
		if output == "table" {
			require.NotContains(t, out.String(), "f\ng", "a row is one line")
			require.Contains(t, errs.String(), `\u001b]0;owned\u0007`, "and is shown")
		}
	}
}

func TestWhatIsToBeChangedCanBePasted(t *testing.T) {
	var out bytes.Buffer
	c := &cli{out: terminal.Harmless(&out), output: "table"}
	require.NoError(t, c.printReports([]reportJSON{{Name: "orders", OK: true,
		Findings: []findingJSON{{What: "t", Detail: "not there yet", Fix: "CREATE TABLE t (\n  a bigint\n)"}}}}))
	require.Contains(t, out.String(), "-> CREATE TABLE t ( a bigint )\n")
}

// What a database can be in a transaction is said of each, and why not.
func TestCheckSaysWhatADatabaseCanBe(t *testing.T) {
	for _, k := range []struct {
		ok                 bool
		notBranch, notLast string
		can                []string
		says               string
	}{
		{ok: true, can: []string{"branch", "last_resource"},
			says: "ok       can be a branch beside others, or the last resource"},
		{ok: true, notLast: "an agent hosts it", can: []string{"branch"},
			says: "ok       can be a branch beside others (no last resource: an agent hosts it)"},
		{ok: true, notBranch: "max_prepared_transactions is 0", can: []string{"last_resource"},
			says: "ok       can be the last resource, or alone (no branch beside others: " +
				"max_prepared_transactions is 0)"},
		{notBranch: "a", notLast: "b", can: []string{},
			says: "PROBLEM  can be nothing (no branch beside others: a; no last resource: b)"},
		{can: []string{}, says: "PROBLEM  can be nothing"},
	} {
		m := &concordv1.ResourceReport{Ok: k.ok, NotBranch: k.notBranch, NotLastResource: k.notLast}
		require.Equal(t, k.can, canBe(m))
		var out bytes.Buffer
		c := &cli{out: terminal.Harmless(&out), output: "table"}
		require.NoError(t, c.printReports([]reportJSON{{Name: "orders", OK: k.ok, CanBe: canBe(m),
			NotBranch: k.notBranch, NotLastResource: k.notLast}}))
		require.Contains(t, out.String(), "  "+k.says+"\n")
	}
}

// A recovery comes in pieces: plans first, and what was carried out once more.
func TestARecoveryIsSummedUpAsItComes(t *testing.T) {
	r := recovered{apply: true, at: map[string]int{}}
	add := func(actions ...*concordv1.RecoverAction) { r.add(&concordv1.RecoverResponse{Actions: actions}) }
	add(&concordv1.RecoverAction{Gid: "B", Resource: "orders", Action: "commit"},
		&concordv1.RecoverAction{Gid: "A", Resource: "orders", Action: "commit"},
		&concordv1.RecoverAction{Gid: "A", No: 1, Resource: "billing", Action: "leave"})
	require.Equal(t, "["+strings.Repeat(" ", 30)+"] 0 of 2 branches", r.bar())
	add(&concordv1.RecoverAction{Gid: "B", Resource: "orders", Action: "commit", Result: "done"})
	require.Equal(t, "["+strings.Repeat("=", 15)+strings.Repeat(" ", 15)+"] 1 of 2 branches", r.bar())
	add(&concordv1.RecoverAction{Gid: "A", Resource: "orders", Action: "commit", Result: "failed", Error: "gone"})
	require.Equal(t, "["+strings.Repeat("=", 30)+"] 2 of 2 branches", r.bar())
	var out, errs bytes.Buffer
	err := (&cli{out: &out, err: &errs, output: "table"}).printRecover(r)
	require.EqualError(t, err, "2 prepared branches remain")
	require.Regexp(t, `(?s)A +1 +billing +leave.*A +0 +orders +commit +failed: gone.*B +0 +orders +commit +done`,
		out.String())
}
