// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/txn"
)

// The marker of a last resource is a row of the marker table as well, under a number that no branch has, and what it
// decides is in a column of its own. So whatever sees to the evidence of branches sees to it, too.

// AddDecisions is the column that a marker table of an earlier release lacks. Only databases that are the last
// resource of transactions need it.
const AddDecisions = "ALTER TABLE " + markerTable + " ADD COLUMN IF NOT EXISTS decision text"

const (
	decisionsThereText = "select exists (select from pg_attribute where attrelid = to_regclass('" + markerTable +
		"') and attname = 'decision' and not attisdropped)"

	insertAbortText = "insert into " + markerTable + " (cluster, gid, branch, decision) values ($1, $2, $3, $4) " +
		"on conflict (cluster, gid, branch) do nothing"
	readDecisionText = "select decision from " + markerTable + " where cluster = $1 and gid = $2 and branch = $3"

	// settleTime is how long a marker is waited for that somebody holds.
	settleTime = 2 * time.Second
)

// lastText leaves the marker of a last resource and answers as markerText does. A commit that is a decision is
// flushed, whatever the session is set to, as PREPARE TRANSACTION always is.
func (m mark) lastText() string {
	return "insert into " + markerTable + " (cluster, gid, branch, decision) values ($1, $2, $3, $4) " +
		"returning pg_current_xact_id()::text, case when current_setting('synchronous_commit') = 'off' " +
		"then set_config('synchronous_commit', 'local', true) else current_user::text end, " + m.checkText("")
}

var (
	_ adapters.Last    = (*session)(nil)
	_ adapters.Tagged  = (*session)(nil)
	_ adapters.Settler = (*Resource)(nil)

	errLastMarker = errors.New("a last resource decides by its marker: leave out WithoutMarker")
	errNoLimit    = errors.New("a session that decides must not sleep for ever: set an " +
		"idle_in_transaction_session_timeout, or leave out WithIdleTimeout(0)")
)

// SetTag implements adapters.Tagged.
func (s *session) SetTag(t txn.LastTag) { s.tag = t }

// BeLast implements adapters.Last.
func (s *session) BeLast(ctx context.Context) error {
	err := s.r.prepareDecisions(ctx, s.pgx)
	if err == nil && s.r.idleTimeout <= 0 && s.server.idleTimeout <= 0 {
		err = errNoLimit
	}
	return s.r.explain(asking, "make "+s.x.String()+" the last resource", err)
}

// prepareDecisions makes sure that markers of a last resource can be written.
func (r *Resource) prepareDecisions(ctx context.Context, conn *pgx.Conn) error {
	switch {
	case r.noMarker:
		return errLastMarker
	case r.decisionsReady.Load():
		return nil
	}
	if err := r.prepareMarker(ctx, conn); err != nil {
		return err
	}
	if !r.markerReady.Load() {
		return errReadOnlyServer
	}
	var there bool
	err := conn.QueryRow(ctx, decisionsThereText, pgx.QueryExecModeSimpleProtocol).Scan(&there)
	if err == nil && !there {
		// It waits for branches that are prepared, and everybody waits behind it.
		_, err = conn.Exec(ctx, fmt.Sprintf("begin; set local lock_timeout = %d; %s; commit",
			settleTime.Milliseconds(), AddDecisions), pgx.QueryExecModeSimpleProtocol)
		if err != nil {
			_, _ = conn.Exec(ctx, "rollback", pgx.QueryExecModeSimpleProtocol)
			return fmt.Errorf("the marker table comes from an earlier release: have its owner run %q: %w", AddDecisions,
				err)
		}
	}
	if err == nil {
		r.decisionsReady.Store(true)
	}
	return err
}

var (
	errReadOnlyServer = errors.New("this server accepts no writes, so nothing can be decided there: point the " +
		"resource at the primary")
	errLastReadOnly = errors.New("the transaction is read only, so nothing can be decided there: leave out what " +
		"makes it so (TxOptions.ReadOnly, SET TRANSACTION READ ONLY, default_transaction_read_only), or use a " +
		"database that accepts writes as the last resource")
)

// CommitLast implements adapters.Last.
func (s *session) CommitLast(ctx context.Context, m txn.LastMarker) error {
	operation := "commit " + s.x.String() + " as the last resource"
	if err := s.takeToCommit(ctx, operation); err != nil {
		return err
	}
	if _, err := s.open(ctx); err != nil { // it may have done nothing
		return s.failedTo(ctx, operation, err)
	}
	end, err := prepareBranch(ctx, s.conn.Conn().PgConn(), s.lastQuestion(m), "commit")
	switch {
	case err == nil:
		return s.answered(ctx, operation, end)
	case end.early && sqlState(err) == codeDuplicate:
		return s.failedTo(ctx, operation, adapters.ErrSettled)
	case end.early, refused(err), pgconn.SafeToRetry(err):
		if end.early {
			err = s.r.decisionsDoubted(err, errLastReadOnly)
		}
		return s.r.explain(committing, operation, s.notCommitted(ctx, s.replaced(err, end.early)))
	}
	undo := s.undo(ctx) // the session must not stay in the way of who settles it
	_ = s.settle(kept, nil)
	return s.r.explain(committing, operation, chain(errInDoubt, err, undo))
}

// decisionsDoubted looks at the table again before the next branch. readOnly is why no marker can be written if the
// transaction was read only.
func (r *Resource) decisionsDoubted(err, readOnly error) error {
	switch sqlState(err) {
	case codeUndefinedColumn:
		r.decisionsReady.Store(false)
	case codeReadOnly:
		return fmt.Errorf("%w: %w", readOnly, err)
	}
	return r.markerDoubted(err)
}

func (s *session) lastQuestion(m txn.LastMarker) question {
	return question{text: s.server.mark.lastText(), params: append(markerParams(txn.LastXID(s.x.Cluster, s.x.ID)),
		[]byte(m.Text()))}
}

func markerParams(x txn.XID) [][]byte {
	return [][]byte{strconv.AppendUint(nil, uint64(x.Cluster), 10), []byte(x.ID.String()),
		strconv.AppendUint(nil, uint64(x.Branch), 10)}
}

// Settle implements adapters.Settler.
func (r *Resource) Settle(ctx context.Context, c txn.ClusterID, id txn.ID) (m txn.LastMarker, err error) {
	x := txn.LastXID(c, id)
	err = r.with(ctx, func(conn *pgx.Conn) error {
		if err := r.notBehind(ctx, conn); err != nil {
			return err
		}
		if err := r.prepareDecisions(ctx, conn); err != nil {
			return err
		}
		m, err = adapters.SettleMarker(
			func(text string) (bool, error) { return insertAbort(ctx, conn, x, text) },
			func() (string, bool, error) { return readDecision(ctx, conn, x) })
		return r.decisionsDoubted(err, errReadOnlyServer)
	})
	return m, r.explain(asking, "settle "+id.String(), err)
}

func insertAbort(ctx context.Context, conn *pgx.Conn, x txn.XID, text string) (inserted bool, err error) {
	begin := strings.Join([]string{"begin isolation level read committed read write",
		"set local synchronous_commit = on",
		fmt.Sprintf("set local lock_timeout = %d", settleTime.Milliseconds())}, "; ")
	err = pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{BeginQuery: begin}, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, insertAbortText, pgx.QueryExecModeExec, int64(x.Cluster), x.ID.String(),
			int16(x.Branch), text)
		inserted = tag.RowsAffected() == 1
		return err
	})
	if sqlState(err) == codeLockNotAvailable {
		err = adapters.ErrLastHeld
	}
	return inserted, err
}

func readDecision(ctx context.Context, conn *pgx.Conn, x txn.XID) (string, bool, error) {
	var text *string
	err := conn.QueryRow(ctx, readDecisionText, pgx.QueryExecModeExec, int64(x.Cluster), x.ID.String(),
		int16(x.Branch)).Scan(&text)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return "", false, nil
	case err != nil || text == nil:
		return "", err == nil, err
	}
	return *text, true, nil
}
