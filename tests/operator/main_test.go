// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"os"
	"testing"

	"github.com/concordtx/concord/internal/program/programtest"
	"github.com/concordtx/concord/internal/testdb"
)

const patience = programtest.Patience

// binary is the path of cmd/concord.
var binary string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	for _, s := range servers {
		defer s.Close()
	}
	return programtest.Run(m, &binary)
}

// servers are those of the whole package.
var servers = map[string]*testdb.Shared{
	testdb.FlavorPostgres: {Flavor: testdb.FlavorPostgres, Options: withPasswords},
	testdb.FlavorMariaDB:  {Flavor: testdb.FlavorMariaDB, Options: withPasswords},
	testdb.FlavorMySQL:    {Flavor: testdb.FlavorMySQL, Options: withPasswords},
}

var withPasswords = []testdb.Option{testdb.WithPasswords()}

// server returns the shared server of a flavor, or skips the test.
func server(t testing.TB, flavor string) *testdb.Server {
	t.Helper()
	return servers[flavor].Get(t)
}

var eventually = programtest.Eventually
