// SPDX-License-Identifier: Apache-2.0

package testdb_test

import (
	"bufio"
	"context"
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	_ "github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/internal/testdb"
)

func patience(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func connect(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	ctx := patience(t)
	conn, err := pgx.Connect(ctx, dsn)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(ctx) }) // most are broken by the test
	return conn
}

func TestPostgresPreparedTransactionSurvivesKill(t *testing.T) {
	s := testdb.Postgres(t)
	require.Equal(t, "postgres", s.Flavor())
	ctx := patience(t)
	require.NoError(t, s.Exec(ctx, "", "CREATE DATABASE shop"))
	require.NoError(t, s.Exec(ctx, "shop", "CREATE TABLE account (id int)",
		"BEGIN", "INSERT INTO account VALUES (1)", "PREPARE TRANSACTION 'survivor'"))

	port, pid := s.Port(), s.PID()
	require.NoError(t, s.Kill())
	require.Zero(t, s.PID())
	require.ErrorIs(t, syscall.Kill(pid, 0), syscall.ESRCH)
	require.NoError(t, s.Start())
	require.Equal(t, port, s.Port())
	require.NotEqual(t, pid, s.PID())

	conn := connect(t, s.DSN("shop"))
	var gid string
	require.NoError(t, conn.QueryRow(ctx, "SELECT gid FROM pg_prepared_xacts").Scan(&gid))
	require.Equal(t, "survivor", gid)
	_, err := conn.Exec(ctx, "COMMIT PREPARED 'survivor'")
	require.NoError(t, err)
	var rows int
	require.NoError(t, conn.QueryRow(ctx, "SELECT count(*) FROM account").Scan(&rows))
	require.Equal(t, 1, rows)
}

func TestPostgresKillLeavesNoBackendBehind(t *testing.T) {
	s := testdb.Postgres(t)
	ctx := patience(t)
	conn := connect(t, s.DSN(""))
	busy := connect(t, s.DSN(""))
	backend := busy.PgConn().PID()
	ended := make(chan error, 1)
	go func() {
		_, err := busy.Exec(ctx, "SELECT pg_sleep(50)")
		ended <- err
	}()
	require.Eventually(t, func() bool {
		var active bool
		err := conn.QueryRow(ctx, "SELECT state = 'active' FROM pg_stat_activity WHERE pid = $1", backend).Scan(&active)
		return err == nil && active
	}, 20*time.Second, 10*time.Millisecond)

	require.NoError(t, s.Kill())
	require.Error(t, <-ended)
	require.False(t, running(int(backend)))
	require.NoError(t, s.Start())
}

// running reports whether a process exists and is no zombie, which is what
// is left of a killed child until its new parent looks.
func running(pid int) bool {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	return err == nil && !strings.Contains(string(status), "State:\tZ")
}

func TestPostgresSettingsWinOverDefaultsAlsoAfterRestart(t *testing.T) {
	s := testdb.Postgres(t, testdb.WithSetting("max_prepared_transactions", "0"))
	ctx := patience(t)
	show := func(name string) (value string) {
		require.NoError(t, connect(t, s.DSN("")).QueryRow(ctx, "SHOW "+name).Scan(&value))
		return value
	}
	require.Equal(t, "0", show("max_prepared_transactions"))
	require.NoError(t, s.Stop())
	require.NoError(t, s.Start())
	require.Equal(t, "0", show("max_prepared_transactions"))
	require.Equal(t, "20s", show("lock_timeout"))
	require.Equal(t, "on", show("fsync"))
}

func TestPostgresWithPasswordsRefusesAWrongOne(t *testing.T) {
	s := testdb.Postgres(t, testdb.WithPasswords())
	ctx := patience(t)
	require.NoError(t, s.Exec(ctx, "", "CREATE ROLE app LOGIN PASSWORD 'right:@/one'"))
	conn := connect(t, s.UserDSN("app", "right:@/one", "postgres"))
	require.NoError(t, conn.Ping(ctx))
	_, err := pgx.Connect(ctx, s.UserDSN("app", "wrong", "postgres"))
	var refused *pgconn.PgError
	require.ErrorAs(t, err, &refused)
	require.Equal(t, "28P01", refused.Code)
}

func TestPausedServerAnswersAfterResume(t *testing.T) {
	for _, start := range []func(testing.TB, ...testdb.Option) *testdb.Server{testdb.Postgres, testdb.MariaDB} {
		s := start(t)
		require.NoError(t, s.Pause())
		hung, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
		require.Error(t, s.Exec(hung, "", "SELECT 1"), "a paused server answered")
		cancel()
		require.NoError(t, s.Resume())
		require.NoError(t, s.Exec(patience(t), "", "SELECT 1"))
		require.NoError(t, s.Pause())
		require.NoError(t, s.Kill(), "kill of a paused server")
		require.NoError(t, s.Start())
		require.NoError(t, s.Pause(), "the end of the test closes a paused server")
	}
}

func TestMariaDBPreparedTransactionSurvivesKill(t *testing.T) { xaSurvivesKill(t, testdb.MariaDB(t)) }
func TestMySQLPreparedTransactionSurvivesKill(t *testing.T)   { xaSurvivesKill(t, testdb.MySQL(t)) }

func xaSurvivesKill(t *testing.T, s *testdb.Server) {
	ctx := patience(t)
	require.NotEmpty(t, s.Version())
	require.NoError(t, s.Exec(ctx, "", "CREATE DATABASE shop", "CREATE TABLE shop.account (id int)",
		"CREATE USER app@'127.0.0.1' IDENTIFIED BY 'se@c:r/et'", "GRANT ALL ON shop.* TO app@'127.0.0.1'"))
	app := open(t, s.UserDSN("app", "se@c:r/et", "shop"))
	require.NoError(t, app.PingContext(ctx))
	require.NoError(t, s.Exec(ctx, "shop", "XA START 'survivor'", "INSERT INTO account VALUES (1)",
		"XA END 'survivor'", "XA PREPARE 'survivor'"))

	port, pid := s.Port(), s.PID()
	require.NoError(t, s.Kill())
	require.ErrorIs(t, syscall.Kill(pid, 0), syscall.ESRCH)
	require.NoError(t, s.Start())
	require.Equal(t, port, s.Port())

	db := open(t, s.DSN("shop"))
	var format, gtridLength, bqualLength int
	var data string
	require.NoError(t, db.QueryRowContext(ctx, "XA RECOVER").Scan(&format, &gtridLength, &bqualLength, &data))
	require.Equal(t, "survivor", data)
	_, err := db.ExecContext(ctx, "XA COMMIT 'survivor'")
	require.NoError(t, err)
	var rows int
	require.NoError(t, db.QueryRowContext(ctx, "SELECT count(*) FROM account").Scan(&rows))
	require.Equal(t, 1, rows)
	require.NoError(t, s.Stop())
	require.NoError(t, s.Start())
}

func open(t *testing.T, dsn string) *sql.DB {
	t.Helper()
	db, err := sql.Open("mysql", dsn)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db
}

func TestMariaDBLockWaitsAreLimited(t *testing.T) {
	s := testdb.MariaDB(t)
	var rows, meta int
	db := open(t, s.DSN(""))
	require.NoError(t, db.QueryRowContext(patience(t),
		"SELECT @@innodb_lock_wait_timeout, @@lock_wait_timeout").Scan(&rows, &meta))
	require.Equal(t, 20, rows)
	require.Equal(t, 20, meta)
}

func TestStartFailsWithTheEndOfTheLog(t *testing.T) {
	skipWithout(t, testdb.FlavorPostgres)
	_, err := testdb.Start(testdb.FlavorPostgres, "", testdb.WithSetting("no_such_setting", "1"))
	require.ErrorContains(t, err, "no_such_setting")
	_, err = testdb.Start("oracle", "")
	require.ErrorContains(t, err, `unknown flavor "oracle"`)
}

func TestServerInAGivenFolderKeepsItsDataOverClose(t *testing.T) {
	skipWithout(t, testdb.FlavorPostgres)
	// t.TempDir is below a folder that only this user can enter.
	dir, err := os.MkdirTemp("", "concord-testdb-")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	ctx := patience(t)

	s, err := testdb.Start(testdb.FlavorPostgres, dir)
	require.NoError(t, err)
	require.NoError(t, s.Exec(ctx, "", "CREATE TABLE kept (id int)"))
	require.NoError(t, s.Stop())
	require.NoError(t, s.Close())

	s, err = testdb.Start(testdb.FlavorPostgres, dir)
	require.NoError(t, err)
	require.NoError(t, s.Exec(ctx, "", "SELECT id FROM kept"))
	require.NoError(t, s.Close())
}

func skipWithout(t *testing.T, flavor string) {
	t.Helper()
	switch flavor {
	case testdb.FlavorPostgres:
		testdb.Postgres(t)
	case testdb.FlavorMariaDB:
		testdb.MariaDB(t)
	}
}

// TestServerEndsWhenItsTestProcessIsKilled runs itself as the process to kill.
func TestServerEndsWhenItsTestProcessIsKilled(t *testing.T) {
	const child = "CONCORD_TESTDB_CHILD"
	if flavor := os.Getenv(child); flavor != "" {
		s, err := testdb.Start(flavor, "")
		require.NoError(t, err)
		fmt.Printf("pid %d\n", s.PID())
		select {} // until it is killed
	}
	for _, flavor := range []string{testdb.FlavorPostgres, testdb.FlavorMariaDB} {
		t.Run(flavor, func(t *testing.T) {
			skipWithout(t, flavor)
			cmd := exec.Command(os.Args[0], "-test.run", "^TestServerEndsWhenItsTestProcessIsKilled$")
			cmd.Env = append(os.Environ(), child+"="+flavor)
			out, err := cmd.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, cmd.Start())
			var pid int
			for lines := bufio.NewScanner(out); pid == 0 && lines.Scan(); {
				_, _ = fmt.Sscanf(lines.Text(), "pid %d", &pid) // other lines leave it 0
			}
			require.NotZero(t, pid)
			require.True(t, running(pid))

			require.NoError(t, cmd.Process.Kill())
			require.Error(t, cmd.Wait())
			require.Eventually(t, func() bool { return !running(pid) }, 30*time.Second, 20*time.Millisecond)
		})
	}
}
