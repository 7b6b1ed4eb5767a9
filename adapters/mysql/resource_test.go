// SPDX-License-Identifier: Apache-2.0

package mysql

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	sqldriver "github.com/go-sql-driver/mysql"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/internal/testdb"
	"github.com/concordtx/concord/txn"
)

func TestTheIdentityStaysWithTheData(t *testing.T) {
	for name, start := range map[string]func(testing.TB, ...testdb.Option) *testdb.Server{"MariaDB": testdb.MariaDB,
		"MySQL": testdb.MySQL} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, start(t))
			app, recovery := w.users()
			first, err := w.openAs(app, Options{}).Identity(w.ctx)
			require.NoError(t, err)
			host, err := os.Hostname()
			require.NoError(t, err)
			require.NotContains(t, first, host)
			require.NotContains(t, first, strconv.Itoa(w.Port()))
			require.NoError(t, w.Kill())
			require.NoError(t, w.Start())
			for _, dsn := range []string{w.DSN(database), app, recovery} {
				again, err := w.openAs(dsn, Options{}).Identity(w.ctx)
				require.NoError(t, err)
				require.Equal(t, first, again)
			}
			kept, err := w.open().Evidence(w.ctx, txn.XID{})
			require.NoError(t, err)
			require.Empty(t, kept, "the id is no evidence")
		})
	}
}

func TestManyWhoAskAtOnceDrawOneIdentity(t *testing.T) {
	w := newWorld(t, testdb.MariaDB(t))
	answers := make(chan string, 8)
	var group sync.WaitGroup
	for range 8 {
		r := w.open()
		group.Go(func() {
			id, err := r.Identity(w.ctx)
			if err != nil {
				t.Error(err)
			}
			answers <- id
		})
	}
	group.Wait()
	first := <-answers
	for range 7 {
		require.Equal(t, first, <-answers)
	}
	require.Contains(t, first, " id=")
}

func TestTwoServersHaveTwoIdentities(t *testing.T) {
	for _, f := range flavors[:2] {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			one, err := newWorld(t, f.start(t)).open().Identity(t.Context())
			require.NoError(t, err)
			two, err := newWorld(t, f.start(t)).open().Identity(t.Context())
			require.NoError(t, err)
			require.NotEqual(t, one, two)
		})
	}
}

func TestCheckNamesWhatIsWrongAndTheNextStep(t *testing.T) {
	fit := map[string]string{"default_storage_engine": "InnoDB", "innodb_flush_log_at_trx_commit": "1",
		"read_only": "OFF", "log_bin": "ON", "sync_binlog": "1"}
	problems := func(s server) (names []string) {
		for _, f := range serverFindings(s) {
			if f.Problem {
				require.NotEmpty(t, f.Fix, f.What)
				names = append(names, f.What)
			}
		}
		return names
	}
	s := server{flavor: flavorMariaDB, version: "10.11.19-MariaDB", database: "shop", variables: fit}
	require.Empty(t, problems(s))
	for name, value := range map[string]string{
		"default_storage_engine": "MyISAM", "innodb_flush_log_at_trx_commit": "2", "read_only": "ON",
		"super_read_only": "ON",
		"sync_binlog":     "0", "wsrep_on": "ON",
		"group_replication_group_name": "aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa",
	} {
		unfit := s
		unfit.variables = map[string]string{}
		for k, v := range fit {
			unfit.variables[k] = v
		}
		unfit.variables[name] = value
		require.Equal(t, []string{name}, problems(unfit))
	}
	s.version = "10.4.30-MariaDB"
	require.Equal(t, []string{"version"}, problems(s))
	s.version, s.flavor, s.database = "8.0.28", flavorMySQL, ""
	require.Equal(t, []string{"version", "database"}, problems(s))
}

// Defaults that servers may have, and that change what XA statements do.
func TestOtherDefaultsOfTheServerChangeNothing(t *testing.T) {
	settings := []testdb.Option{
		testdb.WithSetting("autocommit", "OFF"), testdb.WithSetting("completion-type", "CHAIN"),
		testdb.WithSetting("innodb-rollback-on-timeout", "ON"),
		testdb.WithSetting("transaction-isolation", "READ-UNCOMMITTED"),
		testdb.WithSetting("sql-mode", "ANSI_QUOTES,NO_BACKSLASH_ESCAPES,PIPES_AS_CONCAT"),
	}
	for name, start := range map[string]func(testing.TB, ...testdb.Option) *testdb.Server{"MariaDB": testdb.MariaDB,
		"MySQL": testdb.MySQL} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, start(t, settings...))
			w.run(database, "INSERT INTO kv VALUES ('mode1', 1), ('mode2', 1)", "COMMIT")
			r := w.openAs(w.DSN(database), Options{LockTimeout: time.Second})
			x := newXID()
			holds, b := w.prepared(r, x, "mode1")
			s := w.work(r, newXID(), "mode2")
			err := write(w.ctx, s, "mode1", 8)
			require.True(t, isCode(err, codeLockWaitTimeout), "%v", err)
			vote, _, err := s.Prepare(w.ctx)
			require.Equal(t, txn.VoteNo, vote)
			require.True(t, isCode(err, codeLockWaitTimeout), "%v", err)
			w.kill(holds)
			require.Equal(t, txn.Done, w.finish(r, txn.Commit, x, b))
			require.Equal(t, txn.AlreadyDone, w.finish(r, txn.Commit, x, b))
			require.Equal(t, txn.Contradicted, w.finish(r, txn.Abort, x, b))
			require.NoError(t, r.Forget(w.ctx, []txn.XID{x}))
			require.NoError(t, w.work(r, newXID(), "mode2").CommitOnePhase(w.ctx))
			require.Equal(t, txn.Lost, w.finish(w.open(), txn.Commit, x, b))
		})
	}
}

func TestOnlyEvidenceOfThisAdapterIsValid(t *testing.T) {
	r := &Resource{name: "bank"}
	good := txn.Branch{Evidence: markerEvidence,
		Holder: holder{connection: 7, start: 1795467444, server: "0123456789abcdef", detaches: true}.String()}
	require.NoError(t, r.Validate(good))
	require.NoError(t, r.Validate(txn.Branch{}), "neither has to be there")
	for _, evidence := range []string{"poison", "marker", markerEvidence + " ", strings.ToUpper(markerEvidence),
		strings.Repeat("a", 1<<20)} {
		b := good
		b.Evidence = evidence
		require.ErrorIs(t, r.Validate(b), errNotOurs, "%.80q", evidence)
	}
	for _, holder := range []string{"7", "0@1@0123456789abcdef", "7@0@0123456789abcdef", "7@-1@0123456789abcdef",
		"07@1@0123456789abcdef",
		"7@1@0123456789abcdeg", "7@1@0123456789abcdef; KILL 8", "v1;pid=1;start=1",
		"18446744073709551616@1@0123456789abcdef"} {
		b := good
		b.Holder = holder
		require.ErrorIs(t, r.Validate(b), errNotOurs, "%q", holder)
	}
}

// FuzzValidate takes what anybody may say of a branch.
func FuzzValidate(f *testing.F) {
	f.Add(markerEvidence, "7@1795467444@0123456789abcdef+detached")
	f.Add("poison", "v1;pid=1;start=2")
	f.Fuzz(func(t *testing.T, evidence, text string) {
		if (&Resource{}).Validate(txn.Branch{Evidence: evidence, Holder: text}) != nil {
			return
		}
		require.Contains(t, []string{"", markerEvidence}, evidence)
		if text != "" {
			h, ok := parseHolder(text)
			require.True(t, ok)
			require.Equal(t, text, h.String())
		}
	})
}

func TestInspect(t *testing.T) { tellAll(t, inspectStories) }

var inspectStories = []story{
	{"a prepared branch tells which others there are, and whom its session keeps waiting",
		func(t *testing.T, w *world) {
			r, x := w.open(), newXID()
			s := w.work(r, x, "siblings")
			s.Siblings([]txn.BranchNo{0, 1, 200})
			vote, b, err := s.Prepare(w.ctx)
			require.NoError(t, err)
			require.Equal(t, txn.VoteYes, vote)
			found, err := w.open().Inspect(w.ctx, x)
			require.NoError(t, err)
			require.True(t, found.Prepared)
			require.False(t, found.Committed)
			require.Equal(t, []txn.BranchNo{0, 1, 200}, found.Siblings)

			if !s.link.server.detaches {
				other := w.open()
				waited := make(chan error, 1)
				go func() {
					_, err := w.admin.ExecContext(w.ctx, "UPDATE kv SET v = 8 WHERE k = 'siblings'")
					waited <- err
				}()
				require.Eventually(t, func() bool {
					found, err = other.Inspect(w.ctx, x)
					require.NoError(t, err)
					return len(found.Blocked) == 1
				}, patience, 200*time.Millisecond, "InnoDB looks again only when nobody has asked for 0.1 s")
				require.True(t, strings.HasPrefix(found.Blocked[0].Statement, "UPDATE kv"), "%+v", found.Blocked)
				defer func() { require.NoError(t, <-waited) }()
			}
			require.Equal(t, txn.Done, w.finish(w.open(), txn.Commit, x, b))
			found, err = w.open().Inspect(w.ctx, x)
			require.NoError(t, err)
			require.True(t, found.Committed)
			require.False(t, found.Prepared)
			require.Empty(t, found.Blocked)
		}},
	{"a table of an older version gets its column with the next branch, and until then branches are finished",
		func(t *testing.T, w *world) {
			w.run(database, CreateMarkerTable, "ALTER TABLE "+markerTable+" DROP COLUMN siblings")
			x := newXID()
			require.Equal(t, txn.Lost, w.finish(w.open(), txn.Commit, x, txn.Branch{No: x.Branch, Resource: "db"}))
			s, b := w.prepared(w.open(), x, "older")
			require.Equal(t, txn.Done, w.finish(w.open(), txn.Commit, x, b))
			_ = s
			w.requireValue("older", 7)
		}},
}

func TestWaits(t *testing.T) { tellAll(t, waitsStories) }

var waitsStories = []story{
	{"who waits is told by the name that his own session has, and so is whom he waits for", func(t *testing.T,
		w *world) {
		r, x := w.open(), newXID()
		w.seed("hot")
		holding := w.work(r, x, "waits")
		_, err := w.tx(holding).ExecContext(w.ctx, "UPDATE kv SET v = 8 WHERE k = 'hot'")
		require.NoError(t, err)
		asked, waits := holding.Asked()
		require.False(t, waits)
		waiter := w.begin(w.open(), newXID())
		done := make(chan error, 1)
		go func() {
			_, err := w.tx(waiter).ExecContext(w.ctx, "UPDATE kv SET v = 9 WHERE k = 'hot'")
			done <- err
		}()
		var list []adapters.Wait
		// other time zones change nothing: a login may have one of its own
		cfg, err := sqldriver.ParseDSN(w.DSN(database))
		require.NoError(t, err)
		cfg.Params = map[string]string{"time_zone": "'-11:00'"}
		other := w.openAs(cfg.FormatDSN(), Options{})
		for _, r := range []*Resource{w.open(), other} {
			require.Eventually(t, func() bool {
				list, err = r.Waits(w.ctx, time.Second)
				require.NoError(t, err)
				return len(list) == 1
			}, patience, 200*time.Millisecond, "InnoDB looks again only when nobody has asked for 0.1 s")
			require.Equal(t, waiter.SessionName(), list[0].Session)
			require.Equal(t, holding.SessionName(), list[0].For)
			require.Zero(t, list[0].Branch)
			require.False(t, list[0].Since.IsZero())
			early, err := r.Waits(w.ctx, time.Hour)
			require.NoError(t, err)
			require.Empty(t, early)
		}
		_, waits = waiter.Asked()
		require.True(t, waits)
		more, _ := holding.Asked()
		require.Equal(t, asked, more, "nothing was asked meanwhile")
		require.NoError(t, holding.Rollback(w.ctx))
		require.NoError(t, <-done)
		_, waits = waiter.Asked()
		require.False(t, waits)
	}},
	{"a login that may not see who waits is told which grant is missing, and the database stays fit",
		func(t *testing.T, w *world) {
			w.run("", "CREATE USER IF NOT EXISTS blind IDENTIFIED BY 'blind'", "GRANT ALL ON "+database+".* TO blind")
			defer w.run("", "DROP USER blind")
			cfg, err := sqldriver.ParseDSN(w.DSN(database))
			require.NoError(t, err)
			cfg.User, cfg.Passwd = "blind", "blind"
			blind := w.openAs(cfg.FormatDSN(), Options{})
			_, err = blind.Waits(w.ctx, time.Second)
			require.ErrorContains(t, err, "list lock waits at db: ")
			report, err := blind.Check(w.ctx)
			require.NoError(t, err)
			find := func(report adapters.Report) adapters.Finding {
				i := slices.IndexFunc(report.Findings,
					func(f adapters.Finding) bool { return f.What == "deadlocks with other databases" })
				require.GreaterOrEqual(t, i, 0)
				return report.Findings[i]
			}
			f := find(report)
			require.False(t, f.Problem)
			require.Contains(t, f.Detail, "not found, they last until a lock timeout: ")
			require.Contains(t, f.Fix, "GRANT PROCESS ON *.* to the user of this resource")
			w.run("", "GRANT PROCESS ON *.* TO blind")
			if strings.Contains(f.Fix, "performance_schema") {
				w.run("", "GRANT SELECT ON performance_schema.data_lock_waits TO blind")
			}
			report, err = w.openAs(cfg.FormatDSN(), Options{}).Check(w.ctx)
			require.NoError(t, err)
			require.Equal(t, adapters.Finding{What: "deadlocks with other databases", Detail: "found"}, find(report))
		}},
}

// FuzzMySQLListing reads a row of XA RECOVER, in which everything is somebody else's:
// the format, both lengths and the bytes.
func FuzzMySQLListing(f *testing.F) {
	x := txn.XID{Cluster: 7, ID: txn.NewID(time.Now()), Branch: 3}
	format, data := strconv.Itoa(txn.FormatID), x.Gtrid()+x.Bqual()
	gtrid := strconv.Itoa(len(x.Gtrid()))
	f.Add(format, gtrid, "2", data)
	f.Add(format, "-1", strconv.Itoa(len(data)+1), data)
	f.Add(format, "9223372036854775807", "9223372036854775807", data)
	f.Add(format, gtrid, "2", data[:10])
	f.Add("99999999999999999999", "0", "0", "")
	f.Add("1", "64", "64", string(make([]byte, 128)))
	f.Add(format, gtrid, "2", "x'; drop table canary; -- \x00\xff\\")
	f.Fuzz(func(t *testing.T, format, gtrid, bqual, data string) {
		p, ours := parseListed([]string{format, gtrid, bqual, data})
		if ours {
			written := p.XID.Gtrid() + p.XID.Bqual()
			if p.Last != 0 {
				written += "-" + p.Last.String()
			}
			require.Equal(t, data, written, "what is ours is written as we write it")
		}
		_, ours = parseListed([]string{format, gtrid, bqual})
		require.False(t, ours, "a row without a name")
	})
}

// FuzzMySQLDSN opens a resource of any data source name. An error never repeats it.
func FuzzMySQLDSN(f *testing.F) {
	f.Add("app:secret@tcp(127.0.0.1:3306)/billing")
	f.Add("app:s@c/r(e)t@unix(/run/mysqld.sock)/billing?parseTime=true&timeout=5s")
	f.Add("@tcp()/")
	f.Add("app:secret@tcp(db:3306)/billing?serverPubKey=%zz")
	f.Add("app:secret@tcp(db:3306)/billing?tls=skip-verify")
	f.Add("(:)/0")
	f.Fuzz(func(t *testing.T, dsn string) {
		r, err := Open("billing", dsn)
		if err != nil {
			require.Contains(t, []string{ErrBadDSN.Error(), errAnybody.Error()},
				strings.TrimPrefix(err.Error(), `resource "billing": `))
			return
		}
		require.NoError(t, r.Close())
	})
}

func TestHolderIsReadBackExactly(t *testing.T) {
	for _, h := range []holder{
		{connection: 7, start: 1795467444, server: "0123456789abcdef"},
		{connection: 1 << 40, start: 1, server: "ffffffffffffffff", detaches: true},
	} {
		got, ok := parseHolder(h.String())
		require.True(t, ok)
		require.Equal(t, h, got)
	}
	for _, text := range []string{"", "7", "7@1@short", "-7@1@0123456789abcdef", "07@1@0123456789abcdef",
		"7@1@0123456789abcdef+", "7; KILL 8@1@0123456789abcdef", "7@1@0123456789abcdef+detached+detached"} {
		_, ok := parseHolder(text)
		require.False(t, ok, text)
	}
}

func TestXAWritesHexadecimal(t *testing.T) {
	x := txn.XID{Cluster: 0x0badcafe, Branch: 255}
	require.Equal(t, "X'636f6e636f72642d30626164636166652d303030303030303030"+
		"3030303030303030303030303030303030',X'6666',1129270851", xa(x))
}

func TestListedRowsThatAreNotOursAreForeign(t *testing.T) {
	x := txn.XID{Cluster: 1, ID: txn.ID{1}, Branch: 2}
	data := x.Gtrid() + x.Bqual()
	got, ours := parseListed([]string{"1129270851", "43", "2", data})
	require.True(t, ours)
	require.Equal(t, x, got.XID)
	last := x.ID.WithClass(txn.LastResource)
	tagged := txn.XID{Cluster: 1, ID: last}.Gtrid() + "02-" + txn.TagOf("billing").String()
	got, ours = parseListed([]string{"1129270851", "43", "11", tagged})
	require.True(t, ours)
	require.Equal(t, adapters.Prepared{XID: txn.XID{Cluster: 1, ID: last, Branch: 2}, Last: txn.TagOf("billing")}, got)
	for _, row := range [][]string{
		nil,
		{"1129270851", "43", "11", data + "-0c95c7ec"},
		{"1129270851", "43", "11", tagged[:45] + "-0C95C7EC"},
		{"1129270851", "43", "3", tagged[:46]},
		{"1129270851", "43", "2"},
		{"1", "43", "2", data},
		{"1129270851", "42", "3", data},
		{"1129270851", "43", "3", data},
		{"1129270851", "-1", "46", data},
		{"1129270851", "43", "2", "x" + data[1:]},
		{"x", "43", "2", data},
	} {
		_, ours := parseListed(row)
		require.False(t, ours, "%q", row)
	}
}

func TestVersionsCompareAsNumbers(t *testing.T) {
	for version, want := range map[string]bool{"8.0.29": true, "8.0.9": false, "8.0.30-22": true, "9.7.4": true,
		"10.1.0": true, "5.7.44-log": false, "8.1.0": true, "unknown": false} {
		require.Equal(t, want, server{version: version}.atLeast(8, 0, 29), version)
	}
}

// The server knows a branch beside a last resource by a name with a tag, which only its list tells.
func TestABranchBesideALastResourceIsFencedAndEnded(t *testing.T) {
	for _, d := range []txn.Decision{txn.Commit, txn.Abort} {
		t.Run(d.String(), func(t *testing.T) {
			w := newWorld(t, testdb.MariaDB(t))
			r, rec := w.open(), w.open()
			x := newXID()
			x.ID = x.ID.WithClass(txn.LastResource).WithLast("billing")
			s := w.begin(r, x)
			s.SetTag(txn.TagOf("billing"))
			require.NoError(t, write(w.ctx, s, x.ID.String(), 7))
			_, b, err := s.Prepare(w.ctx)
			require.NoError(t, err)
			_, err = rec.Recover(w.ctx) // as a scan does
			require.NoError(t, err)
			s.link.close()
			require.Equal(t, txn.Done, w.finish(rec, d, x, b))
			w.requireListed()
			_, found := w.value(x.ID.String())
			require.Equal(t, d == txn.Commit, found)
		})
	}
}
