// SPDX-License-Identifier: Apache-2.0

package testdb

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	startTimeout = 60 * time.Second // recovery after a crash under load included
	stopTimeout  = 30 * time.Second
	pollInterval = 20 * time.Millisecond
)

// Server is one running database server, or one that was stopped or killed and
// can be started again. Its methods may be called from several goroutines.
type Server struct {
	flavor  flavor
	version string
	options options
	dir     string
	ownsDir bool
	user    *account
	port    *port

	mu   sync.Mutex
	proc *process // nil while the server is down
}

// flavor is what differs between the kinds of servers.
type flavor interface {
	name() string
	version() (string, error)
	accounts() []string
	// initialise fills an empty data directory.
	initialise(data string, run func(*exec.Cmd) error) error
	// configure writes into a data directory what this server's options need.
	configure(data string, o options) error
	command(s *Server) *exec.Cmd
	dsn(port int, user, password, database string) string
	superuser() string
	// exec runs statements one by one on one connection.
	exec(ctx context.Context, dsn string, statements []string) error
	// cleanShutdown and quickShutdown are signals; a quick shutdown need not
	// keep the data, but leaves nothing behind outside of the data directory.
	cleanShutdown() syscall.Signal
	quickShutdown() syscall.Signal
	// dispose removes what a killed server leaves outside of its data directory.
	dispose(data string)
}

// Start starts a server of that flavor without a test to end it: the caller
// calls Close. It lives in dir, which is kept, or with an empty dir in a
// temporary folder, which Close removes. A server that this machine does not
// have is ErrNotInstalled; any other error carries the end of the server's log.
func Start(flavorName, dir string, o ...Option) (*Server, error) {
	f, err := find(flavorName)
	if err != nil {
		return nil, err
	}
	s := &Server{flavor: f, dir: dir}
	for _, option := range o {
		option(&s.options)
	}
	if err := s.prepare(); err != nil {
		return nil, errors.Join(fmt.Errorf("prepare a %s server: %w", flavorName, err), s.Close())
	}
	if err := s.Start(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Server) prepare() (err error) {
	if s.version, err = s.flavor.version(); err != nil {
		return err
	}
	if s.user, err = runAs(s.flavor.accounts()); err != nil {
		return err
	}
	if s.dir == "" {
		if s.dir, err = os.MkdirTemp("", "concord-"+s.flavor.name()+"-"); err != nil {
			return err
		}
		s.ownsDir = true
	}
	if s.dir, err = filepath.Abs(s.dir); err != nil {
		return err
	}
	if err := s.user.makeDir(s.dir, 0o755); err != nil {
		return err
	}
	if _, err := os.Stat(s.data()); errors.Is(err, os.ErrNotExist) {
		if err := copyTemplate(s.flavor, s.version, s.user, s.data()); err != nil {
			return err
		}
	}
	if err := s.flavor.configure(s.data(), s.options); err != nil {
		return err
	}
	s.port, err = reservePort()
	return err
}

// Flavor is "postgres", "mariadb" or "mysql".
func (s *Server) Flavor() string { return s.flavor.name() }

// Version is the version as the server program prints it, such as 15.18.
func (s *Server) Version() string { return s.version }

// Port is the TCP port on 127.0.0.1, the same over restarts.
func (s *Server) Port() int { return s.port.number }

// PID is the id of the server's main process, 0 while it is down.
func (s *Server) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == nil {
		return 0
	}
	return s.proc.pid
}

// DSN is how the superuser connects to a database: a URL for pgx, a data source
// name for go-sql-driver/mysql (where the database may be empty).
func (s *Server) DSN(database string) string {
	return s.UserDSN(s.flavor.superuser(), "", database)
}

// UserDSN is DSN for another user.
func (s *Server) UserDSN(user, password, database string) string {
	return s.flavor.dsn(s.port.number, user, password, database)
}

// Exec runs statements as the superuser, one by one on one connection: users,
// databases, tables.
func (s *Server) Exec(ctx context.Context, database string, statements ...string) error {
	if err := s.flavor.exec(ctx, s.DSN(database), statements); err != nil {
		return fmt.Errorf("%s: %w", s.Flavor(), err)
	}
	return nil
}

// Start starts a server that was stopped or killed, on the same data and port.
// It returns when the server answers.
func (s *Server) Start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc != nil && s.proc.alive() {
		return fmt.Errorf("start %s: it runs already with pid %d", s.Flavor(), s.proc.pid)
	}
	proc, err := startProcess(s.flavor.command(s), s.user, s.logPath(), s.flavor.quickShutdown(), s.disposableDir())
	if err != nil {
		return fmt.Errorf("start %s: %w", s.Flavor(), err)
	}
	s.proc = proc
	if err := s.awaitAnswer(); err != nil {
		return errors.Join(fmt.Errorf("start %s %s: %w; end of its log:\n%s", s.Flavor(), s.version, err, s.LogTail()),
			s.end(proc.kill))
	}
	return nil
}

// awaitAnswer returns when the server has answered a query.
func (s *Server) awaitAnswer() error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for {
		err := s.flavor.exec(ctx, s.DSN(""), []string{"SELECT 1"})
		if err == nil {
			return nil
		}
		select {
		case <-s.proc.done:
			return errors.New("the server ended")
		case <-ctx.Done():
			return fmt.Errorf("no answer within %v: %w", startTimeout, err)
		case <-time.After(pollInterval):
		}
	}
}

// Kill ends every process of the server with kill -9 and returns when they are
// gone. A server that is down is no error.
func (s *Server) Kill() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == nil {
		return nil
	}
	if err := s.end(s.proc.kill); err != nil {
		return fmt.Errorf("kill %s: %w", s.Flavor(), err)
	}
	return nil
}

// Stop shuts the server down cleanly: sessions are ended, prepared transactions
// stay. A server that is down is no error.
func (s *Server) Stop() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == nil {
		return nil
	}
	err := s.end(func() error { return s.proc.shutdown(s.flavor.cleanShutdown()) })
	if err != nil {
		return fmt.Errorf("stop %s: %w", s.Flavor(), err)
	}
	return nil
}

func (s *Server) end(how func() error) error {
	if err := how(); err != nil {
		return err
	}
	s.proc = nil
	return nil
}

// Pause stops every process of the server where it is, as a machine that hangs:
// connections stay open, and nothing answers. Close and Kill work on a paused server.
func (s *Server) Pause() error { return s.each("pause", (*process).pause) }

// Resume lets a paused server go on.
func (s *Server) Resume() error { return s.each("resume", (*process).resume) }

func (s *Server) each(what string, do func(*process) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == nil {
		return fmt.Errorf("%s %s: it is down", what, s.Flavor())
	}
	if err := do(s.proc); err != nil {
		return fmt.Errorf("%s %s: %w", what, s.Flavor(), err)
	}
	return nil
}

// Close ends the server quickly, without care for its data, and frees its port.
// A temporary folder is removed.
func (s *Server) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	if s.proc != nil {
		err = s.end(func() error { return s.proc.shutdown(s.flavor.quickShutdown()) })
	}
	if s.dir != "" {
		s.flavor.dispose(s.data())
	}
	if s.port != nil {
		s.port.release()
	}
	if s.ownsDir {
		err = errors.Join(err, os.RemoveAll(s.dir))
	}
	if err != nil {
		return fmt.Errorf("close %s: %w", s.Flavor(), err)
	}
	return nil
}

// LogTail is the end of the server's log, for the message of a failed test.
func (s *Server) LogTail() string { return tail(s.logPath()) }

func (s *Server) data() string    { return filepath.Join(s.dir, "data") }
func (s *Server) logPath() string { return filepath.Join(s.dir, "server.log") }

func (s *Server) disposableDir() string {
	if s.ownsDir {
		return s.dir
	}
	return ""
}

func tail(path string) string {
	const most = 4000
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	if len(b) > most {
		b = b[len(b)-most:]
	}
	return strings.TrimSpace(string(b))
}
