// SPDX-License-Identifier: Apache-2.0

package mysql

import (
	"bytes"
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	sqldriver "github.com/go-sql-driver/mysql"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/internal/testdb"
	"github.com/concordtx/concord/txn"
)

// cutter is a network that cuts connections on which certain bytes are sent.
type cutter struct {
	on     atomic.Pointer[string] // the bytes; nil: none
	passes bool                   // the server gets what was sent, and has answered when the cut comes
	cuts   atomic.Int64
}

type cutConn struct {
	net.Conn
	cutter *cutter
}

var errCut = errors.New("cut by the test")

func (c *cutConn) Write(p []byte) (int, error) {
	on := c.cutter.on.Load()
	if on == nil || !bytes.Contains(p, []byte(*on)) {
		return c.Conn.Write(p)
	}
	c.cutter.cuts.Add(1)
	if c.cutter.passes {
		if _, err := c.Conn.Write(p); err != nil {
			return 0, err
		}
		_ = c.SetReadDeadline(time.Now().Add(patience))
		_, _ = c.Read(make([]byte, 512)) // the server answers one thing after another, and goes on without us
	}
	_ = c.Close()
	return 0, errCut
}

func (w *world) openCut(dsn string, c *cutter, plain bool) *Resource {
	cfg, err := sqldriver.ParseDSN(dsn)
	require.NoError(w.t, err)
	cfg.Logger = &sqldriver.NopLogger{}
	cfg.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		n, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		return &cutConn{n, c}, err
	}
	connector, err := NewConnector(cfg)
	if plain {
		connector, err = sqldriver.NewConnector(cfg)
	}
	require.NoError(w.t, err)
	r := New("db", connector)
	r.pause = shortPause
	w.t.Cleanup(func() { require.NoError(w.t, r.Close()) })
	return r
}

// What a live client leaves of a branch whose connection is cut while it prepares: nothing,
// and it knows it when it is told of the failure.
func TestACutDuringTheVoteLeavesNothing(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		app, _ := w.users()
		for _, user := range []struct{ name, dsn string }{{"as root", w.DSN(database)},
			{"with the smallest grants", app}} {
			for _, at := range []string{"XA END", "XA PREPARE", "INTO `shop`.concord_branch", "XA ROLLBACK"} {
				for _, passes := range []bool{false, true} {
					for _, plain := range []bool{false, true} {
						name := user.name + ", " + at
						if passes {
							name += ", after the server did it"
						}
						if plain {
							name += ", on a plain connector"
						}
						t.Run(name, func(t *testing.T) {
							mine := *w
							mine.t = t
							mine.cutAt(user.dsn, at, passes, plain)
						})
					}
				}
			}
		}
	})
}

func (w *world) cutAt(dsn, at string, passes, plain bool) {
	c := &cutter{passes: passes}
	r := w.openCut(dsn, c, plain)
	x := newXID()
	key := x.ID.String()
	s := w.work(r, x, key)
	if at == "XA ROLLBACK" { // of a branch that is prepared
		vote, _, err := s.Prepare(w.ctx)
		require.NoError(w.t, err)
		require.Equal(w.t, txn.VoteYes, vote)
		c.on.Store(&at)
		w.eventually("rolled back", func() bool {
			err := s.Rollback(w.ctx)
			c.on.Store(nil)
			return err == nil
		})
	} else {
		c.on.Store(&at)
		vote, _, err := s.Prepare(w.ctx)
		c.on.Store(nil)
		require.Equal(w.t, txn.VoteNo, vote)
		require.Error(w.t, err)
		require.NotErrorIs(w.t, err, adapters.ErrTorn)
		require.NoError(w.t, s.Rollback(w.ctx), "after: %v", err)
	}
	require.Positive(w.t, c.cuts.Load())
	w.requireListed()
	w.requireFree(key)
	w.requireAbsent(key)
	require.NoError(w.t, s.Rollback(w.ctx), "it may be called again")
	require.NoError(w.t, w.work(r, newXID(), key).Rollback(w.ctx), "and its sessions are in order")
}

// MariaDB refuses a user without READ_ONLY ADMIN both the marker and the rollback, and
// prepares the branch.
func TestABranchThatAReadOnlyServerKeepsIsRolledBackWhenItCanBe(t *testing.T) {
	w := newWorld(t, testdb.MariaDB(t))
	app, _ := w.users()
	for _, plain := range []bool{false, true} {
		x := newXID()
		s := w.work(w.openCut(app, &cutter{}, plain), x, "readonly")
		w.run("", "SET GLOBAL read_only = 1")
		vote, _, err := s.Prepare(w.ctx)
		require.Equal(t, txn.VoteNo, vote)
		require.True(t, isCode(err, codeReadOnly), "%v", err)
		for range 2 {
			if err := s.Rollback(w.ctx); err != nil {
				require.True(t, isCode(err, codeReadOnly), "%v", err)
				w.requireListed(x)
			} else {
				w.requireListed()
			}
		}
		w.run("", "SET GLOBAL read_only = 0")
		require.NoError(t, s.Rollback(w.ctx))
		w.requireListed()
		w.requireFree("readonly")
		w.requireAbsent("readonly")
	}
}

func TestABranchOfAServerThatDiedWhileItPreparedIsRolledBackWhenItIsBack(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		x := newXID()
		c := &cutter{passes: true}
		r := w.openCut(w.DSN(database), c, false)
		s := w.work(r, x, "died")
		at := "XA PREPARE"
		c.on.Store(&at)
		require.NoError(t, w.Kill())
		vote, _, err := s.Prepare(w.ctx)
		require.Equal(t, txn.VoteNo, vote)
		require.Error(t, err)
		for range 2 {
			require.Error(t, s.Rollback(w.ctx), "nobody knows what is left")
		}
		c.on.Store(nil)
		require.NoError(t, w.Start())
		w.eventually("rolled back", func() bool { return s.Rollback(w.ctx) == nil })
		w.requireListed()
		w.requireAbsent("died")

		// Here the server has prepared when it dies.
		x = newXID()
		s = w.work(r, x, "died")
		_, _, err = s.Prepare(w.ctx)
		require.NoError(t, err)
		require.NoError(t, w.Kill())
		require.Error(t, s.Rollback(w.ctx))
		require.NoError(t, w.Start())
		w.requireListed(x)
		w.eventually("rolled back", func() bool { return s.Rollback(w.ctx) == nil })
		w.requireListed()
		w.requireAbsent("died")
	})
}

// A connection that breaks while a procedure runs takes its transaction with it, unless the
// procedure had committed it: the marker knows.
func TestALostConnectionTellsWhetherAProcedureHadCommitted(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		w.seed("proc")
		for _, torn := range []bool{false, true} {
			for _, marker := range []bool{true, false} {
				r := w.openAs(w.DSN(database), Options{NoMarker: !marker})
				x := newXID()
				s := w.work(r, x, "proc")
				body := "DO SLEEP(600)"
				if torn {
					body = strings.ReplaceAll("XA END $; XA COMMIT $ ONE PHASE; XA START $; ", "$", s.name) + body
				}
				name := "p_" + strings.ToLower(x.ID.String())
				w.run(database, "CREATE PROCEDURE "+name+"() BEGIN "+body+"; END")
				called := make(chan error, 1)
				go func() {
					_, err := w.tx(s).ExecContext(w.ctx, "CALL "+name+"()")
					called <- err
				}()
				w.awaitSleep(s)
				err := s.Rollback(w.ctx)
				require.Error(t, <-called)
				if torn || !marker {
					require.ErrorIs(t, err, adapters.ErrTorn)
					require.ErrorIs(t, s.Rollback(w.ctx), adapters.ErrTorn, "it is the last word")
				} else {
					require.NoError(t, err)
				}
				w.requireListed()
				w.requireFree("proc")
				want := int64(1)
				if torn {
					want = 7
				}
				w.requireValue("proc", want)
				w.run(database, "UPDATE kv SET v = 1 WHERE k = 'proc'")
			}
		}
	})
}

// awaitSleep returns when the session sleeps in a statement.
func (w *world) awaitSleep(s *session) {
	w.t.Helper()
	w.eventually("it sleeps", func() bool {
		var n int
		err := w.admin.QueryRowContext(w.ctx,
			"SELECT COUNT(*) FROM information_schema.processlist WHERE state = 'User sleep' AND id = ?",
			s.link.server.connection).Scan(&n)
		return err == nil && n == 1
	})
}
