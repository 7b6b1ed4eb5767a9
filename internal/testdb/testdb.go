// SPDX-License-Identifier: Apache-2.0

package testdb

import (
	"errors"
	"fmt"
	"os"
	"testing"
)

// ErrNotInstalled reports that this machine has no such server.
var ErrNotInstalled = errors.New("server not installed")

// Flavors in the spelling of Server.Flavor.
const (
	FlavorPostgres = "postgres"
	FlavorMariaDB  = "mariadb"
	FlavorMySQL    = "mysql"
)

type setting struct{ name, value string }

type options struct {
	settings  []setting
	passwords bool
}

// Option changes how a server is started.
type Option func(*options)

// WithSetting sets a server setting, such as max_prepared_transactions=0. It
// wins over the defaults of this package and holds over restarts.
func WithSetting(name, value string) Option {
	return func(o *options) { o.settings = append(o.settings, setting{name, value}) }
}

// WithPasswords makes PostgreSQL ask every user but the superuser for a
// password. Without it PostgreSQL trusts everybody. MariaDB and MySQL always ask.
func WithPasswords() Option {
	return func(o *options) { o.passwords = true }
}

// Postgres starts a PostgreSQL server that ends with the test.
func Postgres(t testing.TB, o ...Option) *Server {
	t.Helper()
	return forTest(t, FlavorPostgres, o)
}

// MariaDB starts a MariaDB server that ends with the test.
func MariaDB(t testing.TB, o ...Option) *Server {
	t.Helper()
	return forTest(t, FlavorMariaDB, o)
}

// MySQL starts a MySQL server that ends with the test.
func MySQL(t testing.TB, o ...Option) *Server {
	t.Helper()
	return forTest(t, FlavorMySQL, o)
}

func forTest(t testing.TB, flavor string, o []Option) *Server {
	t.Helper()
	s, err := Start(flavor, "", o...)
	require(t, flavor, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("tail of the %s log:\n%s", flavor, s.LogTail())
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// Required reports whether CONCORD_TEST_REQUIRE demands a server of this flavor.
func Required(flavor string) bool {
	switch os.Getenv("CONCORD_TEST_REQUIRE") {
	case "":
		return false
	case "all":
		return true
	default:
		return flavor != FlavorMySQL
	}
}

// NotRun is the line that a suite prints for a server that it cannot have. The
// summary of "make test" looks for its beginning.
func NotRun(flavor string, reason error) string {
	return fmt.Sprintf("%s: NOT RUN (%v)", displayName(flavor), reason)
}

func displayName(flavor string) string {
	switch flavor {
	case FlavorPostgres:
		return "PostgreSQL"
	case FlavorMariaDB:
		return "MariaDB"
	case FlavorMySQL:
		return "MySQL"
	default:
		return flavor
	}
}
