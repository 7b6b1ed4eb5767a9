// SPDX-License-Identifier: Apache-2.0

package config

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/security"
)

// The passwords of databases are in no file that others may read.
func TestFilesWithPasswordsAreTheirOwnersAlone(t *testing.T) {
	for entry, secret := range map[string]bool{
		`{name: a, driver: postgres, dsn: "postgres://app:s3cr3t@127.0.0.1/shop"}`:               true,
		`{name: a, driver: postgres, dsn: "postgres://127.0.0.1/shop?user=app&password=s3cr3t"}`: true,
		`{name: a, driver: postgres, dsn: "host=127.0.0.1 password = s3cr3t"}`:                   true,
		`{name: a, driver: mysql, dsn: "app:s3cr3t@tcp(127.0.0.1:3306)/shop"}`:                   true,
		`{name: a, driver: mysql, dsn: "app:s3cr3t@"}`:                                           true,
		`{name: a, driver: postgres, dsn: "postgres://app@127.0.0.1:5432/shop"}`:                 false,
		`{name: a, driver: postgres, dsn: "host=127.0.0.1 user=app"}`:                            false,
		`{name: a, driver: mysql, dsn: "app@tcp(127.0.0.1:3306)/shop"}`:                          false,
		`{name: a, driver: mysql, dsn_file: /run/secrets/shop}`:                                  false,
	} {
		file := fileOf(t, "node: 1\ndata_dir: /nowhere\nmembers:\n  - {id: 1, peer: 127.0.0.1:7421, api: "+
			"127.0.0.1:7420}\nresources:\n  - "+entry+"\n")
		for mode, refused := range map[os.FileMode]bool{0o600: false, 0o400: false, 0o640: true, 0o604: true,
			0o620: true} {
			require.NoError(t, os.Chmod(file, mode))
			_, err := LoadNode(file, pflag.NewFlagSet("", pflag.ContinueOnError))
			_, partial := LoadResources(file)
			if !secret || !refused {
				require.NoError(t, err, entry)
				require.NoError(t, partial, entry)
				continue
			}
			for _, err := range []error{err, partial} {
				require.ErrorContains(t, err, "the passwords of databases are in it: "+file+
					" can be used by others than its owner", entry)
				require.NotContains(t, err.Error(), "s3cr3t")
			}
		}
	}
	file := filepath.Join(t.TempDir(), "dsn")
	require.NoError(t, os.WriteFile(file, []byte("postgres://app:s3cr3t@127.0.0.1/shop\n"), 0o600))
	for mode, refused := range map[os.FileMode]bool{0o600: false, 0o400: false, 0o640: true, 0o444: true} {
		require.NoError(t, os.Chmod(file, mode))
		_, err := Resource{DSNFile: file}.Secret()
		require.Equal(t, refused, err != nil, mode)
	}
}

// A data source name comes from a file, from what the service manager has loaded, or from the environment.
func TestWhereADataSourceNameComesFrom(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	t.Setenv("ORDERS_DSN", " postgres://app:s3cr3t@127.0.0.1/shop\n")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "orders"), []byte("postgres://app:s3cr3t@127.0.0.1/shop"),
		0o440))
	require.NoError(t, os.Chmod(filepath.Join(dir, "orders"), 0o440)) // as systemd shows its list
	for _, from := range []string{"${CREDENTIALS_DIRECTORY}/orders", "env:ORDERS_DSN"} {
		got, err := Resource{DSNFile: from}.Secret()
		require.NoError(t, err)
		require.Equal(t, security.NewDSN("postgres://app:s3cr3t@127.0.0.1/shop"), got)
	}
	require.NoError(t, os.Chmod(filepath.Join(dir, "orders"), 0o444))
	for from, want := range map[string]string{
		"${CREDENTIALS_DIRECTORY}/orders": "can be used by others",
		"${CREDENTIALS_DIRECTORY}/none":   "no such file",
		"env:NOT_THERE":                   "dsn_file env:NOT_THERE: the environment has no such variable",
		"env:app:s3cr3t@tcp(db)/shop":     "want the name of a variable",
		"${HOME}/orders":                  "it wants the path of a file",
	} {
		_, err := Resource{DSNFile: from}.Secret()
		require.ErrorContains(t, err, want, from)
		require.NotContains(t, err.Error(), "s3cr3t")
	}
	t.Setenv("CREDENTIALS_DIRECTORY", "")
	_, err := Resource{DSNFile: "${CREDENTIALS_DIRECTORY}/orders"}.Secret()
	require.ErrorContains(t, err, "the environment has no CREDENTIALS_DIRECTORY")
}

// A server of another machine is verified unless somebody says that it shall not be.
func TestServersOfOtherMachinesAreVerified(t *testing.T) {
	for _, c := range []struct{ driver, dsn, tls, wrong string }{
		{driver: "postgres", dsn: "postgres://app@db.example/shop"},
		{driver: "postgres", dsn: "postgres://app@db.example/shop?sslmode=verify-full"},
		{driver: "postgres", dsn: "host=db.example,other.example user=app"},
		{driver: "postgres", dsn: "postgres://app@127.0.0.1/shop?sslmode=disable"},
		{driver: "postgres", dsn: "host=/run/postgresql sslmode=disable"},
		{driver: "postgres", dsn: "postgres://app@db.example/shop?sslmode=disable", wrong: "lets anybody be the " +
			"server"},
		{driver: "postgres", dsn: "postgres://app@db.example/shop?sslmode=require", wrong: "lets anybody be the " +
			"server"},
		{driver: "postgres", dsn: "host=127.0.0.1,db.example sslmode=prefer", wrong: "lets anybody be the server"},
		{driver: "postgres", dsn: "postgres://app@db.example/shop?sslmode=disable", tls: "insecure"},
		{driver: "mysql", dsn: "app@tcp(db.example:3306)/shop"},
		{driver: "mysql", dsn: "app@tcp(db.example:3306)/shop?tls=true"},
		{driver: "mysql", dsn: "app@unix(/run/mysqld.sock)/shop?tls=false"},
		{driver: "mysql", dsn: "app@tcp(127.0.0.1:3306)/shop?tls=preferred"},
		{driver: "mysql", dsn: "app@tcp(db.example:3306)/shop?tls=false", wrong: "lets anybody be the server"},
		{driver: "mysql", dsn: "app@tcp(db.example:3306)/shop?tls=skip-verify", wrong: "lets anybody be the server"},
		{driver: "mysql", dsn: "app@tcp(db.example:3306)/shop?tls=preferred", wrong: "lets anybody be the server"},
		{driver: "mysql", dsn: "app@tcp(db.example:3306)/shop?tls=true&allowFallbackToPlaintext=true",
			wrong: "lets anybody be the server"},
		{driver: "mysql", dsn: "app@tcp(db.example:3306)/shop?tls=preferred", tls: "insecure"},
	} {
		r := Resource{Name: "orders", Driver: c.driver, DSN: security.NewDSN(c.dsn), TLS: c.tls}
		opened, err := Open(t.Context(), []Resource{r}, nil)
		if c.wrong != "" {
			require.ErrorContains(t, err, c.wrong, c.dsn)
			continue
		}
		require.NoError(t, err, c.dsn)
		require.NoError(t, Close(opened))
		r.TLSCA = "/nonexistent/ca.crt"
		if c.driver == "mysql" && c.dsn[4] == 'u' { // a socket has nobody to verify
			continue
		}
		_, err = Open(t.Context(), []Resource{r}, nil)
		require.ErrorContains(t, err, "tls_ca: open /nonexistent/ca.crt: no such file or directory", c.dsn)
	}
}
