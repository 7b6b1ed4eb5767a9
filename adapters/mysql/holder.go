// SPDX-License-Identifier: Apache-2.0

package mysql

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"
)

// holder names the session that prepares a branch: a connection in one life of one
// server.
type holder struct {
	connection uint64
	start      int64
	server     string
	// detaches: the branch does not hang on the session once it is prepared.
	detaches bool
}

func holderOf(s server) holder {
	return holder{connection: s.connection, start: s.start, server: s.id(), detaches: s.detaches}
}

// String is what branch records and markers keep: "7@1795467444@0123456789abcdef+detached".
func (h holder) String() string {
	s := fmt.Sprintf("%d@%d@%s", h.connection, h.start, h.server)
	if h.detaches {
		s += detachedMark
	}
	return s
}

const detachedMark = "+detached"

// sessionName names a session of the server whatever it is set to: as a holder that does not detach.
func (s server) sessionName(connection uint64) string {
	return holder{connection: connection, start: s.start, server: s.id()}.String()
}

// parseHolder parses what String prints and nothing else.
func parseHolder(text string) (holder, bool) {
	rest, detaches := strings.CutSuffix(text, detachedMark)
	parts := strings.Split(rest, "@")
	if len(parts) != 3 || len(parts[2]) != 16 {
		return holder{}, false
	}
	connection, err := strconv.ParseUint(parts[0], 10, 64)
	if err != nil {
		return holder{}, false
	}
	start, err := strconv.ParseInt(parts[1], 10, 64)
	if err != nil {
		return holder{}, false
	}
	h := holder{connection: connection, start: start, server: parts[2], detaches: detaches}
	return h, h.String() == text
}

// of reports whether the holder belongs to this life of this server. If not, it is gone.
func (h holder) of(s server) bool { return h.start == s.start && h.server == s.id() }

const killEvery = 10 * time.Millisecond

// end ends the session and returns when the server does not know its connection any
// more. KILL itself tells: unlike the process list it needs no privilege to say that
// a connection is not there.
func (h holder) end(ctx context.Context, c *sql.Conn, s server) error {
	if !h.of(s) {
		return nil
	}
	for {
		_, err := c.ExecContext(ctx, h.kill())
		if isCode(err, codeUnknownThread) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("end session %d: %w", h.connection, err)
		}
		select {
		case <-time.After(killEvery):
		case <-ctx.Done():
			return fmt.Errorf("end session %d: it is still there: %w", h.connection, ctx.Err())
		}
	}
}

func (h holder) kill() string { return "KILL " + strconv.FormatUint(h.connection, 10) }

// alive reports whether the server knows the session, and does nothing to it. The statements
// explain what a session executes; most answers are errors.
func (h holder) alive(ctx context.Context, c *sql.Conn, s server) (bool, error) {
	explain := "EXPLAIN FOR CONNECTION "
	if s.flavor == flavorMariaDB {
		explain = "SHOW EXPLAIN FOR "
	}
	_, err := sqlRows(c)(ctx, explain+strconv.FormatUint(h.connection, 10))
	switch _, answered := codeOf(err); {
	case isCode(err, codeUnknownThread):
		return false, nil
	case err != nil && !answered:
		return false, fmt.Errorf("look up session %d: %w", h.connection, err)
	}
	return true, nil
}

const (
	// lookTime bounds one look at the sessions that hold branches; the next one goes on.
	lookTime = 3 * time.Second
	// goneKept is how many sessions are remembered as gone. One that is forgotten costs a pause.
	goneKept = 100_000
)

// gone remembers since when sessions of one life of the server are known to have left the list of connections,
// so that a wave of branches whose sessions went together waits once for all of them, and not once for each. A
// connection id is given to nobody else in that life, so what is gone stays gone.
type gone struct {
	mu     sync.Mutex
	start  int64
	server string
	since  map[uint64]time.Time // by connection
	looked time.Time            // when somebody last looked at all of them
}

// note remembers that a session is gone, and returns since when that is known.
func (g *gone) note(h holder, now time.Time) time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.since == nil || g.start != h.start || g.server != h.server || len(g.since) >= goneKept {
		g.start, g.server, g.since, g.looked = h.start, h.server, map[uint64]time.Time{}, time.Time{}
	}
	since, known := g.since[h.connection]
	if !known {
		since = now
		g.since[h.connection] = now
	}
	return since
}

// knownSince returns since when a session is known to be gone; zero: it is not.
func (g *gone) knownSince(h holder) time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.start != h.start || g.server != h.server {
		return time.Time{}
	}
	return g.since[h.connection]
}

// knows reports whether a session is remembered.
func (g *gone) knows(h holder) bool { return !g.knownSince(h).IsZero() }

// look reports whether it is time to look at all sessions again. Who is told so has to.
func (g *gone) look(now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if now.Sub(g.looked) < detachTime {
		return false
	}
	g.looked = now
	return true
}

// letGo returns when a session that is gone has let go of its branch: at once if it has been gone for long.
func (f *finisher) letGo(ctx context.Context, h holder) error {
	now := time.Now()
	if now.Sub(f.r.gone.note(h, now)) >= detachTime {
		return nil
	}
	return f.pause(ctx, now)
}

// pause waits for sessions that have just gone, and while it is at it looks which others are.
func (f *finisher) pause(ctx context.Context, now time.Time) error {
	if f.r.gone.look(now) {
		if err := f.lookAround(ctx); err != nil {
			return err
		}
	}
	return f.r.pause(ctx)
}

// lookAround notes which of the sessions that hold branches are gone. It does nothing to those that are not.
func (f *finisher) lookAround(ctx context.Context) error {
	if f.r.options.NoMarker {
		return nil
	}
	rows, err := readAt(ctx, f.conn, sql.LevelReadUncommitted,
		fmt.Sprintf("SELECT DISTINCT holder FROM %s WHERE cluster = %d LIMIT %d", tableIn(f.server),
			uint32(f.xid.Cluster), goneKept))
	if err != nil {
		return fmt.Errorf("read the holders of branches: %w", err)
	}
	for end := time.Now().Add(lookTime); len(rows) > 0 && time.Now().Before(end); rows = rows[1:] {
		h, ok := parseHolder(rows[0][0])
		if !ok || !h.of(f.server) || f.r.gone.knows(h) {
			continue
		}
		alive, err := h.alive(ctx, f.conn, f.server)
		if err != nil {
			return err
		}
		if !alive {
			f.r.gone.note(h, time.Now())
		}
	}
	return nil
}
