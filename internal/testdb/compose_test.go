// SPDX-License-Identifier: Apache-2.0

package testdb_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/concordtx/concord/internal/testdb"
)

const root = "../.."

type composeService struct {
	Command     []string
	Volumes     []string
	Healthcheck struct{ Test []string }
	DependsOn   map[string]struct{ Condition string } `yaml:"depends_on"`
	Environment map[string]string
}

type composeFile struct {
	Services map[string]composeService
	Volumes  map[string]any
}

func readYAML(t *testing.T, path string, into any) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, path))
	require.NoError(t, err)
	require.NoError(t, yaml.Unmarshal(b, into), path)
}

func TestComposeFileStartsNodesAfterHealthyDatabasesThatCanPrepare(t *testing.T) {
	var compose composeFile
	readYAML(t, "docker-compose.yml", &compose)
	require.Len(t, compose.Services, 7)
	for name, service := range compose.Services {
		if name != "certs" { // which ends when they are made
			require.NotEmpty(t, service.Healthcheck.Test, name)
		}
		for _, volume := range service.Volumes {
			from, _, _ := strings.Cut(volume, ":")
			if strings.HasPrefix(from, "./") {
				require.FileExists(t, filepath.Join(root, from), name)
			} else {
				require.Contains(t, compose.Volumes, from, name)
			}
		}
	}
	for id := 1; id <= 3; id++ {
		require.Equal(t, "service_completed_successfully",
			compose.Services[fmt.Sprintf("node%d", id)].DependsOn["certs"].Condition)
		node := compose.Services[fmt.Sprintf("node%d", id)]
		for _, db := range []string{"postgres", "mysql", "mariadb"} {
			require.Equal(t, "service_healthy", node.DependsOn[db].Condition)
		}
		require.Equal(t, []string{"CMD", "/concord", "status", "--addr", "127.0.0.1:7420"}, node.Healthcheck.Test)
		require.Contains(t, node.Volumes, fmt.Sprintf("./deploy/compose/node%d.yaml:/etc/concord/concord.yaml:ro", id))
	}
	require.Contains(t, compose.Services["postgres"].Command, "max_prepared_transactions=200")
}

func TestComposeNodesAgreeOnMembersAndFindTheirSecrets(t *testing.T) {
	type nodeFile struct {
		Node      int
		Members   []struct{ ID int }
		Resources []struct {
			Name, Driver string
			File         string `yaml:"dsn_file"`
		}
		Peer, API struct{ Listen string }
		DataDir   string `yaml:"data_dir"`
	}
	var compose composeFile
	readYAML(t, "docker-compose.yml", &compose)
	for id := 1; id <= 3; id++ {
		var node nodeFile
		readYAML(t, fmt.Sprintf("deploy/compose/node%d.yaml", id), &node)
		require.Equal(t, id, node.Node)
		require.Len(t, node.Members, 3)
		require.Len(t, node.Resources, 3)
		require.Equal(t, "0.0.0.0:7420", node.API.Listen)
		require.Equal(t, "0.0.0.0:7421", node.Peer.Listen)
		for _, resource := range node.Resources {
			variable, named := strings.CutPrefix(resource.File, "env:")
			require.True(t, named, resource.File)
			dsn := compose.Services[fmt.Sprintf("node%d", id)].Environment[variable]
			switch resource.Driver {
			case "postgres":
				config, err := pgx.ParseConfig(dsn)
				require.NoError(t, err)
				require.Equal(t, resource.Name, config.Database)
				require.Contains(t, compose.Services, config.Host)
			case "mysql":
				config, err := mysql.ParseDSN(dsn)
				require.NoError(t, err)
				require.Equal(t, resource.Name, config.DBName)
				service, _, _ := strings.Cut(config.Addr, ":")
				require.Contains(t, compose.Services, service)
			default:
				t.Fatalf("no check for driver %q", resource.Driver)
			}
		}
	}
}

// statements splits SQL without strings or procedures that hold a semicolon.
func statements(t *testing.T, path string) []string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, path))
	require.NoError(t, err)
	var code strings.Builder
	for line := range strings.Lines(string(b)) {
		if !strings.HasPrefix(line, "--") {
			code.WriteString(line)
		}
	}
	all := strings.Split(code.String(), ";")
	return slices.DeleteFunc(all, func(s string) bool { return strings.TrimSpace(s) == "" })
}

func TestComposeGrantsLetPostgresRecoveryFinishWhatTheAppPrepared(t *testing.T) {
	s := testdb.Postgres(t, testdb.WithPasswords())
	ctx := patience(t)
	require.NoError(t, s.Exec(ctx, "", statements(t, "deploy/compose/postgres.sql")...))
	run := func(user, password string, statements ...string) error {
		conn := connect(t, s.UserDSN(user, password, "orders"))
		for _, statement := range statements {
			if _, err := conn.Exec(ctx, statement); err != nil {
				return err
			}
		}
		return nil
	}
	require.NoError(t, run("app", "app", "CREATE TABLE o (id int)", "BEGIN", "INSERT INTO o VALUES (1)",
		"PREPARE TRANSACTION 'g'"))
	require.NoError(t, run("concord_rec", "concord", `SET ROLE "app"`, "COMMIT PREPARED 'g'", "RESET ROLE"))
	require.NoError(t, run("app", "app", "DO $$BEGIN ASSERT (SELECT count(*) FROM o) = 1; END$$"))
}

func TestComposeGrantsLetRecoveryFinishWhatTheAppPreparedOnMariaDB(t *testing.T) {
	xaGrants(t, testdb.MariaDB(t), "deploy/compose/mariadb.sql", "ledger")
}

func TestComposeGrantsLetRecoveryFinishWhatTheAppPreparedOnMySQL(t *testing.T) {
	xaGrants(t, testdb.MySQL(t), "deploy/compose/mysql.sql", "billing")
}

func xaGrants(t *testing.T, s *testdb.Server, sqlFile, database string) {
	t.Helper()
	ctx := patience(t)
	require.NoError(t, s.Exec(ctx, "", statements(t, sqlFile)...))

	app, err := open(t, s.UserDSN("app", "app", database)).Conn(ctx)
	require.NoError(t, err)
	for _, statement := range []string{"CREATE TABLE o (id int)", "XA START 'g'", "INSERT INTO o VALUES (1)",
		"XA END 'g'", "XA PREPARE 'g'"} {
		_, err := app.ExecContext(ctx, statement)
		require.NoError(t, err, statement)
	}
	require.NoError(t, s.Kill(), "so that no session holds the branch")
	require.NoError(t, s.Start())

	rec := open(t, s.UserDSN("concord_rec", "concord", database))
	var format, gtridLength, bqualLength int
	var data string
	require.NoError(t, rec.QueryRowContext(ctx, "XA RECOVER").Scan(&format, &gtridLength, &bqualLength, &data))
	require.Equal(t, "g", data)
	_, err = rec.ExecContext(ctx, "XA COMMIT 'g'")
	require.NoError(t, err)
	var rows int
	require.NoError(t, rec.QueryRowContext(ctx, "SELECT count(*) FROM o").Scan(&rows))
	require.Equal(t, 1, rows)

	// It may end the app's session, which another user without the grant may not.
	session, err := open(t, s.UserDSN("app", "app", database)).Conn(ctx)
	require.NoError(t, err)
	var id int64
	require.NoError(t, session.QueryRowContext(ctx, "SELECT CONNECTION_ID()").Scan(&id))
	_, err = rec.ExecContext(ctx, fmt.Sprintf("KILL %d", id))
	require.NoError(t, err)
	require.Error(t, session.PingContext(context.WithoutCancel(ctx)))
}
