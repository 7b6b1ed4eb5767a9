// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/api/concord/v1/concordv1connect"
	"github.com/concordtx/concord/cmd/internal/config"
	"github.com/concordtx/concord/cmd/internal/terminal"
	"github.com/concordtx/concord/internal/said"
)

// message is an error that a user of the command can meet: the command line, with FILE for a
// configuration and NODE for a node that answers, what the configuration is, what the environment
// has, what it says and its exit code.
type message struct {
	name  string
	line  string
	file  string
	mode  os.FileMode // of file; 0: 0600
	env   [2]string
	tells func(*node)
	says  string
	code  int
}

// node answers what a cluster would, in a state that would take long to bring about.
type node struct {
	concordv1connect.UnimplementedCoordinatorServiceHandler
	status  *concordv1.StatusResponse
	recover *concordv1.RecoverResponse
	check   *concordv1.CheckResourceResponse
	get     *concordv1.GetResponse
	refuses error
}

func (n *node) Status(context.Context, *concordv1.StatusRequest) (*concordv1.StatusResponse, error) {
	return n.status, n.refuses
}

func (n *node) Recover(_ context.Context, _ *concordv1.RecoverRequest,
	stream *connect.ServerStream[concordv1.RecoverResponse]) error {
	if n.refuses != nil {
		return n.refuses
	}
	return stream.Send(n.recover)
}

func (n *node) CheckResource(context.Context, *concordv1.CheckResourceRequest) (*concordv1.CheckResourceResponse,
	error) {
	return n.check, n.refuses
}

func (n *node) Get(context.Context, *concordv1.GetRequest) (*concordv1.GetResponse, error) {
	return n.get, n.refuses
}

func (n *node) AddMember(context.Context, *concordv1.AddMemberRequest) (*concordv1.AddMemberResponse, error) {
	return &concordv1.AddMemberResponse{}, n.refuses
}

func with(old, new string) string {
	if !strings.Contains(config.NodeExample, old) {
		panic("the example has no " + old)
	}
	return strings.Replace(config.NodeExample, old, new, 1)
}

const (
	aGID    = "01JD7Z0B6Q4YV3M2T1S0R9P8N0"
	example = `see the example in "concord serve --help"`
	serving = "serve --config FILE"
)

// configured are what is wrong with a configuration, behind the name of its file.
var configured = []message{
	{name: "not YAML", file: with("node: 1", "node: ["),
		says: `FILE is not YAML (line 2): put texts with special characters in quotes; an example is in "concord ` +
			`serve --help"`},
	{name: "unknown key", file: with("node: 1", "node: 1\nnoed: 2"), says: "FILE: unknown keys: noed: " + example},
	{name: "unknown nested key", file: with("listen: 127.0.0.1:7421", "lisen: 127.0.0.1:7421"),
		says: "FILE: 'Peer' has unknown keys: lisen: " + example},
	{name: "node missing", file: with("node: 1", ""),
		says: `FILE: "node" is missing: say which of the members this node is`},
	{name: "data_dir missing", file: with("data_dir: /var/lib/concord", ""),
		says: `FILE: "data_dir" is missing: give a directory of its own to each node`},
	{name: "no members", file: with("  - {id: 1, peer: 127.0.0.1:7421, api: 127.0.0.1:7420}", ""),
		says: `FILE: "members" is empty: list all nodes, this one included`},
	{name: "node not a member", file: with("node: 1", "node: 7"),
		says: `FILE: node 7 is not in "members" ([1]): add it, or correct "node"`},
	{name: "member id missing", file: with("{id: 1, ", "{"),
		says: `FILE: members[0]: "id" is missing or 0: ids start at 1`},
	{name: "member id twice", file: with("resources:", "  - {id: 1, peer: 127.0.0.1:1, api: 127.0.0.1:2}\nresources:"),
		says: "FILE: members[1]: id 1 is given twice: each member has its own"},
	{name: "address twice", file: with("resources:", "  - {id: 2, peer: 127.0.0.1:7421, api: 127.0.0.1:2}\nresources:"),
		says: "FILE: members[1]: peer: the address 127.0.0.1:7421 is given twice: each member has two of its own"},
	{name: "one address for both", file: with("api: 127.0.0.1:7420}", "api: 127.0.0.1:7421}"),
		says: "FILE: members[0]: api: the address 127.0.0.1:7421 is given twice: each member has two of its own"},
	{name: "address without port", file: with("peer: 127.0.0.1:7421, api", "peer: 127.0.0.1, api"),
		says: `FILE: members[0]: peer: "127.0.0.1" is not host:port, such as 10.0.0.1:7421`},
	{name: "role unknown", file: with("api: 127.0.0.1:7420}", "api: 127.0.0.1:7420, role: king}"),
		says: `FILE: members[0]: role "king" is neither voter nor observer`},
	{name: "no voter", file: with("api: 127.0.0.1:7420}", "api: 127.0.0.1:7420, role: observer}"),
		says: `FILE: "members" has no voter: at least one must not be an observer`},
	{name: "duration bad", file: with("node: 1", "node: 1\ntransaction: {grace: -5s}"),
		says: "FILE: transaction.grace: -5s is not a positive duration such as 5s"},
	{name: "retention too short", file: with("node: 1", "node: 1\ntransaction: {retention: 30s}"),
		says: "FILE: transaction.retention: 30s is too short: decisions must be remembered at least twice as long " +
			"as max_age (1m0s), better for days"},
	{name: "reserve too small", file: with("node: 1", "node: 1\ndisk: {reserve_mib: 1}"),
		says: "FILE: disk.reserve_mib: 1 is not between 16 and 1048576: it is the free space, in MiB, that is kept " +
			"for what was begun"},
	{name: "log format unknown", file: with("node: 1", "node: 1\nlog: {format: xml}"),
		says: `FILE: log.format: "xml" is neither text nor json`},
	{name: "log level unknown", file: with("node: 1", "node: 1\nlog: {level: loud}"),
		says: `log level "loud" is not debug, info, warn or error`},

	{name: "resources are no list", file: config.NodeExample[:strings.Index(config.NodeExample, "resources:")] +
		"resources: orders", says: "FILE: resources: want a list, each with name, driver, and dsn or dsn_file: " +
		example},
	{name: "a resource is no map", file: with("resources:", "resources:\n  - postgres"),
		says: "FILE: resources[0]: want name, driver, and dsn or dsn_file; put a dsn with special characters in " +
			"quotes: " + example},
	{name: "a key of a resource with a typing error", file: with("driver: mysql", "drvier: mysql"),
		says: `FILE: resources[1]: unknown key "drvier": did you mean "driver"?: ` + example},
	{name: "a key of a resource that may be a secret", file: with("driver: mysql", "s3cr3t: mysql"),
		says: "FILE: resources[1]: unknown key " + config.NotShown +
			": the keys are name, driver, dsn, dsn_file, tls, tls_ca, addr; put a dsn with special characters in " +
			"quotes: " +
			example},
	{name: "a value of a resource that is no text", file: with("name: billing", "name: [billing]"),
		says: "FILE: resources[1]: name: want a text: put it in quotes: " + example},
	{name: "resource name missing", file: with("name: billing, ", ""),
		says: `FILE: resources[1]: "name" is missing: give the name that the applications have for it`},
	{name: "resource name invisible", file: with("name: billing", `name: "bill\u200bing"`),
		says: "FILE: resources[1]: name: contains a control or invisible character at byte 4: leave it out"},
	{name: "resource name is a dsn", file: with("name: billing", `name: "postgres://app:s3cr3t@db/shop"`),
		says: "FILE: resources[1]: the name " + config.NotShown +
			` looks like a data source name, which belongs under "dsn"`},
	{name: "resource name twice", file: with("name: billing", "name: orders"),
		says: `FILE: resources[1]: the name "orders" is given twice: each resource has its own`},
	{name: "driver unknown", file: with("driver: mysql", "driver: oracle"),
		says: `FILE: resources[1]: driver "oracle" is none of postgres, mysql (also for MariaDB), agent`},
	{name: "an address of a database", file: with("driver: mysql", "driver: mysql, addr: 10.0.0.7:7430"),
		says: `FILE: resource billing: "addr" is for driver agent: give "dsn" or "dsn_file" instead`},
	{name: "agent without address", file: with("driver: mysql", "driver: agent"),
		says: `FILE: resource billing: an agent hosts it: give the agent's "addr" as host:port, and neither "dsn" ` +
			`nor "dsn_file"`},
	{name: "dsn missing", file: with("dsn_file: /run/secrets/billing", ""),
		says: `FILE: resource billing: give either "dsn" or "dsn_file"`},
}

var messages = []message{
	{name: "no such command", line: "nonsense", says: `there is no command "nonsense": see "concord --help"`,
		code: terminal.ExitUsage},
	{name: "nearly a command", line: "statsu",
		says: `there is no command "statsu", did you mean "status"?: see "concord --help"`, code: terminal.ExitUsage},
	{name: "no interval", line: "status --watch --interval 0s --addr NODE",
		says: "--interval 0s: want a positive duration, such as 2s", code: terminal.ExitUsage},
	{name: "man without a place", line: "man",
		says: "want the directory of the pages, for example: concord man /usr/local/share/man/man1",
		code: terminal.ExitUsage},
	{name: "no configuration", line: "serve",
		says: `--config is missing, and CONCORD_MEMBERS is not set: an example of both is in "concord serve --help"`,
		code: terminal.ExitUsage},
	{name: "no such configuration", line: "serve --config /nonexistent/concord.yaml",
		says: `read the configuration /nonexistent/concord.yaml: no such file or directory: give the path of a file ` +
			`with --config; an example is in "concord serve --help"`, code: terminal.ExitUsage},
	{name: "an empty configuration", line: "serve --config /dev/null",
		says: `read the configuration /dev/null: it is empty: give the path of a file with --config; an example is ` +
			`in "concord serve --help"`, code: terminal.ExitUsage},
	{name: "a configuration that does not end", line: "serve --config /dev/zero",
		says: `read the configuration /dev/zero: it is larger than 1024 KiB: give the path of a file with --config; ` +
			`an example is in "concord serve --help"`, code: terminal.ExitUsage},
	{name: "a list in the environment that is none", line: serving, file: config.NodeExample,
		env:  [2]string{"CONCORD_MEMBERS", "["},
		says: `CONCORD_MEMBERS is no list in YAML or JSON (line 1): an example is in "concord serve --help"`,
		code: terminal.ExitUsage},
	{name: "a misspelt variable", line: "status", env: [2]string{"CONCORD_DATADIR", "/x"},
		says: `the environment has CONCORD_DATADIR, which is no variable of concord: the nearest is ` +
			`CONCORD_DATA_DIR; correct or remove it ("concord serve --help" lists them)`, code: terminal.ExitUsage},

	{name: "abandon what is there", line: serving + " --abandon orders", file: config.NodeExample,
		says: "--abandon orders: it is still in the configuration: remove it there, on all " +
			"nodes", code: terminal.ExitUsage},
	{name: "no dsn_file", line: serving, file: with("/run/secrets/billing", "/nonexistent/billing"),
		says: "resource billing: dsn_file /nonexistent/billing: no such file or directory: it wants the path of a " +
			"file that holds the data source name", code: terminal.ExitFailed},
	{name: "a dsn_file that is none", line: serving,
		file: with("/run/secrets/billing", `"app:s3cr3t@tcp(db:3306)/shop"`),
		says: "resource billing: dsn_file " + config.NotShown +
			` cannot be read: it wants the path of a file; a data source name belongs ` +
			`under "dsn"`, code: terminal.ExitFailed},
	{name: "a dsn of PostgreSQL", line: serving,
		file: with("postgres://app@127.0.0.1:5432/orders", "postgres://app:s3cr3t%zz@db/shop"),
		says: `resource orders: postgres "orders": the dsn cannot be parsed (it is not shown, because it may ` +
			`contain a password): write it as postgres://user@host:5432/database`, code: terminal.ExitFailed},
	{name: "a dsn of MySQL", line: serving, file: with("dsn_file: /run/secrets/billing", "dsn: app:s3cr3t@db/shop"),
		says: `resource billing: resource "billing": bad data source name: want user:password@tcp(host:port)/database`,
		code: terminal.ExitFailed},
	{name: "an address that is taken", line: serving,
		file: with("peer: {listen: 127.0.0.1:7421}",
			"peer: {listen: TAKEN}")[:strings.Index(with("peer: {listen: 127.0.0.1:7421}", "peer: {listen: TAKEN}"),
			"resources:")],
		says: "peer.listen: listen tcp TAKEN: bind: address already in use: choose another address, or stop the " +
			"process that uses it", code: terminal.ExitFailed},

	{name: "an output that nobody knows", line: "status -o xml", says: `--output: "xml" is neither table nor json`,
		code: terminal.ExitUsage},
	{name: "an unknown flag", line: "status --frob", says: `unknown flag: --frob: see "concord status --help"`,
		code: terminal.ExitUsage},
	{name: "an argument too many", line: "status now", says: `unexpected argument "now": see "concord status --help"`,
		code: terminal.ExitUsage},
	{name: "no GID", line: "tx get", says: "want exactly one GID, for example: concord tx get " +
		"01JD2M8Q4ZK3W6T9V0X5Y7ABCR", code: terminal.ExitUsage},
	{name: "GIDs for recover", line: "recover a b",
		says: "want at most one GID: without one, all that is prepared is shown", code: terminal.ExitUsage},
	{name: "resources to check", line: "resource check a b", says: `want at most one NAME: see "concord resource ls"`,
		code: terminal.ExitUsage},
	{name: "resource to report on", line: "resource report", says: `want one NAME: see "concord resource ls"`,
		code: terminal.ExitUsage},
	{name: "accept for no reason", line: "resource accept orders",
		says: "--reason is missing: say why, it is kept in the log", code: terminal.ExitUsage},
	{name: "neither commit nor abort", line: "tx resolve " + aGID, says: "give one of --commit and --abort",
		code: terminal.ExitUsage},
	{name: "check with limits that are none", line: "check in-doubt --warn 5m --crit 30s",
		says: "--warn must be above 0 and --crit not below it: try --warn 30s --crit 5m", code: checkUnknown},
	{name: "resolve for no reason", line: "tx resolve --abort " + aGID,
		says: "--reason is missing: say why, it is kept with the transaction", code: terminal.ExitUsage},
	{name: "resources to abort", line: "tx resolve --abort --resources orders --reason x " + aGID,
		says: "--resources goes with --commit: to abort, nothing has to be known of the databases",
		code: terminal.ExitUsage},
	{name: "resolve without a terminal", line: "tx resolve --abort --reason x " + aGID,
		says: "This decides to abort " + aGID + " for good. Confirm with --yes", code: terminal.ExitUsage},
	{name: "forget for no reason", line: "tx forget " + aGID,
		says: "--reason is missing: say what was done, it is kept with the transaction", code: terminal.ExitUsage},
	{name: "settle nothing", line: "tx settle",
		says: `want GID/NO, one branch of one transaction as in "concord tx get"`, code: terminal.ExitUsage},
	{name: "settle no branch", line: "tx settle " + aGID,
		says: `"` + aGID + `" is not GID/NO, such as 01JD7Z0B6Q4YV3M2T1S0R9P8N0/2`, code: terminal.ExitUsage},
	{name: "settle how", line: "tx settle " + aGID + "/2",
		says: "give one of --commit, --abort and --abandon", code: terminal.ExitUsage},
	{name: "settle twice", line: "tx settle --commit --abort --reason x " + aGID + "/2",
		says: "give one of --commit, --abort and --abandon", code: terminal.ExitUsage},
	{name: "settle at a resource what is given up",
		line: "tx settle --abandon --resource orders --reason x " + aGID + "/2",
		says: "--resource goes with --commit and --abort: of what is given up the log knows where it is",
		code: terminal.ExitUsage},
	{name: "force a commit", line: "tx resolve --commit --force --reason x " + aGID,
		says: "--force goes with --abort: nothing can be committed that is not there", code: terminal.ExitUsage},
	{name: "settle for no reason", line: "tx settle --abandon " + aGID + "/2",
		says: "--reason is missing: say why, it is kept with the transaction", code: terminal.ExitUsage},
	{name: "members of a node that belongs to no cluster", line: "member ls --addr NODE",
		tells: func(n *node) { n.status = &concordv1.StatusResponse{Node: 4} },
		says:  "node 4 belongs to no cluster yet, so it does not know the members: ask another node, with --addr",
		code:  terminal.ExitUnavailable},
	{name: "no member", line: "member remove", says: `want exactly one member ID: see "concord member ls"`,
		code: terminal.ExitUsage},
	{name: "a member that is not a number", line: "member remove x",
		says: `"x" is not a member ID: a number above 0; see "concord member ls"`, code: terminal.ExitUsage},
	{name: "a member without addresses", line: "member add 4",
		says: "--peer and --api are needed: where the other nodes and where clients reach node 4, host:port",
		code: terminal.ExitUsage},
	{name: "replace nobody", line: "member replace", says: `want exactly one member ID: see "concord status"`,
		code: terminal.ExitUsage},
	{name: "replace no number", line: "member replace x", says: `"x" is not a member ID: see "concord status"`,
		code: terminal.ExitUsage},
	{name: "replace for no reason", line: "member replace 2",
		says: "--reason is missing: say what happened to the disk, it is kept in the log", code: terminal.ExitUsage},
	{name: "a demo of nothing", line: "demo --transfers 0",
		says: "--transfers and --workers are at least 1, --kill-leader at least 0", code: terminal.ExitUsage},
	{name: "a demo of an unknown protocol", line: "demo --protocol paxos",
		says: `--protocol is "paxos": want two_phase, three_phase or last_resource`, code: terminal.ExitUsage},
	{name: "a demo of agents with databases", line: "demo --protocol two_phase --config FILE",
		says: "--protocol is for banks behind agents of this process, and --config for databases that it reaches " +
			"itself: leave one of them out", code: terminal.ExitUsage},
	{name: "a demo without agents that loses all nodes", line: "demo --kill-coordinators",
		says: "--kill-coordinators shows what agents do: add --protocol three_phase or two_phase, too",
		code: terminal.ExitUsage},
	{name: "a demo with one bank", line: "demo --config FILE",
		file: with("\n  - {name: billing, driver: mysql,    dsn_file: /run/secrets/billing}", ""),
		says: `FILE: "resources" has 1 resource: money moves between at least two`, code: terminal.ExitUsage},
	{name: "a demo with an agent", line: "demo --config FILE",
		file: with("driver: mysql,    dsn_file: /run/secrets/billing", "driver: agent, addr: 127.0.0.1:7430"),
		says: "FILE: resource billing is hosted by an agent, and the demo moves money between SQL databases that it " +
			"reaches itself: leave it out", code: terminal.ExitUsage},

	{name: "a measurement", line: "bench decisions --workers 64",
		says: "the measurements are a program of their own: " +
			`build it with "make build" and run "concord-bench decisions --workers 64"`, code: terminal.ExitUsage},

	{name: "nobody answers", line: "status --addr 127.0.0.1:1 --timeout 200ms",
		says: "get the status: no coordinator node did it in time (context deadline exceeded); 127.0.0.1:1: dial " +
			"tcp 127.0.0.1:1: connect: connection refused; " +
			`check the nodes with "concord status --addr 127.0.0.1:1"`, code: terminal.ExitUnavailable},
	{name: "an address that is none", line: "status --addr nowhere",
		says: `addrs[0]: "nowhere" is not host:port, such as 127.0.0.1:7420`, code: terminal.ExitUsage},
	{name: "no leader", line: "status --addr NODE", tells: func(n *node) { n.status = &concordv1.StatusResponse{} },
		says: "the cluster has no leader that this node knows of: a majority of the voters must run and reach each " +
			"other", code: terminal.ExitUnavailable},
	{name: "a reason to look", line: "recover --reason curious",
		says: "--reason goes with --apply: to look needs none", code: terminal.ExitUsage},
	{name: "retry no branch", line: "tx retry --branch 256 " + aGID,
		says: `--branch 256 is not the number of a branch, as in "concord tx get"`, code: terminal.ExitUsage},
	{name: "a branch remains", line: "recover --addr NODE", tells: func(n *node) {
		n.recover = &concordv1.RecoverResponse{Actions: []*concordv1.RecoverAction{{Gid: aGID, Action: "leave"}}}
	}, says: "1 prepared branch remains", code: terminal.ExitInDoubt},
	{name: "branches may remain", line: "recover --addr NODE", tells: func(n *node) {
		n.recover = &concordv1.RecoverResponse{Warnings: []string{"resource orders could not be listed"}}
	}, says: "prepared branches may remain that are not shown: see the warnings", code: terminal.ExitInDoubt},
	{name: "a resource that is not fit", line: "resource check --addr NODE", tells: func(n *node) {
		n.check = &concordv1.CheckResourceResponse{Reports: []*concordv1.ResourceReport{{Name: "orders"}}}
	}, says: "not every resource is fit to take part: see the lines marked PROBLEM", code: terminal.ExitFailed},
	{name: "wait for what nobody has recorded", line: "tx wait --addr NODE --timeout 300ms " + aGID,
		tells: func(n *node) { n.refuses = connect.NewError(connect.CodeNotFound, errors.New("not here")) },
		says: "nothing is recorded of " + aGID +
			" after 300ms: it is in progress, was rolled back, or changed one database, which decided it alone; " +
			"look at the data there", code: terminal.ExitUnavailable},
	{name: "wait for what is not finished", line: "tx wait --addr NODE --timeout 300ms " + aGID,
		tells: state("committing"),
		says:  aGID + ` is not finished after 300ms: it is committing; see "concord tx get ` + aGID + `"`,
		code:  terminal.ExitUnavailable},
	{name: "wait for what is not recorded", line: "tx wait --addr NODE " + aGID, tells: state("unrecorded"),
		says: unrecordedHint, code: terminal.ExitInDoubt},
	{name: "wait for what did not end as decided", line: "tx wait --addr NODE " + aGID, tells: state("heuristic"),
		says: `a branch did not end as decided: see "concord tx get", then "concord tx forget"`,
		code: terminal.ExitInDoubt},
	{name: "a member that nobody knows yet", line: "member add 4 --peer a:1 --api a:2 --wait 0 --addr NODE",
		tells: func(n *node) { n.status = &concordv1.StatusResponse{} },
		says:  `node 4 was added, but the node that answers does not know it yet: see "concord member ls" in a moment`,
		code:  terminal.ExitUnavailable},
	{name: "a member that has not caught up", line: "member add 4 --peer a:1 --api a:2 --wait 1ns --addr NODE",
		tells: func(n *node) {
			n.status = &concordv1.StatusResponse{Nodes: []*concordv1.Node{{Id: 4, Role: "learner", State: "syncing",
				Lag: 7}}}
		}, says: `node 4 is a learner and has not caught up within 1ns (syncing, 7 entries behind): it becomes a ` +
			`voter by itself when it has. Start it if it is not running, run this command again to keep waiting, ` +
			`or take it back with "concord member remove 4"`, code: terminal.ExitUnavailable},
}

// command runs one command line in this process.
func command(t *testing.T, args ...string) (stdout string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var out, errs bytes.Buffer
	root := newRoot(strings.NewReader(""), &out, &errs)
	root.SetArgs(args)
	err = root.ExecuteContext(ctx)
	t.Logf("concord %s\n%s%s", strings.Join(args, " "), errs.String(), out.String())
	return out.String(), err
}

func state(is string) func(*node) {
	return func(n *node) {
		n.get = &concordv1.GetResponse{Transaction: &concordv1.Transaction{Gid: aGID, State: is}}
	}
}

// Why a text has no row.
const (
	measured   = "a demonstration that breaks off says what it did and what stood in its way"
	impossible = "says that concord has a bug"
	unlucky    = "says how a demonstration ended"
)

const reloaded = "said by a process that runs: TestReloadSetsTheLogLevelAndNamesTheRest here and " +
	"TestDoorsAreNeverLessThanTheirFileSays in cmd/internal/config"

// withoutRow are the texts that no row of the table has.
var withoutRow = map[string]string{
	"%d branches that were told committed are missing, and %d may be: put right what matters, then run " +
		"\"concord resource accept %s --reason TEXT\"": "tests/e2e meets it: it takes a database that was set back",
	"%s: members: %s":               "only a measurement reads members alone: its table has it",
	"account %d of %s is not there": measured,
	"bank %s: %w":                   measured,
	"bank %s: make accounts: %w":    measured,
	"driver %s has no accounts: give a database of driver postgres or mysql": "both commands choose by driver",
	"bank %s: add up: %w":      measured,
	"account %d: found %v: %w": measured,
	"account %d: %w":           measured,
	"no transaction was in doubt when the coordinators were stopped, so the agents had nothing to finish: try it " +
		"with more --transfers or --workers": unlucky,
	"the agents have decided %v about %v, and the cluster says %v: " +
		"this is a bug, please report it": impossible,
	"the three nodes found no leader in 30 s": measured,
	"\"certs_dir\" protects this process only when it is started again, and until then it asks " +
		"nobody for their identity: " +
		"restart it now": reloaded,
	"api.tls: %s is for %v, and this node is %v: give a certificate that was made for it": "wants certificates: " +
		"TestFilesThatAreElsewhere in cmd/internal/config",
	"\"certs_dir\" is gone, and this process goes on asking who calls: put it back, or restart it": reloaded,
	"the sum of all balances is wrong: this is a bug, please " +
		"report it with the output above": impossible,
	"nobody could tell whether transactions are in doubt: the cluster had no " +
		"leader, or a bank could not be listed": unlucky,
	"%v still in doubt": unlucky,
	"write manual pages: %w": "wants a directory that is there and cannot " +
		"be written",
	"its dsn is not a PostgreSQL URL or keyword string": "the resource of that dsn is opened before, " +
		"and says it",
	"its dsn is not of the form user:password@tcp(host:port)/database": "the resource of that dsn is opened before, " +
		"and says it",
	"it is a pipe that did not end within %v":      "takes that long",
	"dsn_file %w: let the user of concord read it": "who runs the tests may read everything",
	"not confirmed: nothing was done":              "asks a person at a terminal",
}

var anID = regexp.MustCompile(`\b01[0-9A-Z]{24}\b`)

func TestWhatErrorsSay(t *testing.T) {
	for _, m := range configured {
		m.line, m.code = serving, terminal.ExitUsage
		messages = append(messages, m)
	}
	var rows []string
	for _, m := range slices.Concat(messages, locked, agentMessages()) {
		rows = append(rows, m.says)
		t.Run(m.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "concord.yaml")
			taken, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			defer taken.Close()
			require.NoError(t, os.WriteFile(file, []byte(strings.ReplaceAll(m.file, "TAKEN", taken.Addr().String())),
				0o600))
			require.NoError(t, os.Chmod(file, cmp.Or(m.mode, 0o600)))
			if m.env[0] != "" {
				t.Setenv(m.env[0], m.env[1])
			}
			answers := &node{}
			if m.tells != nil {
				m.tells(answers)
			}
			line := strings.NewReplacer("FILE", file, "NODE", serveNode(t, answers)).Replace(m.line)
			_, err = command(t, strings.Fields(line)...)
			require.Error(t, err)
			require.Equal(t, m.says, strings.NewReplacer(file, "FILE", taken.Addr().String(),
				"TAKEN").Replace(err.Error()))
			require.Equal(t, m.code, terminal.ExitCode(err))
			for _, gid := range anID.FindAllString(m.says, -1) {
				_, err := api.ParseID("gid", gid)
				require.NoError(t, err, "who follows the example is refused")
			}
		})
	}
	dirs := []string{".", "demo", "../internal/config", "../internal/bank", "../internal/terminal"}
	said.CheckIn(t, dirs, rows, withoutRow, "Usagef", "waitOver")
}

func serveNode(t *testing.T, n *node) (addr string) {
	mux := http.NewServeMux()
	mux.Handle(concordv1connect.NewCoordinatorServiceHandler(n))
	s := httptest.NewUnstartedServer(mux)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}
