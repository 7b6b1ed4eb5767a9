// SPDX-License-Identifier: Apache-2.0

package tidy

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// kind says who may import a package, beyond what its layer allows.
type kind uint8

const (
	layered  kind = iota // imports lower layers only
	forTests             // imported by tests and by other packages of this kind only
	command              // a tool of the repository, imported by nobody
)

// above is the layer of what stands outside of the product: it may import all of it.
const above = 13

// house is the architecture: every package of the module, what it may import, and why it
// is there. Tests may import anything.
var house = map[string]struct {
	layer int
	kind  kind
	only  []string // if set, these and no others of ours
	why   string
}{
	"internal/mutant": {layer: -1, why: "switches for planted mistakes: constants, and off, in the product"},

	"internal/spans": {layer: 4, why: "what nodes and agents tell a collector of OpenTelemetry"},

	"txn":            {layer: 1, why: "the vocabulary and the table: everybody speaks it"},
	"protocol/zab":   {layer: 0, why: "atomic broadcast of opaque bytes: needs nothing of ours"},
	"api/concord/v1": {layer: 0, why: "generated messages"},

	"security": {layer: 2, why: "who is at the other end, and what that one may do: certificates, tokens, grants"},

	"api/concord/v1/concordv1connect": {layer: 2, why: "generated client and handler of those messages"},
	"protocol":                        {layer: 2, why: "the words that commit protocols share"},
	"protocol/threepc":                {layer: 3, why: "three-phase commit in those words"},
	"protocol/twopc":                  {layer: 3, why: "two-phase commit in those words"},
	"wal":                             {layer: 2, why: "the store keeps what zab says must be durable"},
	"adapters":                        {layer: 2, why: "the contract of a resource, and what all of them share"},
	"internal/seal":                   {layer: 0, why: "checksums before the values of both stores"},
	"adapters/pebble/journal":         {layer: 2, why: "undo and redo of branches in a store"},
	"adapters/mysql/sqltext":          {layer: 2, why: "what the text of a statement may do"},
	"adapters/postgres/sqltext":       {layer: 2, why: "what the text of a statement may do"},

	"internal/lock":        {layer: 2, why: "exclusive locks of the embedded resources"},
	"adapters/memory":      {layer: 3, why: "a resource for tests and examples"},
	"adapters/mysql":       {layer: 3, why: "MySQL and MariaDB as a resource"},
	"adapters/pebble":      {layer: 3, why: "an embedded resource on the same store as the log"},
	"adapters/postgres":    {layer: 3, why: "PostgreSQL as a resource"},
	"adapters/sqlite":      {layer: 3, why: "a SQLite file as a last resource"},
	"adapters/adaptertest": {layer: 3, kind: forTests, why: "what every resource must pass"},
	"recovery":             {layer: 3, why: "pure plans from the table and from listings"},
	"api":                  {layer: 3, why: "the API in the words of txn, for both of its ends"},

	"security/access": {layer: 4, why: "the door in front of what a node or an agent serves"},
	"adapters/joined": {layer: 4, why: "branches that another service has opened, at who began the transaction"},
	"adapters/agent":  {layer: 4, why: "databases behind an agent as resources"},
	"api/member": {layer: 4, why: "what members of three-phase transactions say, as messages of the API, " +
		"and from here to there"},
	"participant/statement": {layer: 4, why: "typed statements in branches of each kind of database"},
	"participant":           {layer: 5, why: "the agent: branches held for others, and their journal"},
	"participant/service": {layer: 6, why: "HTTP in front of an agent, and its questions to the nodes; decides " +
		"nothing"},

	"coordinator/replica": {layer: 4, why: "the node of a replicated log, pure, and the machine that it carries by " +
		"an interface", only: []string{"protocol/zab", "txn"}},
	"coordinator/deadlock": {layer: 4, why: "deadlocks that go through several databases, pure"},
	"coordinator/commit":   {layer: 5, why: "the transaction machine, pure"},
	"coordinator/peer":     {layer: 6, why: "how nodes talk: frames, handshake, reports, snapshots"},
	"coordinator":          {layer: 7, why: "the shell of a node: loop, workers, archive, wiring"},
	"server":               {layer: 8, why: "HTTP in front of a node; decides nothing"},
	".": {layer: 9, why: "the SDK: small for those who link it",
		only: []string{"txn", "adapters", "adapters/joined", "security", "api", "api/concord/v1", "protocol",
			"protocol/twopc", "protocol/zab", "internal/mutant"}},
	"gateway":               {layer: 10, why: "transactions that a node drives, as an application of the SDK"},
	"cmd/internal/terminal": {layer: 8, why: "how the command lines print and exit"},
	"cmd/internal/config":   {layer: 9, why: "what nodes and agents are told, and the databases that they name"},
	"cmd/internal/bank": {layer: 10, why: "accounts to move money between, for the demonstration and the " +
		"measurements"},
	"bench/meter":       {layer: 0, why: "a closed loop of workers, measured"},
	"cmd/concord/demo":  {layer: 11, why: "three nodes and money on the move, in one process"},
	"cmd/concord":       {layer: 12, why: "the binary wires everything by hand"},
	"cmd/concord-bench": {layer: 12, why: "measures processes of that binary"},

	"concordhttp": {layer: 10, why: "transactions that go to another service with a call, by HTTP"},
	"concordotel": {layer: 10, why: "traces and metrics of the SDK, for those who want OpenTelemetry",
		only: []string{"."}},
	"concordtest": {layer: above + 1, kind: forTests, why: "a cluster in the process, for the tests of applications"},

	"internal/sim":     {layer: above, kind: forTests, why: "seeded simulation of whole clusters"},
	"internal/crashfs": {layer: above, kind: forTests, why: "a file system that forgets what was not synced"},
	"internal/explore": {layer: above, kind: forTests, why: "exhaustive search over small worlds of cores"},

	"internal/sim/logsim": {layer: above + 1, kind: forTests, why: "the replicated log alone"},
	"internal/sim/txnsim": {layer: above + 1, kind: forTests,
		why: "whole coordinators with databases, clients and people"},
	"internal/sim/simtest": {layer: above + 1, kind: forTests, why: "what the tests of both do"},

	"internal/explore/exploretest":  {layer: above + 1, kind: forTests, why: "what the tests of all worlds do"},
	"internal/explore/threepcworld": {layer: above + 1, kind: forTests, why: "one three-phase transaction"},
	"internal/explore/lastworld":    {layer: above + 1, kind: forTests, why: "one transaction with a last resource"},
	"internal/explore/twopcworld":   {layer: above + 1, kind: forTests, why: "one transaction of two phases"},
	"internal/explore/zabworld":     {layer: above + 1, kind: forTests, why: "a cluster of three nodes"},

	"internal/faultproxy": {layer: above, kind: forTests, why: "a bad network between real processes"},
	"internal/said":       {layer: above, kind: forTests, why: "texts of errors that no table test says"},
	"internal/testdb":     {layer: above, kind: forTests, why: "real database servers"},

	"internal/program":             {layer: 0, why: "processes that do not outlive whoever started them"},
	"internal/program/programtest": {layer: above, kind: forTests, why: "the binary of cmd/concord, built once"},

	"internal/prove": {layer: above + 2, kind: command,
		why: "everything that can show concord wrong, and a table"},
	"internal/testdb/try":     {layer: above + 1, kind: command, why: "databases for a trial by hand"},
	"bench/chart":             {layer: above, kind: command, why: "draws measured figures"},
	"internal/testdb/summary": {layer: above, kind: command, why: "counts what make test ran and skipped"},
	"examples/outbox":         {layer: above, kind: command, why: "a request is handled at most once"},
	"examples/retry":          {layer: above, kind: command, why: "what to do with each answer"},
	"examples/three":          {layer: above, kind: command, why: "three databases in one transaction"},
	"examples/transfer":       {layer: above, kind: command, why: "the smallest application"},
	"internal/supply": {layer: above, kind: command, why: "bills of materials, licences, the budget of " +
		"modules"},
	"internal/tidy": {layer: above, kind: forTests, why: "these rules"},
	"tests/attack":  {layer: above, kind: forTests, why: "attacks on real nodes"},
	"tests/chaos":   {layer: above, kind: forTests, why: "everything breaks under load"},
	"tests/compose": {layer: above, kind: forTests, why: "containers of docker-compose.yml, killed and " +
		"cut off"},
	"tests/e2e": {layer: above, kind: forTests, why: "real processes on real databases"},
	"tests/operator": {layer: above, kind: forTests, why: "what operators and administrators do, and " +
		"their page"},
	"examples/services/billing": {layer: above, kind: command, why: "a service that joins the transactions of its " +
		"callers"},
	"examples/services/orders": {layer: above, kind: command, why: "a service that calls another one in a " +
		"transaction"},
}

func TestEveryPackageHasALayer(t *testing.T) {
	listed := map[string]bool{}
	for _, p := range packages(t) {
		listed[p.name()] = true
		if _, has := house[p.name()]; !has {
			t.Errorf("package %s is not in the table: add it to house in internal/tidy/layers_test.go, with its "+
				"layer and a reason", p.name())
		}
	}
	for name, rule := range house {
		require.True(t, listed[name], "the table has %s, which does not exist: remove the line", name)
		require.NotEmpty(t, rule.why, "%s: say in one line why the package is there", name)
	}
}

func TestPackagesImportOnlyFromLowerLayers(t *testing.T) {
	for _, p := range packages(t) {
		for _, imported := range p.Imports {
			other, ours := ourName(imported)
			if ours {
				require.Empty(t, forbidden(p.name(), other), "%s must not import %s", p.name(), other)
			}
		}
	}
}

// forbidden says why one of our packages must not import another one; empty if it may.
func forbidden(importer, imported string) string {
	from, to := house[importer], house[imported]
	switch {
	case to.kind == command:
		return "it is a command"
	case to.kind == forTests && from.kind == layered:
		return "it is for tests"
	case from.only != nil && !slices.Contains(from.only, imported):
		return "it is not among the few that this package may bring along"
	case to.layer >= from.layer:
		return "a package imports only from lower layers"
	}
	return ""
}

// The rules themselves can fail.
func TestLayerRulesRefuseWhatTheyShould(t *testing.T) {
	for _, c := range []struct{ importer, imported string }{
		{"txn", "wal"},
		{"wal", "adapters"},
		{"protocol", "protocol/twopc"},
		{"protocol/twopc", "adapters/memory"},
		{"coordinator", "server"},
		{"coordinator/replica", "coordinator/commit"},
		{"coordinator/commit", "coordinator/peer"},
		{"coordinator/peer", "coordinator"},
		{"coordinator", "internal/sim"},
		{"server", "adapters/adaptertest"},
		{"internal/lock", "wal"},
		{".", "wal"},
		{".", "coordinator"},
		{"cmd/concord", "internal/testdb/summary"},
		{"cmd/concord", "internal/testdb"},
	} {
		require.NotEmpty(t, forbidden(c.importer, c.imported), "%s may import %s", c.importer, c.imported)
	}
	for _, c := range []struct{ importer, imported string }{
		{"cmd/concord", "."},
		{"adapters/pebble", "internal/lock"},
		{"internal/sim", "coordinator"},
		{".", "protocol/twopc"},
		{"internal/testdb/try", "internal/testdb"},
	} {
		require.Empty(t, forbidden(c.importer, c.imported), "%s must not import %s", c.importer, c.imported)
	}
}

// What an application links with the SDK and with one adapter.
func TestApplicationsLinkOnlyWhatTheyNeed(t *testing.T) {
	const (
		pebble     = "github.com/cockroachdb/"
		pgx        = "github.com/jackc/"
		mysql      = "github.com/go-sql-driver/"
		prometheus = "github.com/prometheus/"
		viper      = "github.com/spf13/"
		charm      = "charm.land/"
		testify    = "github.com/stretchr/"
		otel       = "go.opentelemetry.io/"
		sqlite     = "github.com/ncruces/"
	)
	heavy := []string{pebble, prometheus, viper, charm, testify, module + "/coordinator", module + "/wal",
		module + "/server"}
	for pkg, unwanted := range map[string][]string{
		".":                   {pgx, mysql, otel, sqlite},
		"./concordotel":       {pgx, mysql, otel + "otel/sdk"},
		"./adapters":          {pgx, mysql, "connectrpc.com/"},
		"./api":               {pgx, mysql},
		"./adapters/postgres": {mysql},
		"./adapters/mysql":    {pgx},
		"./adapters/memory":   {pgx, mysql},
		"./adapters/sqlite":   {pgx, mysql, otel},
	} {
		deps := strings.Fields(goCommand(t, "list", "-deps", pkg))
		require.Contains(t, deps, strings.TrimSuffix(module+"/"+strings.TrimPrefix(strings.TrimPrefix(pkg, "."), "/"),
			"/"))
		for _, dep := range deps {
			for _, u := range slices.Concat(heavy, unwanted) {
				require.False(t, strings.HasPrefix(dep, u), "%s links %s", pkg, dep)
			}
		}
	}
}

// SQLite is as large as all that the program links besides, and a node opens no file of an application's.
func TestTheProgramsDoNotLinkSQLite(t *testing.T) {
	for _, dep := range strings.Fields(goCommand(t, "list", "-deps", "./cmd/...")) {
		require.False(t, strings.HasPrefix(dep, "github.com/ncruces/"), dep)
	}
}
