// SPDX-License-Identifier: Apache-2.0

package mysql

import (
	"cmp"
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	sqldriver "github.com/go-sql-driver/mysql"
)

// NewConnector is that of go-sql-driver, with one more ability: the session of a branch
// can send commands of its own ahead of the next one, in the same write. So XA START
// travels with the first statement, and the end of the work with XA PREPARE. Each
// stays a command of its own: the mode of several statements in one stays off.
//
// The driver writes nothing to standard error: what it says goes to the logger of the client that uses the resource
// (concord.WithLogger), unless the configuration has one of its own.
//
// Sessions that are encrypted or compressed, and those of networks that were registered
// with the driver, work as with any other connector.
func NewConnector(cfg *sqldriver.Config) (driver.Connector, error) {
	cfg = cfg.Clone()
	log := &clientLog{}
	if cfg.Logger == nil || cfg.Logger == sqldriver.NewConfig().Logger {
		cfg.Logger = log
	}
	dial := cfg.DialFunc
	if dial == nil {
		if cfg.Net != "" && cfg.Net != "tcp" && cfg.Net != "unix" {
			return logging(cfg, log)
		}
		dial = (&net.Dialer{}).DialContext
	}
	cfg.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		if place, asked := ctx.Value(wireKey{}).(**wire); asked && err == nil {
			*place = &wire{Conn: c}
			if _, ok := c.(syscall.Conn); ok {
				return socket{*place}, nil
			}
			return *place, nil
		}
		return c, err
	}
	return logging(cfg, log)
}

// wireKey is how connect asks NewConnector's connections for their wire.
type wireKey struct{}

// wire is the socket of a link's session, between the driver and the server. It is used
// by whoever uses the session, one at a time.
//
// What always holds: each command that it sent on its own has its answer taken out of
// what the driver reads, in order, before the driver's own answer.
type wire struct {
	net.Conn
	greeted bool     // the driver has answered the server's greeting
	settled bool     // the connection is made, and what follows is not for setting it up
	setUp   []string // the SET statements of the driver, or of what wraps it, that set the session up
	plain   bool     // and the packets of the session are neither encrypted nor compressed

	ahead    []byte   // commands that wait for the driver's next one
	waiting  int      // how many they are
	expected int      // answers of the server that are not the driver's
	answers  []answer // those that have come
	in       []byte   // was read and is not the driver's yet
}

// Commands of the protocol.
const (
	comQuery = 0x03
	comReset = 0x1f
)

// send queues a command that returns no rows. The wire must be able.
func (w *wire) send(command string) { w.queue(comQuery, command) }

func (w *wire) queue(kind byte, text string) {
	n := len(text) + 1
	w.ahead = append(w.ahead, byte(n), byte(n>>8), byte(n>>16), 0, kind)
	w.ahead = append(w.ahead, text...)
	w.waiting++
}

// renew lets the server forget the state of the session, and sets it up anew. It does not wait for the answers,
// which have to be settled before the driver looks at the connection again.
func (w *wire) renew(setUp ...string) error {
	w.queue(comReset, "")
	for _, command := range setUp {
		w.send(command)
	}
	_, err := w.Write(nil)
	return err
}

// settle waits for the answers to what was sent, and returns the first error.
func (w *wire) settle(until time.Time) error {
	if w == nil || w.expected == 0 {
		return nil
	}
	if err := w.SetReadDeadline(until); err != nil {
		return err
	}
	var some [512]byte
	for w.expected > 0 {
		if err := w.read(some[:]); err != nil {
			return err
		}
	}
	for _, a := range w.take() {
		if a.err != nil {
			return a.err
		}
	}
	return w.SetReadDeadline(time.Time{})
}

// able reports whether commands can be sent ahead.
func (w *wire) able() bool { return w != nil && w.plain }

// pending reports whether commands still wait.
func (w *wire) pending() bool { return w != nil && w.waiting > 0 }

// drop forgets what waits.
func (w *wire) drop() {
	if w != nil {
		w.ahead, w.waiting = w.ahead[:0], 0
	}
}

// answer is what the server said to one command.
type answer struct {
	err      error // nil: OK
	warnings int
}

// take returns and forgets the answers so far, in order.
func (w *wire) take() []answer {
	if w == nil {
		return nil
	}
	answers := w.answers
	w.answers = nil
	return answers
}

// Write sends what waits first.
func (w *wire) Write(p []byte) (int, error) {
	switch {
	case !w.greeted:
		w.greet(p)
	case !w.settled:
		w.noteSetUp(p)
	}
	if w.waiting == 0 {
		return w.Conn.Write(p)
	}
	both := append(w.ahead, p...)
	w.expected += w.waiting
	w.ahead, w.waiting = both[:0], 0
	n, err := w.Conn.Write(both)
	return max(0, n-(len(both)-len(p))), err
}

// noteSetUp keeps a packet of the driver that sets the session up.
func (w *wire) noteSetUp(p []byte) {
	const header = 4
	if len(p) > header+4 && p[header] == comQuery && strings.EqualFold(string(p[header+1:header+5]), "SET ") {
		w.setUp = append(w.setUp, string(p[header+1:]))
	}
}

// greet looks at the capabilities in the driver's first packet.
func (w *wire) greet(p []byte) {
	const header, compressed, encrypted, zstd = 4, 1 << 5, 1 << 11, 1 << 26
	w.greeted = true
	if len(p) >= header+4 {
		w.plain = binary.LittleEndian.Uint32(p[header:])&(compressed|encrypted|zstd) == 0
	}
}

// Read keeps the answers to our own commands from the driver.
func (w *wire) Read(p []byte) (int, error) {
	for w.expected > 0 {
		if err := w.read(p); err != nil {
			return 0, err
		}
	}
	if len(w.in) == 0 {
		return w.Conn.Read(p)
	}
	n := copy(p, w.in)
	if w.in = w.in[n:]; len(w.in) == 0 {
		w.in = nil
	}
	return n, nil
}

// read takes the next answer to a command of our own, or some bytes of it, by way of p.
func (w *wire) read(p []byte) error {
	if packet, rest, whole := cutPacket(w.in); whole {
		w.in = rest
		w.expected--
		w.answers = append(w.answers, readAnswer(packet))
		return nil
	}
	n, err := w.Conn.Read(p)
	w.in = append(w.in, p[:n]...)
	return err
}

// wired is a connection of the recovery half on which commands can be sent ahead.
type wired struct {
	rawConn
	driver.ConnBeginTx
	wire *wire
}

// eachOn executes commands that return no rows, whether the one before failed or not: in one round trip where that
// can be. What was not answered has the error of the connection.
func eachOn(ctx context.Context, c *sql.Conn, commands []string) (answers []answer) {
	err := c.Raw(func(own any) error {
		on, able := own.(*wired)
		if !able || !on.wire.able() {
			return errNotAnswered
		}
		last := len(commands) - 1
		for _, command := range commands[:last] {
			on.wire.send(command)
		}
		_, err := on.ExecContext(ctx, commands[last], nil)
		on.wire.drop() // if the driver has not sent its command
		answers = on.wire.take()
		for len(answers) < last {
			answers = append(answers, answer{err: cmp.Or(err, errNotAnswered)})
		}
		answers = append(answers, answer{err: err})
		return nil
	})
	if err == nil {
		return answers
	}
	for _, command := range commands {
		_, err := c.ExecContext(ctx, command)
		answers = append(answers, answer{err: err})
	}
	return answers
}

// socket is a wire over a socket of the system, where the driver looks whether the server
// has closed an idle session.
type socket struct{ *wire }

func (s socket) SyscallConn() (syscall.RawConn, error) {
	return s.Conn.(syscall.Conn).SyscallConn()
}

// cutPacket takes the payload of the first packet.
func cutPacket(in []byte) (payload, rest []byte, whole bool) {
	const header = 4
	if len(in) < header {
		return nil, in, false
	}
	n := int(in[0]) | int(in[1])<<8 | int(in[2])<<16
	if len(in) < header+n {
		return nil, in, false
	}
	return in[header : header+n], in[header+n:], true
}

// readAnswer reads the answer to a command that returns no rows: OK, or an error.
func readAnswer(payload []byte) answer {
	const ok, refusal, state = 0x00, 0xff, 6
	switch {
	case len(payload) > 0 && payload[0] == ok:
		return answer{warnings: warningsOf(payload[1:])}
	case len(payload) < 3 || payload[0] != refusal:
		return answer{err: fmt.Errorf("%w: an answer of %d bytes is neither OK nor an error", sqldriver.ErrMalformPkt,
			len(payload))}
	}
	err := &sqldriver.MySQLError{Number: binary.LittleEndian.Uint16(payload[1:])}
	text := payload[3:]
	if len(text) >= state && text[0] == '#' {
		copy(err.SQLState[:], text[1:state])
		text = text[state:]
	}
	err.Message = string(text)
	return answer{err: err}
}

// warningsOf reads how many warnings an OK has: it stands behind the rows that were changed,
// the last id, both of a length that their first byte tells, and two bytes of status.
func warningsOf(rest []byte) int {
	for range 2 {
		n := 1
		if len(rest) > 0 {
			n += map[byte]int{0xfc: 2, 0xfd: 3, 0xfe: 8}[rest[0]]
		}
		if len(rest) < n {
			return 0
		}
		rest = rest[n:]
	}
	if len(rest) < 4 {
		return 0
	}
	return int(binary.LittleEndian.Uint16(rest[2:]))
}

// Logger makes the driver log to l what it finds wrong with a connection, for Config.Logger: for connectors that
// something else wraps, so that the client's logger does not reach the driver, or to keep the two apart.
func Logger(l *slog.Logger) sqldriver.Logger {
	log := &clientLog{}
	log.to.Store(l)
	return log
}

// clientLog is what the driver logs to; nil: nobody listens, and whatever it finds is an error of some call as well.
type clientLog struct{ to atomic.Pointer[slog.Logger] }

// Print implements the driver's interface.
func (l *clientLog) Print(v ...any) {
	if to := l.to.Load(); to != nil {
		to.Warn("the MySQL driver: " + fmt.Sprint(v...))
	}
}

// loggingConnector is a connector whose driver can be told where to log to.
type loggingConnector struct {
	driver.Connector
	log *clientLog
}

func logging(cfg *sqldriver.Config, log *clientLog) (driver.Connector, error) {
	c, err := sqldriver.NewConnector(cfg)
	if err != nil {
		return nil, err
	}
	return loggingConnector{c, log}, nil
}

// LogTo implements adapters.Logging.
func (r *Resource) LogTo(l *slog.Logger) {
	if c, ok := r.connector.(loggingConnector); ok {
		c.log.to.Store(l)
	}
}
