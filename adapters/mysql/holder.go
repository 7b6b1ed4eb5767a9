// SPDX-License-Identifier: Apache-2.0

package mysql

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"
	"strings"
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
		_, err := c.ExecContext(ctx, "KILL "+strconv.FormatUint(h.connection, 10))
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
