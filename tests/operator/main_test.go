// SPDX-License-Identifier: Apache-2.0

package operator

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

// patience bounds every wait for something that must happen soon.
const patience = 60 * time.Second

// binary is the path of cmd/concord, which TestMain builds.
var binary string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "concord-operator-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "concord")
	if out, err := exec.Command("go", "build", "-o", binary,
		"github.com/concordtx/concord/cmd/concord").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build concord: %v\n%s", err, out)
		return 1
	}
	for _, s := range servers {
		defer s.close()
	}
	return m.Run()
}

// servers are those of the whole package, each started by the first test that needs it.
var servers = map[string]*sharedServer{
	testdb.FlavorPostgres: {flavor: testdb.FlavorPostgres},
	testdb.FlavorMariaDB:  {flavor: testdb.FlavorMariaDB},
	testdb.FlavorMySQL:    {flavor: testdb.FlavorMySQL},
}

type sharedServer struct {
	flavor string
	once   sync.Once
	server *testdb.Server
	err    error
}

// server returns the shared server of a flavor, or skips the test.
func server(t testing.TB, flavor string) *testdb.Server {
	t.Helper()
	s := servers[flavor]
	s.once.Do(func() { s.server, s.err = testdb.Start(flavor, "", testdb.WithPasswords()) })
	if errors.Is(s.err, testdb.ErrNotInstalled) {
		reason := testdb.NotRun(flavor, s.err)
		if testdb.Required(flavor) {
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

// eventually polls a condition that must come true.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
