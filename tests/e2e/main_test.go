// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/internal/program/programtest"
	"github.com/concordtx/concord/internal/testdb"
)

const patience = programtest.Patience

// binary is the path of cmd/concord.
var binary string

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
	for _, s := range []*testdb.Shared{postgresServer, mariadbServer, mysqlServer} {
		defer s.Close()
	}
	return programtest.Run(m, &binary)
}

// The servers of the whole package.
var (
	postgresServer = shared(testdb.FlavorPostgres)
	mariadbServer  = shared(testdb.FlavorMariaDB)
	mysqlServer    = shared(testdb.FlavorMySQL)
)

func shared(flavor string) *testdb.Shared {
	return &testdb.Shared{Flavor: flavor, Options: []testdb.Option{testdb.WithPasswords()}}
}

// result is what a command printed and how it ended.
type result struct {
	code           int
	stdout, stderr string
}

func (r result) String() string {
	return fmt.Sprintf("exit code %d\nstdout:\n%s\nstderr:\n%s", r.code, r.stdout, r.stderr)
}

// command runs one command of the binary.
func command(t testing.TB, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		require.NoError(t, err)
	}
	require.NoError(t, ctx.Err(), "concord %v hangs\n%s\n%s", args, &out, &errs)
	return result{code: cmd.ProcessState.ExitCode(), stdout: out.String(), stderr: errs.String()}
}

var eventually = programtest.Eventually
