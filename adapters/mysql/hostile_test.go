// SPDX-License-Identifier: Apache-2.0

package mysql

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	sqldriver "github.com/go-sql-driver/mysql"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/adaptertest"
	"github.com/concordtx/concord/internal/testdb"
	"github.com/concordtx/concord/txn"
)

// openMulti is a resource whose application may send several statements in one text.
func (w *world) openMulti(t testing.TB) *Resource {
	cfg, err := sqldriver.ParseDSN(w.DSN(database))
	require.NoError(t, err)
	cfg.MultiStatements = true
	cfg.Logger = &sqldriver.NopLogger{}
	connector, err := NewConnector(cfg)
	require.NoError(t, err)
	return New("db", connector)
}

// text is a hostile application that sends one text; $ stands for the name of its branch, and
// ? for a key of its own.
func text(damage adaptertest.Damage, text string) adaptertest.Hostile {
	return adaptertest.Hostile{Name: text, Damage: damage, Do: func(ctx context.Context, s adapters.Session) error {
		return within(ctx, s, func(tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, strings.ReplaceAll(text, "$", s.(*session).name))
			return err
		})
	}}
}

// procedure sends the body as that of a procedure of its own.
func (w *world) procedure(damage adaptertest.Damage, body string) adaptertest.Hostile {
	return adaptertest.Hostile{Name: "a procedure: " + body, Damage: damage,
		Do: func(ctx context.Context, s adapters.Session) error {
			mine := s.(*session)
			name := "p_" + strings.ToLower(mine.xid.ID.String())
			if _, err := w.admin.ExecContext(ctx,
				"CREATE PROCEDURE "+name+"() BEGIN "+strings.ReplaceAll(body, "$", mine.name)+"; END"); err != nil {
				return err
			}
			return within(ctx, s, func(tx *sql.Tx) error {
				_, err := tx.ExecContext(ctx, "CALL "+name+"()")
				return err
			})
		}}
}

// hostiles are what the SQL of applications does to branches.
func (w *world) hostiles() []adaptertest.Hostile {
	const harmless, spoiled, unproven, torn = adaptertest.Harmless, adaptertest.Spoiled, adaptertest.Unproven,
		adaptertest.Torn
	const swallow = "DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END; "
	w.run(database, "CREATE TABLE other (i INT AUTO_INCREMENT PRIMARY KEY) ENGINE=InnoDB")
	list := []adaptertest.Hostile{
		text(harmless, "-- a comment\nSELECT 1"),
		text(harmless, "SAVEPOINT a"),
		text(harmless, "SAVEPOINT a; INSERT INTO other VALUES (); ROLLBACK TO a; RELEASE SAVEPOINT a"),
		text(harmless, "SET autocommit = 0"),
		text(harmless, "SET completion_type = 2"),
		text(harmless, "SET sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES'"),
		text(harmless, "USE information_schema; USE "+database),
		text(harmless, "UNLOCK TABLES"),
		text(harmless, "/*!50000 INSERT INTO other VALUES () */"),
		text(harmless, "PREPARE q FROM 'INSERT INTO other VALUES ()'; EXECUTE q"),
		text(harmless, "XA END $; XA START $ RESUME"),
		w.procedure(harmless, "INSERT INTO other VALUES (); SAVEPOINT a; INSERT INTO other VALUES (); ROLLBACK TO a"),
		w.procedure(harmless, swallow+"COMMIT; SET autocommit = 1; START TRANSACTION; ROLLBACK; CREATE TABLE never "+
			"(i INT)"),
		{Name: "savepoints that come and go", Damage: harmless, Do: savepointsThatComeAndGo},

		text(spoiled, "COMMIT"),
		text(spoiled, "COMMIT AND CHAIN"),
		text(spoiled, "ROLLBACK"),
		text(spoiled, "ROLLBACK AND CHAIN"),
		text(spoiled, "BEGIN"),
		text(spoiled, "START TRANSACTION"),
		text(spoiled, "COMMIT; BEGIN"),
		text(spoiled, "SET autocommit = 1"),
		text(spoiled, "CREATE TABLE ddl (i INT)"),
		text(spoiled, "LOCK TABLES kv WRITE"),
		text(spoiled, "FLUSH TABLES"),
		text(spoiled, "/*! COMMIT */"),
		text(spoiled, "PREPARE q FROM 'COMMIT'; EXECUTE q"),
		text(spoiled, "SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE"),
		text(spoiled, "SET TRANSACTION READ ONLY"),
		text(spoiled, "XA END $"),
		text(spoiled, "XA COMMIT $ ONE PHASE"),
		text(spoiled, "ROLLBACK TO nothing"),
		text(spoiled, "KILL CONNECTION_ID()"),
		w.procedure(spoiled, "COMMIT"),
		w.procedure(spoiled, "SIGNAL SQLSTATE '45000'"),

		text(unproven, "SELECT 1; XA END $"),
		text(unproven, "SELECT 1; XA END $; XA PREPARE $"),
		w.procedure(unproven, "XA END $"),

		text(torn, "SELECT 1; XA END $; XA COMMIT $ ONE PHASE"),
		text(torn, "SELECT 1; XA END $; XA COMMIT $ ONE PHASE; XA START $"),
		text(torn, "/*!XA END $*/; /*!XA COMMIT $ ONE PHASE*/; /*!XA START $*/"),
		text(torn, "SELECT '\\''; XA END $; XA COMMIT $ ONE PHASE; XA START $; SELECT '"+`\`+"'"),
		text(torn, "SELECT 1; XA END $; XA ROLLBACK $; XA START $"),
		text(torn, "SELECT 1; XA END $; XA PREPARE $; XA COMMIT $; XA START $"),
		text(torn, "SELECT 1; XA END $; XA COMMIT $ ONE PHASE; START TRANSACTION"),
		text(torn, "SELECT 1; XA END $; XA COMMIT $ ONE PHASE; XA START 'another'"),
		text(torn, "SELECT 1; XA END $; XA COMMIT $ ONE PHASE; KILL CONNECTION_ID()"),
		text(torn, "SAVEPOINT a; XA END $; XA COMMIT $ ONE PHASE; XA START $; SAVEPOINT a"),
		w.procedure(torn, "XA END $; XA COMMIT $ ONE PHASE"),
		w.procedure(torn, "XA END $; XA COMMIT $ ONE PHASE; XA START $"),
		w.procedure(torn, "XA END $; XA ROLLBACK $; XA START $"),
		w.procedure(torn, "XA END $; XA PREPARE $; XA COMMIT $; XA START $"),
		w.procedure(torn, "XA END $; XA COMMIT $ ONE PHASE; XA START $; SIGNAL SQLSTATE '45000'"),
	}
	if w.Flavor() == "mariadb" {
		list = append(list,
			text(harmless, "CREATE TEMPORARY TABLE IF NOT EXISTS tmp (i INT)"),
			text(harmless, "BEGIN NOT ATOMIC INSERT INTO other VALUES (); END"),
			text(spoiled, "EXECUTE IMMEDIATE 'COMMIT'"),
			text(spoiled, "SET STATEMENT max_statement_time = 5 FOR COMMIT"),
			text(unproven, `EXECUTE IMMEDIATE "XA END $"`),
			text(torn, "BEGIN NOT ATOMIC XA END $; XA COMMIT $ ONE PHASE; XA START $; END"),
		)
		return list
	}
	if w.detaches() {
		return append(list, text(spoiled, "CREATE TEMPORARY TABLE tmp (i INT)"),
			text(spoiled, "SET xa_detach_on_prepare = OFF"))
	}
	// Only what is prepared is something else there.
	list = slices.DeleteFunc(list, func(h adaptertest.Hostile) bool { return !strings.Contains(h.Name, "XA PREPARE") })
	return append(list, text(harmless, "CREATE TEMPORARY TABLE tmp (i INT)"))
}

func (w *world) detaches() bool {
	var on bool
	require.NoError(w.t, w.admin.QueryRowContext(w.ctx, "SELECT @@xa_detach_on_prepare").Scan(&on))
	return on
}

func savepointsThatComeAndGo(ctx context.Context, s adapters.Session) error {
	return within(ctx, s, func(tx *sql.Tx) error {
		for _, statement := range []string{"SAVEPOINT a", "SAVEPOINT b", "ROLLBACK TO a", "SAVEPOINT A", "DO 1",
			"ROLLBACK TO SAVEPOINT `a`", "RELEASE SAVEPOINT a"} {
			if _, err := tx.ExecContext(ctx, statement); err != nil {
				return err
			}
		}
		return nil
	})
}

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
			w.run("", "CREATE USER app@'127.0.0.1' IDENTIFIED BY '"+password+"'",
				"GRANT SELECT, INSERT, UPDATE ON "+database+".kv TO app@'127.0.0.1'")
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
		require.Contains(t, fmt.Sprint(report.Findings), "not found, they last until a lock timeout",
			"what finds deadlocks is not needed for anything else")
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
			w.run("", "CREATE USER poor@'127.0.0.1' IDENTIFIED BY '"+password+"'",
				"GRANT SELECT ON "+database+".kv TO poor@'127.0.0.1'")
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
