// SPDX-License-Identifier: Apache-2.0

// Package testdb runs real PostgreSQL, MariaDB and MySQL servers for tests:
// each in a folder of its own, on a free port of 127.0.0.1, ended by process id.
//
//	db := testdb.Postgres(t)                       // ready, max_prepared_transactions=200
//	pool, err := pgxpool.New(ctx, db.DSN("postgres"))
//	require.NoError(t, db.Kill())                  // kill -9, every process of the server
//	require.NoError(t, db.Start())                 // same data, same port; returns when it answers
//
// Servers are as durable as in production (fsync, binary log of MySQL on), so
// crash tests mean something, and every lock wait has a limit, so that a
// forgotten prepared transaction fails a suite instead of hanging it. A server
// ends with its test, and also when the test process is killed.
//
// Data directories are initialised once per machine and server version and are
// then copied, under root in /var/cache/concord-testdb, else in the user's
// cache folder. PostgreSQL, MariaDB and MySQL refuse to run as root or should
// not; under root the servers run as the users postgres, mysql or nobody.
// install/install.sh installs the servers. Linux only.
//
// CONCORD_TEST_REQUIRE says what a missing server means: unset, the test is
// skipped; 1, PostgreSQL and MariaDB must be there and a test of MySQL is
// skipped with "MySQL: NOT RUN"; all, the three must be there.
package testdb
