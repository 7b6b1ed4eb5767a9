// SPDX-License-Identifier: Apache-2.0

package concordtest

import (
	"context"
	"database/sql"

	mysqldriver "github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/memory"
	"github.com/concordtx/concord/adapters/mysql"
	"github.com/concordtx/concord/adapters/postgres"
	"github.com/concordtx/concord/internal/testdb"
)

// MemoryDatabase is a database that is gone with the test.
type MemoryDatabase struct {
	name string
	disk *memory.Disk
}

// Memory is a database in memory. It is always there, and waits for nothing.
func Memory(name string) *MemoryDatabase {
	return &MemoryDatabase{name: name, disk: memory.NewDisk()}
}

// Resource is what the application works through.
func (d *MemoryDatabase) Resource() *memory.Resource { return memory.New(d.name, d.disk) }

func (d *MemoryDatabase) open(*Cluster) {}

func (d *MemoryDatabase) resource(*Cluster) adapters.Resource { return d.Resource() }

// servers are those that the test has started, by flavor: databases of one kind share one.
type servers map[string]*testdb.Server

// create makes a database on a server, which is started if there is none yet.
func (c *Cluster) create(flavor, name string, start func() *testdb.Server) (dsn string) {
	c.t.Helper()
	if c.servers == nil {
		c.servers = servers{}
	}
	if c.servers[flavor] == nil {
		c.servers[flavor] = start()
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	quoted := `"` + name + `"`
	if flavor != testdb.FlavorPostgres {
		quoted = "`" + name + "`"
	}
	if err := c.servers[flavor].Exec(ctx, "", "CREATE DATABASE "+quoted); err != nil {
		c.t.Fatalf("concordtest: %v", err)
	}
	return c.servers[flavor].DSN(name)
}

// PostgresDatabase is a database of a PostgreSQL server.
type PostgresDatabase struct {
	name, dsn string
	c         *Cluster
	pool      *pgxpool.Pool
	shared    *postgres.Resource
}

// Postgres is a database of that name on a PostgreSQL server of the test.
func Postgres(name string) *PostgresDatabase { return &PostgresDatabase{name: name} }

// PostgresAt is a resource of that name in a database that is there already, of a server with
// max_prepared_transactions above 0.
func PostgresAt(name, dsn string) *PostgresDatabase { return &PostgresDatabase{name: name, dsn: dsn} }

func (d *PostgresDatabase) open(c *Cluster) {
	c.t.Helper()
	if d.dsn == "" {
		d.dsn = c.create(testdb.FlavorPostgres, d.name, func() *testdb.Server { return testdb.Postgres(c.t) })
	}
	pool, err := pgxpool.New(context.Background(), d.dsn)
	if err != nil {
		c.t.Fatalf("concordtest: %v", err)
	}
	c.t.Cleanup(pool.Close)
	d.c, d.pool, d.shared = c, pool, postgres.New(d.name, pool)
}

func (d *PostgresDatabase) resource(c *Cluster) adapters.Resource {
	c.t.Helper()
	r, err := postgres.Open(context.Background(), d.name, d.dsn)
	if err != nil {
		c.t.Fatalf("concordtest: %v", err)
	}
	return r
}

// DSN is for a pool of the application's own.
func (d *PostgresDatabase) DSN() string { return d.dsn }

// Pool is a pool of connections to it, which is closed when the test ends.
func (d *PostgresDatabase) Pool() *pgxpool.Pool { return d.pool }

// Resource is what the application works through, on Pool.
func (d *PostgresDatabase) Resource() *postgres.Resource { return d.shared }

// Exec runs statements outside of any transaction, such as those that make tables.
func (d *PostgresDatabase) Exec(statements ...string) {
	d.c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, s := range statements {
		if _, err := d.pool.Exec(ctx, s); err != nil {
			d.c.t.Fatalf("concordtest: %s: %v", s, err)
		}
	}
}

// MySQLDatabase is a database of a MySQL or MariaDB server.
type MySQLDatabase struct {
	name, dsn, flavor string
	c                 *Cluster
	db                *sql.DB
	shared            *mysql.Resource
}

// MySQL is a database of that name on a MySQL server of the test.
func MySQL(name string) *MySQLDatabase {
	return &MySQLDatabase{name: name, flavor: testdb.FlavorMySQL}
}

// MariaDB is a database of that name on a MariaDB server of the test.
func MariaDB(name string) *MySQLDatabase {
	return &MySQLDatabase{name: name, flavor: testdb.FlavorMariaDB}
}

// MySQLAt is a resource of that name in a database of either that is there already.
func MySQLAt(name, dsn string) *MySQLDatabase { return &MySQLDatabase{name: name, dsn: dsn} }

func (d *MySQLDatabase) open(c *Cluster) {
	c.t.Helper()
	if d.dsn == "" {
		d.dsn = c.create(d.flavor, d.name, func() *testdb.Server {
			if d.flavor == testdb.FlavorMySQL {
				return testdb.MySQL(c.t)
			}
			return testdb.MariaDB(c.t)
		})
	}
	config, err := mysqldriver.ParseDSN(d.dsn)
	if err != nil {
		c.t.Fatalf("concordtest: the data source name of %s cannot be read", d.name) // it may hold a password
	}
	config.Logger = &mysqldriver.NopLogger{}
	connector, err := mysql.NewConnector(config)
	if err != nil {
		c.t.Fatalf("concordtest: %v", err)
	}
	d.c, d.db, d.shared = c, sql.OpenDB(connector), mysql.New(d.name, connector)
	c.t.Cleanup(func() {
		_ = d.db.Close()
		_ = d.shared.Close()
	})
}

func (d *MySQLDatabase) resource(c *Cluster) adapters.Resource {
	c.t.Helper()
	r, err := mysql.Open(d.name, d.dsn)
	if err != nil {
		c.t.Fatalf("concordtest: %v", err)
	}
	return r
}

// DSN is for a connector of the application's own.
func (d *MySQLDatabase) DSN() string { return d.dsn }

// DB is a pool of connections to it, outside of concord, which is closed when the test ends.
func (d *MySQLDatabase) DB() *sql.DB { return d.db }

// Resource is what the application works through.
func (d *MySQLDatabase) Resource() *mysql.Resource { return d.shared }

// Exec runs statements outside of any transaction, such as those that make tables.
func (d *MySQLDatabase) Exec(statements ...string) {
	d.c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, s := range statements {
		if _, err := d.db.ExecContext(ctx, s); err != nil {
			d.c.t.Fatalf("concordtest: %s: %v", s, err)
		}
	}
}
