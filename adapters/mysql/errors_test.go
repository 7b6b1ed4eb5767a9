// SPDX-License-Identifier: Apache-2.0

package mysql

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"regexp"
	"testing"
	"time"

	sqldriver "github.com/go-sql-driver/mysql"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/adaptertest"
	"github.com/concordtx/concord/internal/said"
	"github.com/concordtx/concord/internal/testdb"
	"github.com/concordtx/concord/security"
	"github.com/concordtx/concord/txn"
)

// message is an error that a user of the adapter can meet: how to get it, and what it says, with
// XID for the name of the branch and SERVER for what the server says.
type message struct {
	name string
	meet func(*world) error
	says string
}

// advised is what is said of an answer of the server with that number.
func advised(number uint16) func(*world) error {
	return func(*world) error { return advise(&sqldriver.MySQLError{Number: number, Message: "no"}) }
}

// voted is what a vote says after that.
func voted(do func(*world, *session)) func(*world) error {
	return func(w *world) error {
		s := w.begin(w.open(), newXID())
		do(w, s)
		vote, _, err := s.Prepare(w.ctx)
		require.Equal(w.t, txn.VoteNo, vote)
		return err
	}
}

// ignored runs a statement whose error the application does not look at.
func ignored(sql string) func(*world, *session) {
	return func(w *world, s *session) {
		require.NoError(w.t, write(w.ctx, s, "ignored", 1))
		_, _ = w.tx(s).ExecContext(w.ctx, sql)
	}
}

// wishing is what a branch says to options.
func wishing(o TxOptions) func(*world) error {
	return func(w *world) error {
		r := w.open()
		s := w.begin(r, newXID())
		require.NoError(w.t, write(w.ctx, s, "wishing", 1))
		_, err := r.TxWith(w.ctx, adaptertest.Enlisted(s), o)
		return err
	}
}

const (
	badDSN  = "bad data source name: want user:password@tcp(host:port)/database"
	ignores = "prepare XID at db: the application ignored an error of this branch: "
)

var messages = []message{
	{"too many connections", advised(codeTooManyConnections),
		"Error 1040: no: raise max_connections or run fewer transactions at once"},
	{"a password", advised(codeAccessDenied), "Error 1045: no: correct the user or password of this resource"},
	{"a grant on a table", advised(codeTableDenied),
		"Error 1142: no: GRANT the user of this resource what the server names; on " + markerTable +
			": SELECT, INSERT and DELETE"},
	{"a grant on a database", advised(codeDatabaseDenied),
		"Error 1044: no: GRANT the user of this resource what the server names; on " + markerTable +
			": SELECT, INSERT and DELETE"},
	{"a database", advised(codeUnknownDatabase),
		"Error 1049: no: create the database or correct the resource's data source name"},
	{"the session of another user", advised(codeKillDenied),
		"Error 1095: no: GRANT CONNECTION_ADMIN ON *.* (MariaDB: CONNECTION ADMIN) to the user of this resource, or " +
			"end the session yourself with KILL"},
	{"a lock", advised(codeLockWaitTimeout),
		`Error 1205: no: somebody has held the lock for too long: check the process list, and "concord recover" for ` +
			`branches in doubt, then try again`},
	{"a deadlock", advised(codeDeadlock),
		"Error 1213: no: the server chose this transaction to end a deadlock: run it again"},
	{"a replica", advised(codeReadOnly),
		"Error 1290: no: the server is read-only: point the resource at the primary, or switch read_only off; " +
			"MariaDB lets READ_ONLY ADMIN finish branches"},
	{"a server in read-only mode", advised(codeReadOnlyMode),
		"Error 1836: no: the server is read-only: point the resource at the primary, or switch read_only off; " +
			"MariaDB lets READ_ONLY ADMIN finish branches"},
	{"no XA_RECOVER_ADMIN", advised(codeRMError),
		"Error 1401: no: MySQL: GRANT XA_RECOVER_ADMIN ON *.* to the user of this resource; if it has that " +
			"already, see the server's log"},
	{"the name of another branch", advised(codeDuplicate),
		"Error 1440: no: the name is in use: begin a new transaction"},
	{"anything else", advised(1062), "Error 1062: no"},
	{"a connection that breaks", func(*world) error { return advise(driver.ErrBadConn) },
		"driver: bad connection: check that the server runs and can be reached, then try again"},

	{"a dsn", func(*world) error { _, err := Open("db", "app:s3cr3t@db"); return err }, `resource "db": ` + badDSN},
	{"a dsn that verifies nobody", func(*world) error {
		_, err := Open("db", "app@tcp(db.example:3306)/shop?tls=false")
		return err
	}, `resource "db": the tls in the dsn lets anybody be the server: leave it out, which is tls=true, or say that ` +
		`this is meant with "tls: insecure" beside the dsn`},
	{"no authorities", func(*world) error {
		_, err := OpenWithOptions("db", "app@tcp(db.example:3306)/shop",
			Options{Trust: security.ServerTrust{CA: "/nonexistent/ca.crt"}})
		return err
	}, `resource "db": tls_ca: open /nonexistent/ca.crt: no such file or directory`},
	{"no database", func(w *world) error {
		connector, err := sqldriver.MySQLDriver{}.OpenConnector(w.DSN(""))
		require.NoError(w.t, err)
		r := New("db", connector)
		w.t.Cleanup(func() { require.NoError(w.t, r.Close()) })
		_, err = r.Identity(w.ctx)
		return err
	}, "identity of db: the connection has no database: name one in the data source name, as in " +
		"user:password@tcp(host:port)/database"},
	{"a branch of another kind", func(w *world) error {
		_,
			err := w.open().Tx(w.ctx, adaptertest.Enlisted(nil))
		return err
	},
		"enlist db: the transaction has a branch of another kind of resource under this name: give each its own"},
	{"a pool that is the bottleneck", func(w *world) error {
		r := w.openAs(w.DSN(database), Options{MaxOpen: 1})
		w.begin(r, newXID())
		ctx, cancel := context.WithTimeout(w.ctx, 10*time.Millisecond)
		defer cancel()
		_, err := r.Open(ctx, newXID())
		return err
	}, "begin XID at db: no session is free: all 1 sessions of db are in use: raise MaxOpen, or do not begin a " +
		"transaction within another; context deadline exceeded"},
	{"an isolation level", wishing(TxOptions{Isolation: sql.LevelSnapshot}),
		`there is no isolation level "Snapshot": use read uncommitted, read committed, repeatable read or ` +
			`serializable`},
	{"a lock timeout", wishing(TxOptions{LockTimeout: -time.Second}),
		"a lock timeout of -1s is negative: give one of at least a second"},
	{"late options", wishing(TxOptions{ReadOnly: true}),
		"the branch already has options or has run statements: give the options with the first call of TxWith"},
	{"evidence", func(w *world) error { return w.open().Validate(txn.Branch{Evidence: "x"}) },
		"evidence: it is not in a form that this version writes: run the newest version of concord on all nodes"},
	{"a holder", func(w *world) error { return w.open().Validate(txn.Branch{Holder: "x"}) },
		"holder: it is not in a form that this version writes: run the newest version of concord on all nodes"},
	{"no table for the evidence", func(*world) error {
		return markerMissing(server{database: "shop"},
			errors.New("no"))
	},
		"no table for the evidence of branches: have an administrator run, in database shop, the following, and " +
			"GRANT SELECT, INSERT, DELETE on it to the users of this resource:\n" +
			CreateMarkerTable + ";\n(no)"},

	{"a table for the evidence that is old",
		func(*world) error { return markerOld(addSiblings(server{database: "shop"}), errors.New("no")) },
		"the table for the evidence of branches comes from an older version: have an administrator run:\nALTER " +
			"TABLE `shop`.concord_branch ADD COLUMN siblings VARCHAR(512) CHARACTER SET ascii COLLATE ascii_bin " +
			"NOT NULL DEFAULT '';\n(no)"},

	{"a last resource without evidence", func(w *world) error {
		r := w.openAs(w.DSN(database), Options{NoMarker: true})
		s, err := r.Open(w.ctx, newXID())
		require.NoError(w.t, err)
		defer func() { require.NoError(w.t, s.Rollback(w.ctx)) }()
		return s.(adapters.Last).BeLast(w.ctx)
	}, "make XID at db the last resource: a last resource decides by its marker: leave out NoMarker"},
	{"a last resource that was settled", func(w *world) error {
		r := w.open()
		x := newXID()
		_, err := r.Settle(w.ctx, x.Cluster, x.ID)
		require.NoError(w.t, err)
		s, err := r.Open(w.ctx, x)
		require.NoError(w.t, err)
		return s.(adapters.Last).CommitLast(w.ctx, txn.LastMarker{Decision: txn.Commit})
	}, "commit XID at db as the last resource: not committed: the commit was not sent: the cluster was asked for the " +
		"outcome before the commit, and has aborted it in its last resource: run it again"},

	{"an ignored error", voted(ignored("SELECT nothing")), ignores + "SERVER"},
	{"a statement after that", func(w *world) error {
		r := w.open()
		s := w.begin(r, newXID())
		_, _ = w.tx(s).ExecContext(w.ctx, "SELECT nothing")
		_, err := r.Tx(w.ctx, adaptertest.Enlisted(s))
		return err
	}, "the branch can only be rolled back: SERVER"},
	{"a COMMIT by the application", voted(ignored("COMMIT")),
		ignores + "DDL, BEGIN, COMMIT, ROLLBACK and LOCK TABLES are not allowed inside a branch: run them outside, " +
			"and let the global transaction end the branch: SERVER"},
	{"XA by the application", voted(ignored("XA END 'x'")),
		ignores + "XA statements inside a branch are reserved for concord: end the global transaction instead"},
	{"a level that comes too late", voted(ignored("SET SESSION TRANSACTION READ ONLY")),
		ignores + "this has no effect inside a branch: give the options with the first call of TxWith"},
	{"a row that another session writes", voted(ignored("INSERT DELAYED INTO kv VALUES ('k', 1)")),
		ignores + "DELAYED is not allowed inside a branch, because no rollback takes back what it does: leave " +
			"the word out"},
	{"a rollback by the application", voted(func(w *world, s *session) { require.NoError(w.t, w.tx(s).Rollback()) }),
		"prepare XID at db: the application rolled the branch back"},
	{"the only branch, with an ignored error", func(w *world) error {
		s := w.begin(w.open(), newXID())
		ignored("SELECT nothing")(w, s)
		return s.CommitOnePhase(w.ctx)
	}, "commit XID at db: " + adapters.ErrNotCommitted.Error() +
		": the application ignored an error of this branch: SERVER"},
	{"work in a branch that has ended", func(w *world) error {
		r := w.open()
		s := w.begin(r, newXID())
		require.NoError(w.t, s.Rollback(w.ctx))
		_, err := r.Tx(w.ctx, adaptertest.Enlisted(s))
		return err
	}, adapters.ErrBranchEnded.Error()},
	{"a second vote", func(w *world) error {
		s := w.begin(w.open(), newXID())
		require.NoError(w.t, s.Rollback(w.ctx))
		_, _, err := s.Prepare(w.ctx)
		return err
	}, "prepare XID at db: " + adapters.ErrBranchEnded.Error()},
	{"a commit before the vote", func(w *world) error {
		_,
			err := w.begin(w.open(), newXID()).Commit(w.ctx)
		return err
	},
		"commit XID at db: the branch is not prepared: call Prepare first"},
	{"a table without transactions", func(w *world) error {
		w.run(database, "CREATE TABLE stays (i INT) ENGINE=MyISAM")
		s := w.begin(w.open(), newXID())
		_, err := w.tx(s).ExecContext(w.ctx, "INSERT INTO stays VALUES (1)")
		require.NoError(w.t, err)
		return s.Rollback(w.ctx)
	}, "roll back XID at db: " + adapters.ErrTorn.Error() + ": it changed tables whose engine does not support " +
		"transactions"},
	{"a table without transactions, and a session that died", func(w *world) error {
		s := w.begin(w.open(), newXID())
		_, err := w.tx(s).ExecContext(w.ctx, "INSERT INTO stays VALUES (1)")
		require.NoError(w.t, err)
		w.kill(s)
		err = s.Rollback(w.ctx)
		w.run(database, "DROP TABLE stays")
		return err
	}, "roll back XID at db: " + adapters.ErrTorn.Error() + ": its connection is lost, and it may have changed " +
		"tables whose engine does not support transactions"},
	{"a statement that may do anything, and a server that hangs", func(w *world) error {
		s := w.begin(w.open(), newXID())
		s.risked = true
		return s.maybeTorn(errors.New("no answer"))
	}, adapters.ErrTorn.Error() + ": nothing proves that a statement of the application did not end its transaction; " +
		adapters.ErrNotEnded.Error() + ": no answer"},

	{"a check of a server that is down", func(w *world) error { _, err := w.down().Check(w.ctx); return err },
		"check db: " + isDown},
	{"a list of a server that is down", func(w *world) error { _, err := w.down().Recover(w.ctx); return err },
		"recover db: " + isDown},
	{"who waits in a server that is down", func(w *world) error {
		_, err := w.down().Waits(w.ctx,
			time.Second)
		return err
	}, "list lock waits at db: " + isDown},
	{"the high-water row of a server that is down", func(w *world) error {
		_, err := w.down().HighWater(w.ctx, 1)
		return err
	}, "look at db: " + isDown},
	{"a high-water row that a server that is down should have", func(w *world) error {
		_, err := w.down().Raise(w.ctx, 1, txn.HighWater{}, nil)
		return err
	}, "raise the high-water row at db: " + isDown},
	{"a branch of a server that is down", func(w *world) error {
		_, err := w.down().Rollback(w.ctx, newXID(), txn.Branch{})
		return err
	}, "abort XID at db: " + isDown},
	{"many branches of a server that is down", func(w *world) error {
		_, err := w.down().FinishAll(w.ctx, []adapters.Decided{{XID: newXID(), Decision: txn.Abort}})
		return err
	}, "finish branches at db: " + isDown},
	{"evidence of a server that is down",
		func(w *world) error { _, err := w.down().Evidence(w.ctx, txn.XID{}); return err },
		"list the evidence at db: " + isDown},
	{"evidence to forget of a server that is down",
		func(w *world) error { return w.down().Forget(w.ctx, []txn.XID{newXID()}) },
		"forget branches at db: " + isDown},
	{"work at a server that is down", func(w *world) error {
		_, err := w.openAs("app@tcp(127.0.0.1:1)/shop", Options{NoMarker: true}).Open(w.ctx, newXID())
		return err
	}, "begin XID at db: connect: " + isDown},
	{"a server that is too old", func(w *world) error {
		_, err := askServer(w.ctx, func(context.Context, string) ([][]string,
			error) {
			return [][]string{{"version", "5.5.1"}}, nil
		})
		return err
	}, "the server (version 5.5.1) has no server_uuid: use MySQL 8.0.29 or MariaDB 10.5, or newer"},

	{"a session that nobody knows", func(*world) error { return advise(errHeld) },
		"its session is alive or about to end, and nothing says which one it is: wait until the server ends it, or " +
			"find it in the process list and KILL it; then try again"},
	{"a session that is only said to hold a branch", func(*world) error { return advise(errAlive) },
		"a session that is said to hold it is alive, but nothing proves that it does, so it is left alone: wait " +
			"until it ends, or see what it is doing and KILL it; then try again"},
	{"a branch that is hidden", func(*world) error { return advise(errHidden) },
		"its marker is written but not committed, and XA RECOVER does not list it: either another session is " +
			"finishing it now, or the server hides it until it is restarted; try again"},
	{"a branch that comes back", func(*world) error { return advise(errStillListed) },
		"the server said that it was finished, but lists it again: try again"},
}

const isDown = "dial tcp 127.0.0.1:1: connect: connection refused: check that the server runs and can be reached, " +
	"then try again"

// down is a resource that nobody is behind.
func (w *world) down() *Resource { return w.openAs("app@tcp(127.0.0.1:1)/shop", Options{}) }

// withoutRow are the texts that no row of the table has.
var withoutRow = map[string]string{
	"read the grants: %w":                                                                          timing,
	"GRANT PROCESS ON *.* to the user of this resource":                                            grants,
	", and GRANT SELECT ON performance_schema.data_lock_waits":                                     grants,
	"the server does not report connections as numbers: %w":                                        surprise,
	"ALTER TABLE ... ENGINE=InnoDB, or keep them out of global transactions":                       tables,
	"GRANT SELECT, INSERT, DELETE ON %v to the user of this resource; if the table is missing: %v": tables,
	"ALTER TABLE %v ENGINE=InnoDB":                                                                 tables,
	"the driver's %T does not accept contexts: use a connector of " +
		"go-sql-driver/mysql": "wants another driver",
	"%w: the application's SQL, or a procedure that it called, ended the transaction of the branch: %w": timing,
	"end session %d: %w":                                                timing,
	"end session %d: it is still there: %w":                             timing,
	"look up session %d: %w":                                            timing,
	"the server did not answer":                                         timing,
	"count the XA statements of the session: %w":                        timing,
	"count the XA statements of the session: %s is not a number":        surprise,
	"count the rows that were written: %w":                              timing,
	"count the rows that were written: the server has no such counters": surprise,
	"count the rows that were written: %s is not a number":              surprise,
	"the session of the branch is gone": "database/sql does not pass it on: its " +
		"session is ended",
	"branches are opened by a resource": "nobody can reach that driver",
	"read the marker: %w":               timing,
	"read the holders of branches: %w":  timing,
	"a row of %s is not concord's: %w":  "somebody else has written into the table",
	"%w: the server of %s accepts no more connections: raise max_connections there, or lower MaxOpen; " +
		"%w": "wants a server that is full for as long as a pool waits",
	"close %s: %w":                                              timing,
	"ask the server for its variables: %w":                      timing,
	"ask the server for its start: %w":                          timing,
	"inspect %s at %s: %w":                                      timing,
	"the server does not report its uptime":                     surprise,
	"the server does not report its uptime in seconds":          surprise,
	"the server does not report the connection id as a number":  surprise,
	"work in %s: %w":                                            timing,
	"%w (and the rollback failed: %w)":                          timing,
	"%w: end the work: %w":                                      timing,
	"commit %s at %s: the answer is lost, look at the data: %w": timing,
	"%w: an answer of %d bytes is neither OK nor an error":      surprise,
	"list prepared branches: %w":                                timing,
	"%s: the answer is lost: %w":                                timing,
	"%w: write the marker: %w":                                  timing,
	"settle %s at %s: %w":                                       timing,
	"read the high-water row: %w":                               timing,
	"another node is doing this: try again":                     timing,
}

// Why a text has no row.
const (
	surprise = "no server has ever answered so"
	timing   = "wants a server, a connection or SQL that does one thing at one moment, which other tests see to"
	grants   = "depends on the grants of a login, and TestWaits follows it on each server"
	tables   = "depends on the tables of the application, and is in the report as it stands here"
)

var (
	anXID    = regexp.MustCompile(`concord-[0-9a-f]{8}-[0-9A-Z]{26}-[0-9a-f]{2}`)
	ofServer = regexp.MustCompile(`Error [0-9]+ \([0-9A-Z]{5}\): .*$`)
)

func TestWhatErrorsSay(t *testing.T) {
	w := newWorld(t, testdb.MariaDB(t))
	var rows []string
	for _, m := range messages {
		rows = append(rows, m.says)
		t.Run(m.name, func(t *testing.T) {
			in := *w
			in.t = t
			err := m.meet(&in)
			require.Error(t, err)
			require.Equal(t, m.says, ofServer.ReplaceAllString(anXID.ReplaceAllString(err.Error(), "XID"), "SERVER"))
		})
	}
	said.CheckIn(t, []string{".", "sqltext"}, append(rows, unfit...), withoutRow)
}

// unfit is what Check says of a server that is not fit in any way.
var unfit = []string{
	"PROBLEM version: 10.4.1-MariaDB: too old, a prepared branch does not survive the end of its session; use " +
		"MariaDB 10.5 or newer",
	"xa_detach_on_prepare: off: a prepared branch is tied to its session; recovery ends that session first",
	"PROBLEM database: none; name one in the data source name",
	"PROBLEM default_storage_engine: MyISAM: tables of other engines are not rolled back; set " +
		"default_storage_engine = InnoDB",
	"PROBLEM read_only: ON: branches can neither write nor, on MariaDB, be finished; point the resource at the primary",
	"PROBLEM wsrep_on: ON: Galera does not replicate XA transactions; use a server without Galera",
	"PROBLEM group_replication_group_name: set: prepared branches and changes of the primary do not go together; " +
		"use a server without group replication",
	"PROBLEM innodb_flush_log_at_trx_commit: 2: a prepared branch may not survive a crash; set " +
		"innodb_flush_log_at_trx_commit = 1",
	"PROBLEM sync_binlog: 0: binary log and data may differ after a crash; set sync_binlog = 1",
}

// What Check finds is read by who can change it: each has a fix where one is needed.
func TestWhatFindingsSay(t *testing.T) {
	s := server{flavor: flavorMariaDB, version: "10.4.1-MariaDB",
		variables: map[string]string{"default_storage_engine": "MyISAM", "read_only": "ON", "wsrep_on": "ON",
			"group_replication_group_name": "g", "innodb_flush_log_at_trx_commit": "2", "log_bin": "ON",
			"sync_binlog": "0"}}
	require.Equal(t, unfit, findingsText(serverFindings(s)...))
	require.Equal(t, []string{"CONNECTION ADMIN: not granted: sessions of applications can be ended only if they " +
		"log in as the same user; GRANT CONNECTION ADMIN ON *.* to the user of this " +
		"resource"}, findingsText(killFinding(s, nil)))
	require.Equal(t, []string{"CONNECTION ADMIN: granted"},
		findingsText(killFinding(s, [][]string{{"GRANT ALL PRIVILEGES ON *.* TO `app`@`%`"}})))
}

func findingsText(findings ...adapters.Finding) (all []string) {
	for _, f := range findings {
		text := fmt.Sprintf("%s: %s", f.What, f.Detail)
		if f.Problem {
			text = "PROBLEM " + text
		}
		if f.Fix != "" {
			text += "; " + f.Fix
		}
		all = append(all, text)
	}
	return all
}
