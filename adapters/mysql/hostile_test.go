// SPDX-License-Identifier: Apache-2.0

package mysql

import (
	"context"
	"database/sql"
	"slices"
	"strings"
	"testing"

	sqldriver "github.com/go-sql-driver/mysql"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/adaptertest"
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
	return adaptertest.Hostile{Name: "a procedure: " + body, Damage: damage, Do: func(ctx context.Context, s adapters.Session) error {
		mine := s.(*session)
		name := "p_" + strings.ToLower(mine.xid.ID.String())
		if _, err := w.admin.ExecContext(ctx, "CREATE PROCEDURE "+name+"() BEGIN "+strings.ReplaceAll(body, "$", mine.name)+"; END"); err != nil {
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
	const harmless, spoiled, unproven, torn = adaptertest.Harmless, adaptertest.Spoiled, adaptertest.Unproven, adaptertest.Torn
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
		w.procedure(harmless, swallow+"COMMIT; SET autocommit = 1; START TRANSACTION; ROLLBACK; CREATE TABLE never (i INT)"),
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
		return append(list, text(spoiled, "CREATE TEMPORARY TABLE tmp (i INT)"), text(spoiled, "SET xa_detach_on_prepare = OFF"))
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
		for _, statement := range []string{"SAVEPOINT a", "SAVEPOINT b", "ROLLBACK TO a", "SAVEPOINT A", "DO 1", "ROLLBACK TO SAVEPOINT `a`", "RELEASE SAVEPOINT a"} {
			if _, err := tx.ExecContext(ctx, statement); err != nil {
				return err
			}
		}
		return nil
	})
}
