// SPDX-License-Identifier: Apache-2.0

package testdb

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sys/unix"
)

// postgres is a PostgreSQL installation.
type postgres struct{ bin string }

func find(flavorName string) (flavor, error) {
	switch flavorName {
	case FlavorPostgres:
		return findPostgres()
	case FlavorMariaDB:
		return findMariaDB()
	case FlavorMySQL:
		return findMySQL()
	default:
		return nil, fmt.Errorf("unknown flavor %q: want %s, %s or %s", flavorName, FlavorPostgres, FlavorMariaDB,
			FlavorMySQL)
	}
}

func notInstalled(what string) error {
	return fmt.Errorf("%w: %s; run internal/testdb/install/install.sh as root", ErrNotInstalled, what)
}

// findPostgres prefers the server on PATH to Debian's folders, and there the
// highest version.
func findPostgres() (flavor, error) {
	if path, err := exec.LookPath("postgres"); err == nil {
		if real, err := filepath.EvalSymlinks(path); err == nil && isFile(filepath.Join(filepath.Dir(real), "initdb")) {
			return postgres{bin: filepath.Dir(real)}, nil
		}
	}
	dirs, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err != nil {
		return nil, err
	}
	best, bestVersion := "", -1
	for _, dir := range dirs {
		v, err := strconv.Atoi(filepath.Base(filepath.Dir(dir)))
		if err == nil && v > bestVersion && isFile(filepath.Join(dir, "postgres")) &&
			isFile(filepath.Join(dir, "initdb")) {
			best, bestVersion = dir, v
		}
	}
	if best == "" {
		return nil, notInstalled("no postgres with initdb on PATH or in /usr/lib/postgresql")
	}
	return postgres{bin: best}, nil
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// programVersion runs a program with --version and returns the first number
// such as 15.18 in what it prints.
func programVersion(cmd *exec.Cmd) (string, error) {
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s --version: %w", cmd.Path, err)
	}
	return versionIn(string(out))
}

func versionIn(text string) (string, error) {
	found := regexp.MustCompile(`\s(?:Ver )?([0-9]+\.[0-9]+(?:\.[0-9]+)*)`).FindStringSubmatch(text)
	if found == nil {
		return "", fmt.Errorf("no version in %q", text)
	}
	return found[1], nil
}

func (postgres) name() string       { return FlavorPostgres }
func (postgres) accounts() []string { return []string{"postgres", "nobody"} }
func (postgres) superuser() string  { return "postgres" }

func (p postgres) version() (string, error) {
	return programVersion(exec.Command(filepath.Join(p.bin, "postgres"), "--version"))
}

func (p postgres) initialise(data string, run func(*exec.Cmd) error) error {
	return run(exec.Command(filepath.Join(p.bin, "initdb"), "--no-sync", "-A", "trust",
		"-U", "postgres", "-E", "UTF8", "--locale", "C", "-D", data))
}

func (postgres) configure(data string, o options) error {
	if !o.passwords {
		return nil
	}
	const rules = "host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
	return os.WriteFile(filepath.Join(data, "pg_hba.conf"), []byte(rules), 0o600)
}

func (p postgres) command(s *Server) *exec.Cmd {
	args := []string{"-D", s.data()}
	for _, o := range append([]setting{
		{"listen_addresses", "127.0.0.1"},
		{"port", strconv.Itoa(s.port.number)},
		{"unix_socket_directories", ""},
		{"max_prepared_transactions", "200"},
		{"max_connections", "200"},
		{"lock_timeout", "20s"},
		{"shared_buffers", "64MB"},
		{"timezone", "UTC"},
	}, s.options.settings...) {
		args = append(args, "-c", o.name+"="+o.value)
	}
	cmd := exec.Command(filepath.Join(p.bin, "postgres"), args...)
	cmd.Dir = s.dir
	return cmd
}

func (postgres) dsn(port int, user, password, database string) string {
	if database == "" {
		database = "postgres"
	}
	u := url.URL{
		Scheme:   "postgres",
		User:     url.User(user),
		Host:     net.JoinHostPort("127.0.0.1", strconv.Itoa(port)),
		Path:     "/" + database,
		RawQuery: "sslmode=disable&connect_timeout=10",
	}
	if password != "" {
		u.User = url.UserPassword(user, password)
	}
	return u.String()
}

func (postgres) exec(ctx context.Context, dsn string, statements []string) (err error) {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		err = errors.Join(err, conn.Close(closing))
	}()
	for _, statement := range statements {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return fmt.Errorf("%s: %w", statement, err)
		}
	}
	return nil
}

// PostgreSQL's fast shutdown ends sessions; its immediate one skips the
// checkpoint and still removes the shared memory.
func (postgres) cleanShutdown() syscall.Signal { return syscall.SIGINT }
func (postgres) quickShutdown() syscall.Signal { return syscall.SIGQUIT }

// dispose removes the shared memory segment of a server that was killed and not
// started again. Its id is the second number on line 7 of postmaster.pid.
func (postgres) dispose(data string) {
	b, err := os.ReadFile(filepath.Join(data, "postmaster.pid"))
	if err != nil {
		return // it was shut down
	}
	lines := strings.Split(string(b), "\n")
	if len(lines) < 7 {
		return
	}
	fields := strings.Fields(lines[6])
	if len(fields) != 2 {
		return
	}
	if id, err := strconv.Atoi(fields[1]); err == nil {
		// The kernel removes it with its last user; that it is gone is no error.
		_, _ = unix.SysvShmCtl(id, unix.IPC_RMID, nil)
	}
}
