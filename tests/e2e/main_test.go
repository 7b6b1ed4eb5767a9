// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/concordtx/concord/internal/testdb"
)

// patience bounds every wait for something that must happen soon. It is generous: a
// slow machine is no failure.
const patience = 60 * time.Second

// binary is the path of cmd/concord, which TestMain builds unless binaryEnv names one.
var binary string

const binaryEnv = "CONCORD_E2E_BINARY"

func TestMain(m *testing.M) {
	if order := os.Getenv(childEnv); order != "" {
		os.Exit(runChild(order))
	}
	if order := os.Getenv(clientEnv); order != "" {
		os.Exit(runClient(order))
	}
	if order := os.Getenv(serviceEnv); order != "" {
		os.Exit(runService(order))
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "concord-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if binary = os.Getenv(binaryEnv); binary == "" {
		binary = filepath.Join(dir, "concord")
		if out, err := exec.Command("go", "build", "-o", binary,
			"github.com/concordtx/concord/cmd/concord").CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build concord: %v\n%s", err, out)
			return 1
		}
	}
	defer postgresServer.close()
	defer mariadbServer.close()
	defer mysqlServer.close()
	return m.Run()
}

// The servers of the whole package, each started by the first test that needs it.
var (
	postgresServer = &sharedServer{flavor: testdb.FlavorPostgres}
	mariadbServer  = &sharedServer{flavor: testdb.FlavorMariaDB}
	mysqlServer    = &sharedServer{flavor: testdb.FlavorMySQL}
)

type sharedServer struct {
	flavor string
	once   sync.Once
	server *testdb.Server
	err    error
}

func (s *sharedServer) get(t testing.TB) *testdb.Server {
	t.Helper()
	s.once.Do(func() { s.server, s.err = testdb.Start(s.flavor, "", testdb.WithPasswords()) })
	if errors.Is(s.err, testdb.ErrNotInstalled) {
		reason := testdb.NotRun(s.flavor, s.err)
		if testdb.Required(s.flavor) {
			t.Fatal(reason)
		}
		t.Skip(reason)
	}
	if s.err != nil {
		t.Fatal(s.err)
	}
	return s.server
}

func (s *sharedServer) close() {
	if s.server != nil {
		if err := s.server.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
}
