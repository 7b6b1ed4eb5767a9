// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/cmd/internal/terminal"
	"github.com/concordtx/concord/internal/said"
)

// message is an error that whoever measures can meet: the command line, with FILE for a file, what
// the file has, what it says and its exit code.
type message struct {
	line, file, says string
	code             int
}

const oneDatabase = "resources:\n  - {name: a, driver: postgres, dsn: x}\n"

var messages = []message{
	{line: "transfer", says: `--config is missing: name a file with "resources", as in "concord serve --help"`},
	{line: "transfer --config FILE", file: "{}",
		says: `FILE: "resources" has 0 SQL databases: money moves between two`},
	{line: "transfer --config FILE", file: oneDatabase,
		says: `FILE: "resources" has 1 SQL database: money moves between two`},
	{line: "transfer --config FILE --last-resource c", file: oneDatabase + "  - {name: b, driver: mysql, dsn: x}\n",
		says: `--last-resource: "c" is neither "a" nor "b", between which money moves`},
	{line: "transfer --config FILE", file: "members: [{idd: 1}]", says: "FILE: members: '[0]' has unknown keys: idd"},
	{line: "transfer --config /nonexistent/x",
		says: "read the configuration /nonexistent/x: no such file or directory: " +
			`give the path of a file with --config; an example is in "concord serve --help"`},
	{line: "transfer --config x --workers 0", says: "--workers: 0 is not between 1 and 4096"},
	{line: "transfer --config x --rounds 0", says: "--rounds: 0 is less than 1"},
	{line: "transfer --config x --duration 0", says: "--duration: 0s is not a positive duration such as 10s"},
	{line: "transfer --config x surplus", says: `unexpected argument "surplus": see "concord-bench transfer --help"`},
	{line: "decisions -o xml", says: `--output: "xml" is neither table nor json`},
	{line: "decisions --workers 5000", says: "--workers: 5000 is not between 1 and 4096"},
	{line: "decisions --size -1", says: "--size: -1 is not between 0 and 1024"},
	{line: "decisions --size 1025", says: "--size: 1025 is not between 0 and 1024"},
	{line: "decisions --duration -1s", says: "--duration: -1s is not a positive duration such as 10s"},
	{line: "decisions --dir /nonexistent", code: terminal.ExitFailed,
		says: "make a folder for the nodes: stat /nonexistent: no such file or directory: give another one with --dir"},
	{line: "decisions --concord /nonexistent/concord",
		says: `--concord: exec: "/nonexistent/concord": stat /nonexistent/concord: no such file or directory: ` +
			`give the path of the program concord, or build it with "make build"`},
	{line: "decisions --concord ", says: "there is no program concord, which the nodes run, beside this one or in " +
		"PATH: " +
		`build it with "make build", or name it with --concord`},
	{line: "failover --kills 0", says: "--kills: 0 is less than 1"},
	{line: "failover --workers 0", says: "--workers: 0 is not between 1 and 4096"},
	{line: "failover --kills x", says: `invalid argument "x" for "--kills" flag: strconv.ParseInt: parsing "x": ` +
		`invalid syntax: see "concord-bench failover --help"`},
	{line: "history --transactions 1000", says: "--transactions: 1000 is less than 1000 and the sample together"},
	{line: "history --sample 0", says: "--sample: 0 is less than 1"},
	{line: "doors", says: "--config is missing: name a file with \"resources\", as in \"concord serve --help\""},
	{line: "driven", says: "--config is missing: name a file with \"resources\", as in \"concord serve --help\""},
	{line: "doors --config FILE --clients 1001", says: "--clients: 1001 is not between 0 and 1000"},
	{line: "recovery", says: "--config is missing: name a file with \"resources\", as in \"concord serve --help\""},
	{line: "recovery --config FILE --branches 1", says: "--branches: 1 is not between 2 and 50000"},
	{line: "recovery --config FILE --cases x", says: "--cases: \"x\" is none: want clients, poison, everything"},
	{line: "recovery --config FILE --connections 0", says: "--connections: 0 is not between 1 and 4096"},
	{line: "history --workers 0", says: "--workers: 0 is not between 1 and 4096"},
}

// Why a text has no row.
const (
	measured   = "a measurement that breaks off says what it did and what stood in its way"
	impossible = "says that concord has a bug"
)

// withoutRow are the texts that no row of the table has.
var withoutRow = map[string]string{
	"connect idle client %d: %w":                             measured,
	"the node answered %s":                                   measured,
	"bank %s: there is no plain loop for %s":                 measured,
	"account %d of %s is not there":                          measured,
	"prepare %s: the server did %s":                          measured,
	"measure CPU of other processes: %w: only Linux tells":   measured,
	"measure CPU of process %d: there is none":               measured,
	"nothing was decided in a round of %v: %w":               measured,
	"prepare at %s: the vote is %v":                          measured,
	"a client that was to prepare %d transactions: %w: %s":   measured,
	"a client that was to be killed has ended by itself: %s": measured,
	"--restart: %w: %s":                                      measured,
	"%d branches are left after %v: %w":                      measured,
	"no result: the sum of all balances is %d instead of %d: something was committed by half": impossible,
	"kill %d: %w": measured,
	"no commit was acknowledged in %v after node %v, the leader, was killed: %w": measured,
	"the client is still waiting for an answer":                                  measured,
	"enough":                        measured,
	"%d of %d decisions failed: %w": measured,
	"measure the memory of process %d on %s: %w: only Linux tells": measured,
	"measure the memory of process %d: the system says %q":         measured,
	"node %v does not run":                         measured,
	"start node %v: %w":                            measured,
	"end node %v: %w":                              measured,
	"node %v ended by itself; end of its log:\n%s": measured,
	"the three nodes do not work together: %s: %w": measured,
	"transaction %v: the decision is %s: %s":       measured,
	"bank %s: %w":                                  measured,
	"bank %s: make accounts: %w":                   measured,
	"no transfer succeeded in a round of %v: %w":   measured,
	"bank %s: add up: %w":                          measured,
	"no transaction goes through the agents: %w; end of the first one's log:\n%s": measured,
	"%d accounts were changed instead of one":                                     measured,
	"no result: %s still prepared %v after the last transfer: see pg_prepared_xacts, XA RECOVER and \"concord " +
		"recover\"": measured,
	"bank %s: count what is prepared: %w": measured,
	"no result: transaction %v was acknowledged as committed and is %s " +
		"now: this is a bug, please report it": impossible,
	"no result: the sum of all balances is %d instead of %d (errors: %d of concord, %d of the baseline %s): " +
		"something was committed by half": impossible,
}

func TestWhatErrorsSay(t *testing.T) {
	t.Setenv("PATH", t.TempDir()) // where no concord is
	var rows []string
	for _, m := range messages {
		rows = append(rows, m.says)
		t.Run(m.line, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "bench.yaml")
			require.NoError(t, os.WriteFile(file, []byte(m.file), 0o600))
			_, err := command(t, strings.Split(strings.ReplaceAll(m.line, "FILE", file), " ")...)
			require.Error(t, err)
			require.Equal(t, m.says, strings.ReplaceAll(err.Error(), file, "FILE"))
			require.Equal(t, cmp.Or(m.code, terminal.ExitUsage), terminal.ExitCode(err))
		})
	}
	said.Check(t, rows, withoutRow, "Usagef")
}
