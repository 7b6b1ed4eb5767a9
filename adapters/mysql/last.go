// SPDX-License-Identifier: Apache-2.0

package mysql

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/mysql/sqltext"
	"github.com/concordtx/concord/txn"
)

// The marker of a last resource is a row of the marker table as well, under a number that no branch has, and what it
// decides is in a column of its own. It is written at the end of the work and before the commit is sent: the servers
// execute whatever travels behind a statement that failed, and behind a marker that failed must be no commit.

var (
	_ adapters.Last    = (*session)(nil)
	_ adapters.Tagged  = (*session)(nil)
	_ adapters.Settler = (*Resource)(nil)

	errLastMarker = errors.New("a last resource decides by its marker: leave out NoMarker")
)

const decisionColumn = "decision MEDIUMTEXT CHARACTER SET ascii COLLATE ascii_bin NULL"

func addDecisions(s server) string {
	return "ALTER TABLE " + tableIn(s) + " ADD COLUMN " + decisionColumn
}

// insertDecision leaves the marker of a last resource. The text has letters, digits and "-_." only.
func insertDecision(table string, x txn.XID, holder, text string) string {
	return "INSERT INTO " + table + " (cluster, gid, branch, holder, decision) VALUES (" +
		strconv.FormatUint(uint64(x.Cluster), 10) + ", '" + x.ID.String() + "', " +
		strconv.FormatUint(uint64(x.Branch), 10) + ", '" + holder + "', '" + text + "')"
}

// SetTag implements adapters.Tagged. The name of the branch begins its transaction, so it must not have begun.
func (s *session) SetTag(t txn.LastTag) { s.tag, s.name = t, xaTagged(s.xid, t) }

// BeLast implements adapters.Last. A session that sleeps ends with its Lease.
func (s *session) BeLast(ctx context.Context) error {
	if err := s.r.prepareDecisions(ctx); err != nil {
		return fmt.Errorf("make %s at %s the last resource: %w", s.xid, s.r.name, advise(err))
	}
	return nil
}

// prepareDecisions makes sure that markers of a last resource can be written.
func (r *Resource) prepareDecisions(ctx context.Context) error {
	switch {
	case r.options.NoMarker:
		return errLastMarker
	case r.decisionsReady.Load():
		return nil
	}
	if err := r.prepareMarker(ctx); err != nil {
		return err
	}
	err := r.onServer(ctx, func(c *sql.Conn, s server) error {
		// #nosec G202 -- tableIn quotes
		_, err := readAt(ctx, c, sql.LevelReadCommitted, "SELECT decision FROM "+tableIn(s)+" WHERE FALSE")
		if !isCode(err, codeNoSuchColumn) {
			return err
		}
		// Another session may have been faster.
		if _, err = c.ExecContext(ctx, addDecisions(s)); err != nil && !isCode(err, codeColumnExists) {
			return markerOld(addDecisions(s), err)
		}
		return nil
	})
	if err == nil {
		r.decisionsReady.Store(true)
	}
	return err
}

// CommitLast implements adapters.Last.
func (s *session) CommitLast(ctx context.Context, m txn.LastMarker) error {
	operation := fmt.Sprintf("commit %s at %s as the last resource", s.xid, s.r.name)
	if err := s.endWork(ctx, false); err != nil {
		return fmt.Errorf("%s: %w", operation, err)
	}
	err := s.failure(ctx)
	if err == nil {
		s.link.counted = false
		if err = s.commitLast(ctx, m); err == nil {
			return nil
		}
		if !errors.Is(err, errNotSent) && !refused(err) {
			_ = s.abort(ctx) // the session must not stay in the way of who settles it
			return fmt.Errorf("%s: the answer is lost: %w", operation, err)
		}
		err = advise(err)
	}
	err = s.gaveUp(err, s.abort(ctx))
	if errors.Is(err, adapters.ErrTorn) || s.phaseNow() != ended {
		return fmt.Errorf("%s: %w", operation, err)
	}
	return fmt.Errorf("%s: %w: %w", operation, adapters.ErrNotCommitted, err)
}

func (s *session) commitLast(ctx context.Context, m txn.LastMarker) error {
	if err := s.open(ctx, sqltext.Kind{Steady: true}); err != nil { // it may have done nothing
		return fmt.Errorf("%w: %w", errNotSent, err)
	}
	err := s.guarded(ctx, insertDecision(s.link.table, txn.LastXID(s.xid.Cluster, s.xid.ID), s.link.holder, m.Text()),
		"XA END "+s.name)
	s.r.markerDoubted(err)
	switch {
	case isCode(err, codeDuplicateKey):
		return fmt.Errorf("%w: %w", errNotSent, adapters.ErrSettled)
	case err != nil:
		return fmt.Errorf("%w: write the marker: %w", errNotSent, err)
	}
	if err := s.link.exec(ctx, "XA COMMIT "+s.name+" ONE PHASE"); err != nil {
		return err
	}
	s.end()
	return nil
}

// Settle implements adapters.Settler.
func (r *Resource) Settle(ctx context.Context, id txn.ClusterID, gid txn.ID) (m txn.LastMarker, err error) {
	if err = r.prepareDecisions(ctx); err == nil {
		err = r.onServer(ctx, func(c *sql.Conn, s server) error {
			if err := r.notBehind(ctx, c, s); err != nil {
				return err
			}
			x := txn.LastXID(id, gid)
			m, err = adapters.SettleMarker(
				func(text string) (bool, error) { return insertAbort(ctx, c, s, x, text) },
				func() (string, bool, error) { return readDecision(ctx, c, s, x) })
			return err
		})
	}
	r.markerDoubted(err)
	if err != nil {
		return m, fmt.Errorf("settle %s at %s: %w", gid, r.name, advise(err))
	}
	return m, nil
}

// insertAbort is a transaction of its own: connections of the recovery half commit by themselves.
func insertAbort(ctx context.Context, c *sql.Conn, s server, x txn.XID, text string) (bool, error) {
	_, err := c.ExecContext(ctx, insertDecision(tableIn(s), x, "", text))
	switch {
	case isCode(err, codeDuplicateKey):
		return false, nil
	case isCode(err, codeLockWaitTimeout):
		return false, adapters.ErrLastHeld
	}
	return err == nil, err
}

func readDecision(ctx context.Context, c *sql.Conn, s server, x txn.XID) (string, bool, error) {
	rows, err := readAt(ctx, c, sql.LevelReadCommitted,
		fmt.Sprintf("SELECT COALESCE(decision, '') FROM %s WHERE %s", tableIn(s), markerOf(x)))
	if err != nil || len(rows) == 0 {
		return "", false, err
	}
	return rows[0][0], true, nil
}
