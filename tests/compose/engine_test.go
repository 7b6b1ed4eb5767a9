// SPDX-License-Identifier: Apache-2.0

//go:build compose

package compose

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/internal/testdb"
)

// patience is how long anything may take that is waited for.
const patience = 3 * time.Minute

// engine runs containers.
type engine struct {
	testing.TB
	host    string   // DOCKER_HOST; empty: the machine's
	compose []string // the command, up to its options
	own     bool     // so nothing can be pulled, and nobody else's images are replaced
	ports   map[string]string
}

// movePorts chooses ports that nobody listens on.
func (e *engine) movePorts() {
	e.Helper()
	e.ports = map[string]string{}
	for _, name := range []string{"NODE1_PORT", "NODE2_PORT", "NODE3_PORT", "POSTGRES_PORT", "MYSQL_PORT",
		"MARIADB_PORT"} {
		e.ports[name] = strconv.Itoa(testdb.FreePort(e))
	}
}

// findEngine takes the machine's engine if there is one, and starts its own if that can be had.
func findEngine(t testing.TB) *engine {
	t.Helper()
	if os.Geteuid() != 0 {
		notRun(t, "an engine needs root")
	}
	if _, err := exec.LookPath("docker"); err != nil {
		notRun(t, "there is no docker")
	}
	e := &engine{TB: t, host: os.Getenv("DOCKER_HOST")}
	if _, err := e.try("docker", "compose", "version"); err == nil {
		e.compose = []string{"docker", "compose"}
	} else if _, err := exec.LookPath("docker-compose"); err == nil {
		e.compose = []string{"docker-compose"}
	} else {
		notRun(t, "there is no Compose")
	}
	if _, err := e.try("docker", "version"); err == nil {
		return e
	}
	e.start()
	return e
}

// notRun says loudly that nothing was tried; CONCORD_TEST_REQUIRE makes that a failure.
func notRun(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("CONCORD_TEST_REQUIRE") != "" {
		t.Fatalf("containers: NOT RUN (%s)", why)
	}
	t.Skipf("containers: NOT RUN (%s)", why)
}

// start starts an engine of the test's own, which ends with the test.
func (e *engine) start() {
	e.Helper()
	if _, err := exec.LookPath("dockerd"); err != nil {
		notRun(e, "no engine runs, and there is no dockerd")
	}
	dir := e.TempDir()
	log, err := os.Create(filepath.Join(dir, "log"))
	require.NoError(e, err)
	socket := filepath.Join(dir, "socket")
	const data = "/var/cache/concord-testdb/docker" // layers stay from one run to the next
	d := exec.Command("dockerd", "--data-root", data, "--exec-root", filepath.Join(dir, "run"),
		"--pidfile", filepath.Join(dir, "pid"), "-H", "unix://"+socket)
	d.Stdout, d.Stderr = log, log
	d.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	require.NoError(e, d.Start())
	ended := make(chan error, 1)
	go func() { ended <- d.Wait() }()
	e.Cleanup(func() {
		require.NoError(e, d.Process.Signal(syscall.SIGTERM))
		select {
		case <-ended:
		case <-time.After(patience):
			e.Error("the engine does not end")
		}
		require.NoError(e, log.Close())
	})
	e.host, e.own = "unix://"+socket, true
	require.Eventually(e, func() bool {
		select {
		case err := <-ended:
			ended <- err
			text, _ := os.ReadFile(log.Name())
			lines := strings.Split(strings.TrimSpace(string(text)), "\n")
			notRun(e, "the engine ended: "+lines[len(lines)-1])
		default:
		}
		_, err := e.try("docker", "version")
		return err == nil
	}, patience, 200*time.Millisecond, "the engine answers")
}

func (e *engine) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), "COMPOSE_PROJECT_NAME=concordtest")
	if e.host != "" {
		cmd.Env = append(cmd.Env, "DOCKER_HOST="+e.host)
	}
	for name, port := range e.ports {
		cmd.Env = append(cmd.Env, name+"="+port)
	}
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// try runs a command and returns what it printed, also if it failed.
func (e *engine) try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var out, errs strings.Builder
	cmd := e.command(ctx, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, errs.String())
	}
	return out.String(), nil
}

func (e *engine) docker(args ...string) string {
	e.Helper()
	out, err := e.try(append([]string{"docker"}, args...)...)
	require.NoError(e, err)
	return strings.TrimSpace(out)
}

func (e *engine) up(args ...string) {
	e.Helper()
	_, err := e.try(append(append(e.compose[:len(e.compose):len(e.compose)], "up", "-d", "--no-build"), args...)...)
	require.NoError(e, err)
}

// build gives an image its name.
func (e *engine) build(i image) {
	e.Helper()
	args := []string{"docker", "import"}
	for _, c := range i.changes() {
		args = append(args, "--change", c)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := e.command(ctx, append(args, "-", i.tag)...)
	r, w := io.Pipe()
	cmd.Stdin = r
	var errs strings.Builder
	cmd.Stderr = &errs
	written := make(chan error, 1)
	go func() {
		err := i.write(w)
		written <- errors.Join(err, w.CloseWithError(err))
	}()
	err := cmd.Run()
	_ = r.Close() // a write that nobody reads ends
	require.NoError(e, errors.Join(err, <-written), "%s: %s", i.tag, errs.String())
}

// container is the one that runs a service now.
func (e *engine) container(service string) string {
	e.Helper()
	return e.docker("ps", "-a", "--no-trunc", "-q", "--filter", "label=com.docker.compose.project=concordtest",
		"--filter", "label=com.docker.compose.service="+service)
}

// health of a service: starting, healthy or unhealthy.
func (e *engine) health(service string) string {
	out, err := e.try("docker", "inspect", "-f", "{{.State.Health.Status}}", e.container(service))
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(out)
}

func (e *engine) waitHealthy(services ...string) {
	e.Helper()
	for _, s := range services {
		if !eventually(func() bool { return e.health(s) == "healthy" }) {
			out, _ := e.try("docker", "logs", "--tail", "40", e.container(s))
			e.Fatalf("%s is %s: %s", s, e.health(s), out)
		}
	}
}

// eventually waits until something holds.
func eventually(holds func() bool) bool {
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if holds() {
			return true
		}
	}
	return false
}
