// SPDX-License-Identifier: Apache-2.0

package mysql

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/internal/testdb"
	"github.com/concordtx/concord/txn"
)

const password = "s3cr3t-can4ry"

func TestABadDSNIsAnErrorWithoutThePassword(t *testing.T) {
	for _, dsn := range []string{
		"",
		"app:" + password,
		"app:" + password + "@tcp(127.0.0.1:3306)",                     // no slash
		"app:" + password + "@tcp(127.0.0.1:3306)/",                    // no database
		"app:x/" + password + "@tcp(127.0.0.1:3306)",                   // the last slash is in the password
		"x/" + password + "@tcp(127.0.0.1:3306)",                       // so that it looks like a database
		"app@tcp(127.0.0.1:3306)/shop?parseTime=" + password,           // a value that is none
		"app@tcp(127.0.0.1:3306)/shop?tls=" + password,                 // a configuration that nobody knows
		"app:" + password + "@" + password + "(127.0.0.1:3306)/shop",   // a network that nobody knows
		"mysql://app:" + password + "@127.0.0.1:3306/shop",             // a URL
		"app:" + password + "@tcp(" + password + "@host:3306)/shop",    // an address that is none
		"app:" + password + "@tcp(127.0.0.1:3306)/" + password + "%zz", // a bad escape
	} {
		_, err := Open("billing", dsn)
		require.ErrorIs(t, err, ErrBadDSN, dsn)
		require.ErrorContains(t, err, "billing")
		require.NotContains(t, err.Error(), password, dsn)
	}
}

func TestNoErrorHoldsThePassword(t *testing.T) {
	for _, f := range flavors[:2] {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, f.start(t))
			w.run("", "CREATE USER app@'127.0.0.1' IDENTIFIED BY '"+password+"'")
			var errs []error
			ask := func(dsn string) {
				r := w.openAs(dsn, Options{})
				ctx, cancel := context.WithTimeout(w.ctx, 10*time.Second)
				defer cancel()
				_, err := r.Open(ctx, newXID())
				errs = append(errs, err)
				_, err = r.Check(ctx)
				errs = append(errs, err)
				_, err = r.Recover(ctx)
				errs = append(errs, err)
			}
			ask(w.UserDSN("app", password, database))     // no grant on the database
			ask(w.UserDSN("app", password+"x", database)) // a wrong password
			ask(w.UserDSN("nobody", password, database))  // no such user
			ask(w.UserDSN("app", password, "elsewhere"))  // no such database
			require.NoError(t, w.Kill())
			ask(w.UserDSN("app", password, database)) // no server
			for _, err := range errs {
				require.Error(t, err)
				require.NotContains(t, err.Error(), password)
			}
		})
	}
}

// users makes two users with as little as they need.
func (w *world) users() (app, recovery string) {
	w.run(database, CreateMarkerTable)
	w.run("",
		"CREATE USER app@'127.0.0.1' IDENTIFIED BY '"+password+"'",
		"GRANT SELECT, INSERT, UPDATE ON "+database+".kv TO app@'127.0.0.1'",
		"GRANT SELECT, INSERT ON "+database+"."+markerTable+" TO app@'127.0.0.1'",
		"CREATE USER rec@'127.0.0.1' IDENTIFIED BY '"+password+"'",
		"GRANT SELECT, DELETE ON "+database+"."+markerTable+" TO rec@'127.0.0.1'")
	if w.Flavor() == testdb.FlavorMariaDB {
		w.run("", "GRANT CONNECTION ADMIN ON *.* TO rec@'127.0.0.1'")
	} else {
		w.run("", "GRANT XA_RECOVER_ADMIN, CONNECTION_ADMIN ON *.* TO rec@'127.0.0.1'")
	}
	return w.UserDSN("app", password, database), w.UserDSN("rec", password, database)
}

func TestWithoutCreateTheErrorCarriesTheSQL(t *testing.T) {
	for _, f := range flavors[:2] {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, f.start(t))
			w.run("", "CREATE USER app@'127.0.0.1' IDENTIFIED BY '"+password+"'", "GRANT SELECT, INSERT, UPDATE ON "+database+".kv TO app@'127.0.0.1'")
			r := w.openAs(w.UserDSN("app", password, database), Options{})
			_, err := r.Open(w.ctx, newXID())
			require.ErrorContains(t, err, CreateMarkerTable)
			require.ErrorContains(t, err, "GRANT")

			// What the error says helps.
			_, sql, _ := strings.Cut(err.Error(), "\n")
			sql, _, _ = strings.Cut(sql, ";\n")
			w.run(database, sql)
			w.run("", "GRANT SELECT, INSERT ON "+database+"."+markerTable+" TO app@'127.0.0.1'")
			require.NoError(t, w.work(r, newXID(), "A").CommitOnePhase(w.ctx))
		})
	}
}

func TestTheSmallestGrantsAreEnough(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		app, recovery := w.users()
		a, rec := w.openAs(app, Options{}), w.openAs(recovery, Options{})
		x, y := newXID(), newXID()
		_, b := w.prepared(a, x, "A")
		w.prepared(a, y, "B")
		w.requireListed(x, y)
		report, err := rec.Check(w.ctx)
		require.NoError(t, err)
		require.True(t, report.OK(), "%+v", report.Findings)
		require.Equal(t, "done", w.finish(rec, txn.Commit, x, b).String())
		require.Equal(t, "done", w.finish(rec, txn.Abort, y, branchOne).String())
		require.NoError(t, rec.Forget(w.ctx, []txn.XID{x, y}))
		w.requireValue("A", 7)
		w.requireAbsent("B")
	})
}

func TestWithoutTheGrantsTheNextStepIsTold(t *testing.T) {
	for _, f := range flavors[:2] {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, f.start(t))
			app, _ := w.users()
			w.run("", "CREATE USER poor@'127.0.0.1' IDENTIFIED BY '"+password+"'", "GRANT SELECT ON "+database+".kv TO poor@'127.0.0.1'")
			poor := w.openAs(w.UserDSN("poor", password, database), Options{})
			report, err := poor.Check(w.ctx)
			require.NoError(t, err)
			require.False(t, report.OK())
			for _, finding := range report.Findings {
				if finding.Problem {
					require.NotEmpty(t, finding.Fix, finding.What)
				}
			}
			x := newXID()
			w.prepared(w.openAs(app, Options{}), x, "A")
			_, err = poor.Rollback(w.ctx, x, branchOne)
			require.ErrorContains(t, err, "GRANT")
			w.requireListed(x)
		})
	}
}
