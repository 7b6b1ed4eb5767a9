// SPDX-License-Identifier: Apache-2.0

package mysql

import (
	"bytes"
	"context"
	"database/sql/driver"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"

	sqldriver "github.com/go-sql-driver/mysql"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/txn"
)

func TestStart(t *testing.T) { tellAll(t, startStories) }

// startStories are about XA START that travels with the first statement.
var startStories = []story{
	{"a branch is one round trip for its statement, one for its vote and one for its end",
		func(t *testing.T, w *world) {
			r, trips := w.counted(nil)
			w.seed("trips")
			require.NoError(t, w.work(r, newXID(), "trips").CommitOnePhase(w.ctx)) // connects
			s := w.begin(r, newXID())
			trips.Store(0)
			_, err := w.tx(s).ExecContext(w.ctx, "UPDATE kv SET v = 2 WHERE k = 'trips'")
			require.NoError(t, err)
			require.EqualValues(t, 1, trips.Swap(0))
			vote, _, err := s.Prepare(w.ctx)
			require.NoError(t, err)
			require.Equal(t, txn.VoteYes, vote)
			require.EqualValues(t, 1, trips.Swap(0))
			found, err := s.Commit(w.ctx)
			require.NoError(t, err)
			require.Equal(t, txn.Done, found)
			require.EqualValues(t, 2, trips.Swap(0), "the second, which nobody waits for, makes the session as new")
			w.requireValue("trips", 2)
		}},
	{"only a branch that could be torn has a guard, for one more round trip", func(t *testing.T, w *world) {
		w.seed("guard")
		w.run(database, "CREATE PROCEDURE nothing() DO 0")
		r, trips := w.counted(nil)
		require.NoError(t, w.work(r, newXID(), "guard").CommitOnePhase(w.ctx)) // connects
		for statement, calls := range map[string]bool{
			"/* c */ UPDATE kv SET v = 3 WHERE k = 'guard'": false, "DO 1": false, "CALL nothing()": true,
			"SAVEPOINT a": true,
		} {
			s := w.begin(r, newXID())
			_, err := w.tx(s).ExecContext(w.ctx, "-- name: Set :exec\nUPDATE kv SET v = 2 WHERE k = 'guard'")
			require.NoError(t, err)
			trips.Store(0)
			_, err = w.tx(s).ExecContext(w.ctx, statement)
			require.NoError(t, err)
			require.Equal(t, calls, s.guard != "", statement)
			want := int64(1)
			if statement == "CALL nothing()" {
				want = 2
			}
			require.Equal(t, want, trips.Swap(0), statement)
			vote, _, err := s.Prepare(w.ctx)
			require.NoError(t, err)
			require.Equal(t, txn.VoteYes, vote)
			require.EqualValues(t, 1, trips.Swap(0), statement)
			_, err = s.Commit(w.ctx)
			require.NoError(t, err)
			require.EqualValues(t, 2, trips.Swap(0), "%s: the session is made as new, or says goodbye", statement)
		}
	}},
	{"a branch without statements costs nothing, whichever way it ends", func(t *testing.T, w *world) {
		r, trips := w.counted(nil)
		require.NoError(t, w.work(r, newXID(), "idle").CommitOnePhase(w.ctx))
		trips.Store(0)
		s := w.begin(r, newXID())
		_ = w.tx(s)
		vote, _, err := s.Prepare(w.ctx)
		require.NoError(t, err)
		require.Equal(t, txn.VoteReadOnly, vote)
		s = w.begin(r, newXID())
		require.NoError(t, s.CommitOnePhase(w.ctx))
		require.ErrorIs(t, s.CommitOnePhase(w.ctx), adapters.ErrBranchEnded)
		require.NoError(t, w.begin(r, newXID()).Rollback(w.ctx))
		require.Zero(t, trips.Load())
		require.NoError(t, w.work(r, newXID(), "idle").CommitOnePhase(w.ctx), "the session is as it was")
	}},
	{"nothing stays of what travelled with a start that was refused", func(t *testing.T, w *world) {
		r, x := w.open(), newXID()
		held, _ := w.prepared(r, x, "held")
		for what, do := range map[string]func(s *session) error{
			"a statement": func(s *session) error {
				_, err := w.tx(s).ExecContext(w.ctx, "INSERT INTO kv VALUES ('stray', 1)")
				return err
			},
			"a statement with arguments": func(s *session) error { return write(w.ctx, s, "stray", 1) },
			"a query": func(s *session) error {
				var v int64
				return w.tx(s).QueryRowContext(w.ctx, "SELECT v FROM kv").Scan(&v)
			},
			"a query that locks": func(s *session) error {
				var v int64
				return w.tx(s).QueryRowContext(w.ctx, "SELECT v FROM kv FOR UPDATE SKIP LOCKED").Scan(&v)
			},
			"what no rollback undoes": func(s *session) error {
				_, err := w.tx(s).ExecContext(w.ctx, "CREATE TABLE stray (id INT)")
				return err
			},
		} {
			s := w.begin(r, x)
			err := do(s)
			require.True(t, isCode(err, codeDuplicate), "%s: %v", what, err)
			require.Error(t, write(w.ctx, s, "stray", 1), "%s: the branch is lost", what)
			vote, _, err := s.Prepare(w.ctx)
			require.Equal(t, txn.VoteNo, vote, what)
			require.True(t, isCode(err, codeDuplicate), "%s: %v", what, err)
			require.True(t, w.isGone(s), "%s: the session is not used again", what)
		}
		w.requireAbsent("stray")
		var tables int
		require.NoError(t, w.admin.QueryRowContext(w.ctx,
			"SELECT COUNT(*) FROM information_schema.tables WHERE table_name = 'stray'").Scan(&tables))
		require.Zero(t, tables)
		w.requireListed(x)
		require.NoError(t, held.Rollback(w.ctx))
	}},
	{"a session that dies before its first statement takes the branch with it", func(t *testing.T, w *world) {
		r := w.open()
		s := w.begin(r, newXID())
		w.kill(s)
		require.Error(t, write(w.ctx, s, "early", 1))
		vote, _, err := s.Prepare(w.ctx)
		require.Equal(t, txn.VoteNo, vote)
		require.Error(t, err)
		w.requireAbsent("early")
	}},
	{"a context that has ended before the first statement leaves the branch as it was", func(t *testing.T, w *world) {
		r := w.open()
		s := w.begin(r, newXID())
		ended, cancel := context.WithCancel(w.ctx)
		cancel()
		_, err := w.tx(s).ExecContext(ended, "INSERT INTO kv VALUES ('never', 1)")
		require.ErrorIs(t, err, context.Canceled)
		require.NoError(t, write(w.ctx, s, "later", 1))
		require.NoError(t, s.CommitOnePhase(w.ctx))
		w.requireAbsent("never")
		w.requireValue("later", 1)
	}},
	{"a marker that cannot be left is a no, although the server has prepared", func(t *testing.T, w *world) {
		r, x := w.open(), newXID()
		s := w.work(r, x, "unmarked")
		w.run(database, "DROP TABLE "+markerTable)
		defer w.run(database, CreateMarkerTable)
		vote, _, err := s.Prepare(w.ctx)
		require.Equal(t, txn.VoteNo, vote)
		require.True(t, isCode(err, codeNoSuchTable), "%v", err)
		w.requireAbsent("unmarked")
		w.requireFree("unmarked")
	}},
	{"a plain connector works too", func(t *testing.T, w *world) {
		cfg, err := sqldriver.ParseDSN(w.DSN(database))
		require.NoError(t, err)
		connector, err := sqldriver.NewConnector(cfg)
		require.NoError(t, err)
		w.commitsOn(connector, false)
	}},
	{"a session that is compressed keeps its own round trips", func(t *testing.T, w *world) {
		cfg, err := sqldriver.ParseDSN(w.DSN(database))
		require.NoError(t, err)
		require.NoError(t, cfg.Apply(sqldriver.EnableCompression(true)))
		connector, err := NewConnector(cfg)
		require.NoError(t, err)
		w.commitsOn(connector, false)
	}},
	{"a session that is encrypted keeps its own round trips", func(t *testing.T, w *world) {
		cfg, err := sqldriver.ParseDSN(w.DSN(database))
		require.NoError(t, err)
		cfg.TLSConfig = "skip-verify"
		connector, err := NewConnector(cfg)
		require.NoError(t, err)
		w.commitsOn(connector, false)
	}},
	{"a session in the clear saves them", func(t *testing.T, w *world) {
		cfg, err := sqldriver.ParseDSN(w.DSN(database))
		require.NoError(t, err)
		connector, err := NewConnector(cfg)
		require.NoError(t, err)
		w.commitsOn(connector, true)
	}},
}

// commitsOn runs branches to both ends on sessions of a connector.
func (w *world) commitsOn(c driver.Connector, able bool) {
	w.t.Helper()
	r := New("db", c)
	w.t.Cleanup(func() { require.NoError(w.t, r.Close()) })
	s, _ := w.prepared(r, newXID(), "either")
	require.Equal(w.t, able, s.link.wire.able())
	found, err := s.Commit(w.ctx)
	require.NoError(w.t, err)
	require.Equal(w.t, txn.Done, found)
	w.requireValue("either", 7)
	s = w.begin(r, newXID())
	require.NoError(w.t, write(w.ctx, s, "either", 8))
	require.NoError(w.t, s.Rollback(w.ctx))
	w.requireValue("either", 7)
	w.run(database, "DELETE FROM kv WHERE k = 'either'")
}

// counted opens a resource whose writes to the server are counted. Each is a round trip.
func (w *world) counted(change func(*sqldriver.Config)) (*Resource, *atomic.Int64) {
	cfg, err := sqldriver.ParseDSN(w.DSN(database))
	require.NoError(w.t, err)
	var trips atomic.Int64
	cfg.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		return &countedConn{c, &trips}, err
	}
	if change != nil {
		change(cfg)
	}
	connector, err := NewConnector(cfg)
	require.NoError(w.t, err)
	r := New("db", connector)
	w.t.Cleanup(func() { require.NoError(w.t, r.Close()) })
	return r, &trips
}

type countedConn struct {
	net.Conn
	writes *atomic.Int64
}

func (c *countedConn) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(p)
}

var (
	okPacket      = []byte{7, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0}
	warnedPacket  = []byte{17, 0, 0, 1, 0, 0xfc, 1, 2, 0xfe, 1, 2, 3, 4, 5, 6, 7, 8, 2, 0, 1, 0}
	refusalPacket = append([]byte{23, 0, 0, 1, 0xff, 0xa0, 0x05, '#'}, "XAE08XAER_DUPID: no"...)
)

// script is what a wire reads from and writes to.
type script struct {
	net.Conn
	answers io.Reader
	written bytes.Buffer
}

func (s *script) Read(p []byte) (int, error)  { return s.answers.Read(p) }
func (s *script) Write(p []byte) (int, error) { return s.written.Write(p) }

func scripted(answers io.Reader) (*wire, *script) {
	s := &script{answers: answers}
	return &wire{Conn: s, greeted: true, plain: true}, s
}

func TestWireSendsAheadInOneWriteAndKeepsTheAnswers(t *testing.T) {
	theirs := []byte("the driver's own answer, of any form")
	answers := bytes.Join([][]byte{okPacket, refusalPacket, warnedPacket, theirs}, nil)
	for name, reader := range map[string]io.Reader{
		"at once":      bytes.NewReader(answers),
		"byte by byte": iotest.OneByteReader(bytes.NewReader(answers)),
		"by halves":    iotest.HalfReader(bytes.NewReader(answers)),
	} {
		w, server := scripted(reader)
		for _, command := range []string{"A", "BC", ""} {
			w.send(command)
		}
		require.True(t, w.pending(), name)
		n, err := w.Write([]byte("driver"))
		require.NoError(t, err, name)
		require.Equal(t, len("driver"), n, name)
		require.False(t, w.pending(), name)
		require.Equal(t, "\x02\x00\x00\x00\x03A\x03\x00\x00\x00\x03BC\x01\x00\x00\x00\x03driver",
			server.written.String(), name)
		got, err := io.ReadAll(w)
		require.NoError(t, err, name)
		require.Equal(t, string(theirs), string(got), name)
		taken := w.take()
		require.Len(t, taken, 3, name)
		require.Equal(t, answer{}, taken[0], name)
		require.True(t, isCode(taken[1].err, codeDuplicate), "%s: %v", name, taken[1].err)
		require.EqualError(t, taken[1].err, "Error 1440 (XAE08): XAER_DUPID: no", name)
		require.Equal(t, answer{warnings: 1}, taken[2], name)
		require.Empty(t, w.take(), name)
	}
}

func TestWireSaysSoWhenAnAnswerIsCutOffOrNone(t *testing.T) {
	for cut := range len(okPacket) {
		w, _ := scripted(bytes.NewReader(okPacket[:cut]))
		w.send("A")
		_, err := w.Write(nil)
		require.NoError(t, err)
		_, err = w.Read(make([]byte, 100))
		require.ErrorIs(t, err, io.EOF)
	}
	w, _ := scripted(bytes.NewReader([]byte{1, 0, 0, 1, 0x42}))
	w.send("A")
	_, err := w.Write(nil)
	require.NoError(t, err)
	_, err = w.Read(make([]byte, 100))
	require.ErrorIs(t, err, io.EOF)
	require.Len(t, w.answers, 1)
	require.ErrorIs(t, w.answers[0].err, sqldriver.ErrMalformPkt)
}

func TestWireTellsFromTheGreetingWhetherItCanRead(t *testing.T) {
	for flags, able := range map[uint32]bool{0: true, 1 << 5: false, 1 << 11: false, 1 << 26: false,
		1<<17 | 1<<9: true} {
		w := &wire{Conn: &script{}}
		require.False(t, w.able())
		_, err := w.Write([]byte{4, 0, 0, 1, byte(flags), byte(flags >> 8), byte(flags >> 16), byte(flags >> 24)})
		require.NoError(t, err)
		require.Equal(t, able, w.able(), "%x", flags)
	}
	var none *wire
	require.False(t, none.able())
	require.False(t, none.pending())
	require.Empty(t, none.take())
}

// notes is a buffer that several may write to.
type notes struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (n *notes) Write(p []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.text.Write(p)
}

func (n *notes) String() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.text.String()
}

func TestTheDriverLogsToWhomItIsTold(t *testing.T) {
	var byDefault notes
	was := sqldriver.NewConfig().Logger
	// in the place of standard error
	require.NoError(t, sqldriver.SetLogger(Logger(slog.New(slog.NewTextHandler(&byDefault, nil)))))
	t.Cleanup(func() { require.NoError(t, sqldriver.SetLogger(was)) })
	onEach(t, func(t *testing.T, w *world) {
		to := func(n *notes) *slog.Logger { return slog.New(slog.NewTextHandler(n, nil)) }
		var told, client, unheard notes
		for i, chosen := range []sqldriver.Logger{nil, nil, Logger(to(&told))} {
			cfg, err := sqldriver.ParseDSN(w.DSN(database))
			require.NoError(t, err)
			if chosen != nil {
				cfg.Logger = chosen
			}
			c, err := NewConnector(cfg)
			require.NoError(t, err)
			r := New("bank", c)
			if i > 0 {
				r.LogTo(to([]*notes{&client, &unheard}[i-1]))
			}
			s := w.work(r, newXID(), "logged")
			w.kill(s)
			require.Error(t, write(w.ctx, s, "logged", 2))
			require.NoError(t, s.Rollback(w.ctx))
			require.NoError(t, r.Close())
		}
		require.Empty(t, byDefault.String())
		require.Contains(t, client.String(), `level=WARN msg="the MySQL driver: `)
		require.Contains(t, told.String(), `level=WARN msg="the MySQL driver: `)
		require.Empty(t, unheard.String(), "the application has chosen where it goes")
	})
}
