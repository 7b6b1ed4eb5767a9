// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

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

// process is a program in a process group of its own. It does not outlive the tests,
// even if they are killed: a shell waits for the end of the pipe from them.
type process struct {
	cmd      *exec.Cmd
	watchdog *exec.Cmd
	leash    io.Closer
	done     chan struct{} // closed when it has ended
	err      error         // of Wait, once done
}

func startProcess(cmd *exec.Cmd) (*process, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	p.watchdog = exec.Command("sh", "-c", `read -r _; kill -KILL -- "-$0"`, strconv.Itoa(cmd.Process.Pid))
	p.watchdog.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	leash, err := p.watchdog.StdinPipe()
	if err == nil {
		p.leash = leash
		err = p.watchdog.Start()
	}
	if err != nil {
		return nil, errors.Join(err, p.signal(syscall.SIGKILL))
	}
	return p, nil
}

func (p *process) alive() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// signal signals the whole group. That it is gone is no error.
func (p *process) signal(s syscall.Signal) error {
	if err := syscall.Kill(-p.cmd.Process.Pid, s); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	return nil
}

// end signals the process if it is alive, waits for its end, and kills it if that takes
// longer than limit, which is an error.
func (p *process) end(s syscall.Signal, limit time.Duration) (err error) {
	if p.alive() {
		err = p.signal(s)
	}
	select {
	case <-p.done:
	case <-time.After(limit):
		err = errors.Join(err, fmt.Errorf("the process did not end within %v of signal %v", limit, s),
			p.signal(syscall.SIGKILL))
		<-p.done
	}
	// The watchdog first: it must not signal a number that the system gives to others.
	_ = p.watchdog.Process.Kill()
	_ = p.watchdog.Wait()
	_ = p.leash.Close()
	return err
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
