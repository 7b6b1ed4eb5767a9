// SPDX-License-Identifier: Apache-2.0

package testdb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	driver "github.com/go-sql-driver/mysql"
)

// innodb is what MariaDB and MySQL have in common.
type innodb struct{}

func (innodb) accounts() []string              { return []string{"mysql", "nobody"} }
func (innodb) superuser() string               { return "root" }
func (innodb) configure(string, options) error { return nil }
func (innodb) dispose(string)                  {}
func (innodb) cleanShutdown() syscall.Signal   { return syscall.SIGTERM }
func (innodb) quickShutdown() syscall.Signal   { return syscall.SIGKILL }

func (innodb) dsn(port int, user, password, database string) string {
	c := driver.NewConfig()
	c.User, c.Passwd, c.DBName = user, password, database
	c.Net, c.Addr = "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	c.Timeout = 10 * time.Second
	return c.FormatDSN()
}

func (innodb) exec(ctx context.Context, dsn string, statements []string) (err error) {
	config, err := driver.ParseDSN(dsn)
	if err != nil {
		return err
	}
	// What fails while a server starts is told by the caller, not on stderr.
	config.Logger = &driver.NopLogger{}
	connector, err := driver.NewConnector(config)
	if err != nil {
		return err
	}
	db := sql.OpenDB(connector)
	defer func() { err = errors.Join(err, db.Close()) }()
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	for _, statement := range statements {
		if _, err := conn.ExecContext(ctx, statement); err != nil {
			return fmt.Errorf("%s: %w", statement, err)
		}
	}
	return nil
}

// arguments are the settings that hold for both. Sockets have a short limit on
// the length of their path, so it is relative to the data directory.
func (innodb) arguments(s *Server, more ...setting) []string {
	settings := append([]setting{
		{"datadir", s.data()},
		{"port", strconv.Itoa(s.port.number)},
		{"bind-address", "127.0.0.1"},
		{"socket", "server.sock"},
		{"pid-file", filepath.Join(s.data(), "server.pid")},
		{"innodb-lock-wait-timeout", "20"},
		{"lock-wait-timeout", "20"},
		{"innodb-buffer-pool-size", "64M"},
		{"max-connections", "300"},
		{"skip-name-resolve", "ON"},
	}, more...)
	var args []string
	for _, o := range append(settings, s.options.settings...) {
		args = append(args, "--"+o.name+"="+o.value)
	}
	return args
}

// mariadb is a MariaDB installation.
type mariadb struct {
	innodb
	server, install string
}

func findMariaDB() (flavor, error) {
	server, err := lookUp("mariadbd")
	if err != nil {
		return nil, notInstalled("no mariadbd on PATH or in /usr/sbin")
	}
	install, err := lookUp("mariadb-install-db")
	if err != nil {
		return nil, notInstalled("no mariadb-install-db on PATH")
	}
	return mariadb{server: server, install: install}, nil
}

// lookUp looks in sbin too, which users other than root often lack in PATH.
func lookUp(program string) (string, error) {
	if path, err := exec.LookPath(program); err == nil {
		return path, nil
	}
	return exec.LookPath(filepath.Join("/usr/sbin", program))
}

func (mariadb) name() string { return FlavorMariaDB }

func (m mariadb) version() (string, error) {
	return programVersion(exec.Command(m.server, "--no-defaults", "--version"))
}

func (m mariadb) initialise(data string, run func(*exec.Cmd) error) error {
	err := run(exec.Command(m.install, "--no-defaults", "--datadir="+data, "--skip-test-db",
		"--auth-root-authentication-method=normal", "--innodb-log-file-size=32M"))
	if err != nil {
		return err
	}
	return certificateOf(data).write()
}

func (m mariadb) command(s *Server) *exec.Cmd {
	secure := certificateOf(s.data())
	args := append([]string{"--no-defaults"}, m.arguments(s, setting{"innodb-log-file-size", "32M"},
		setting{"ssl-cert", secure.cert}, setting{"ssl-key", secure.key})...)
	cmd := exec.Command(m.server, args...)
	cmd.Dir = s.dir
	return cmd
}

// mysql is a MySQL installation, either the system's (tree is empty) or one
// that was unpacked, with libraries of its own, into the folder tree.
type mysql struct {
	innodb
	tree string
	// program is the command line up to the first option.
	program []string
}

func findMySQL() (flavor, error) {
	cache, err := cacheDir()
	if err != nil {
		return nil, err
	}
	for _, tree := range []string{filepath.Join(cache, "mysql"), filepath.Join(rootCacheDir, "mysql")} {
		if program, ok := unpacked(tree); ok {
			return mysql{tree: tree, program: program}, nil
		}
	}
	path, err := lookUp("mysqld")
	if err != nil {
		return nil, notInstalled(fmt.Sprintf("no mysqld on PATH or unpacked in %s", cache))
	}
	out, err := exec.Command(path, "--no-defaults", "--version").Output()
	if err != nil {
		return nil, fmt.Errorf("%s --version: %w", path, err)
	}
	if strings.Contains(strings.ToLower(string(out)), "mariadb") {
		return nil, notInstalled(path + " is MariaDB")
	}
	return mysql{program: []string{path}}, nil
}

// unpacked is the command line of an unpacked server: its own loader finds its
// own libraries, which are newer than the machine's.
func unpacked(tree string) ([]string, bool) {
	server := filepath.Join(tree, "usr/sbin/mysqld")
	loaders, err := filepath.Glob(filepath.Join(tree, "usr/lib*/ld-linux*.so.*"))
	if err != nil || len(loaders) == 0 || !isFile(server) {
		return nil, false
	}
	libraries, err := filepath.Glob(filepath.Join(tree, "usr/lib/*-linux-gnu"))
	if err != nil || len(libraries) == 0 {
		return nil, false
	}
	return []string{loaders[0], "--library-path", strings.Join(libraries, ":"), server}, true
}

func (mysql) name() string { return FlavorMySQL }

func (m mysql) version() (string, error) { return programVersion(m.run("--version")) }

func (m mysql) run(args ...string) *exec.Cmd {
	all := append(append([]string{}, m.program[1:]...), "--no-defaults")
	if m.tree != "" {
		all = append(all,
			"--basedir="+filepath.Join(m.tree, "usr"),
			"--lc-messages-dir="+filepath.Join(m.tree, "usr/share/mysql"),
			"--character-sets-dir="+filepath.Join(m.tree, "usr/share/mysql/charsets"),
			"--plugin-dir="+filepath.Join(m.tree, "usr/lib/mysql/plugin"))
	}
	return exec.Command(m.program[0], append(all, args...)...)
}

// initialise also makes a root that may connect over TCP: MySQL's own may only
// come from "localhost", a name that a server without name lookups never sees.
func (m mysql) initialise(data string, run func(*exec.Cmd) error) (err error) {
	const firstSQL = "CREATE USER 'root'@'127.0.0.1' IDENTIFIED BY '';\n" +
		"GRANT ALL ON *.* TO 'root'@'127.0.0.1' WITH GRANT OPTION;\n"
	file := data + ".sql"
	if err := os.WriteFile(file, []byte(firstSQL), 0o644); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(file)) }()
	return run(m.run("--initialize-insecure", "--datadir="+data, "--init-file="+file,
		"--innodb-redo-log-capacity=32M", "--secure-file-priv="))
}

func (m mysql) command(s *Server) *exec.Cmd {
	cmd := m.run(m.arguments(s,
		setting{"mysqlx", "OFF"},
		setting{"secure-file-priv", ""},
		setting{"innodb-redo-log-capacity", "32M"})...)
	cmd.Dir = s.dir
	return cmd
}
