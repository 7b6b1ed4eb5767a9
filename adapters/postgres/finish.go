// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/internal/mutant"
	"github.com/concordtx/concord/txn"
)

// Commit implements adapters.Resource.
func (r *Resource) Commit(ctx context.Context, x txn.XID, b txn.Branch) (txn.Finish, error) {
	return r.finish(ctx, x, b, txn.Commit)
}

// Rollback implements adapters.Resource.
func (r *Resource) Rollback(ctx context.Context, x txn.XID, b txn.Branch) (txn.Finish, error) {
	return r.finish(ctx, x, b, txn.Abort)
}

func (r *Resource) finish(ctx context.Context, x txn.XID, b txn.Branch, d txn.Decision) (found txn.Finish, err error) {
	err = r.with(ctx, func(conn *pgx.Conn) (err error) {
		if err = r.notBehind(ctx, conn); err == nil {
			found, err = finishOn(ctx, conn, x, b, d)
		}
		return err
	})
	if err != nil {
		return 0, r.explain(finishing, d.String()+" "+x.String(), err)
	}
	return found, nil
}

// FinishAll implements adapters.Batching. The list of what is prepared, which is long when there is much to end, is
// asked for once.
func (r *Resource) FinishAll(ctx context.Context, all []adapters.Decided) ([]txn.Finish, error) {
	found := make([]txn.Finish, len(all))
	err := r.with(ctx, func(conn *pgx.Conn) error {
		err := r.notBehind(ctx, conn)
		var listed map[txn.XID]sight
		if err == nil {
			listed, err = lookAll(ctx, conn, all)
		}
		if err != nil {
			return err
		}
		byOwner := map[string][]int{}
		for i, b := range all {
			if is, ok := listed[b.XID]; ok {
				byOwner[is.owner] = append(byOwner[is.owner], i)
			}
		}
		for owner, some := range byOwner {
			if err := endListed(ctx, conn, owner, all, some, listed, found); err != nil {
				return err
			}
		}
		return nil
	})
	return found, r.explain(finishing, "finish branches", err)
}

// endListed ends branches that one role has prepared, as that role.
func endListed(ctx context.Context, conn *pgx.Conn, owner string, all []adapters.Decided, some []int,
	listed map[txn.XID]sight, found []txn.Finish) error {
	if is := listed[all[some[0]].XID]; owner != is.me {
		if _, err := run(ctx, conn.PgConn(), roleText(owner)); err != nil {
			if refused(err) {
				return nil // whoever tries one of them says so
			}
			return err
		}
		defer restoreRole(ctx, conn, is.role)
	}
	texts := make([]string, len(some))
	for i, at := range some {
		texts[i] = finishNamed(listed[all[at].XID].String(), all[at].Decision)
	}
	tags, err := runEach(ctx, conn.PgConn(), texts)
	for i, tag := range tags {
		if tag == finishTag(all[some[i]].Decision) {
			found[some[i]] = txn.Done
		}
	}
	return err
}

func finishOn(ctx context.Context, conn *pgx.Conn, x txn.XID, b txn.Branch, d txn.Decision) (txn.Finish, error) {
	err := endPrepared(ctx, conn, x, d)
	if sqlState(err) != codeUndefinedObject {
		return txn.Done, err
	}
	if mutant.NotFoundIsDone {
		return txn.AlreadyDone, nil
	}
	what, err := statusOfBranch(ctx, conn, x, b)
	if err != nil {
		return 0, err
	}
	if d == txn.Commit {
		return committedAs(what)
	}
	return abortAgain(ctx, conn, x, b, what)
}

// committedAs answers a commit that did not find the branch.
func committedAs(what status) (txn.Finish, error) {
	switch what {
	case committed:
		return txn.AlreadyDone, nil
	case aborted:
		return txn.Contradicted, nil
	case inProgress:
		return 0, errors.New("the branch is not listed and its transaction is still running: try again")
	}
	return txn.Lost, nil
}

// abortAgain answers a rollback that did not find the branch: it may not be prepared
// yet. A transaction number that is not running any more settles it. Without one the
// session decides: while it lives, PREPARE may still be on its way.
func abortAgain(ctx context.Context, conn *pgx.Conn, x txn.XID, b txn.Branch, what status) (txn.Finish, error) {
	mayAppear := what == inProgress || b.Evidence == ""
	switch {
	case what == committed:
		return txn.Contradicted, nil
	case !mayAppear || b.Holder == "":
		if what == inProgress {
			return 0, errors.New("the branch is not listed, its transaction is still running and its session is not " +
				"known: try again")
		}
		return txn.AlreadyDone, nil
	}
	h, err := parseHolder(b.Holder)
	if err != nil {
		return 0, err
	}
	e, _ := parseEvidence(b.Evidence) // statusOfBranch has read it
	switch ended, err := fence(ctx, conn, h, proof{x: x, number: e.number}); {
	case err != nil:
		return 0, err
	case !ended && what == inProgress:
		return 0, errors.New("the branch is not listed, its transaction is still running and it is not that of the " +
			"session which is said to hold it: try again")
	}
	err = endPrepared(ctx, conn, x, txn.Abort)
	if sqlState(err) == codeUndefinedObject {
		return txn.AlreadyDone, nil
	}
	return txn.Done, err
}

// endOwn ends a session that this process had opened itself, and the branch, should it be
// prepared. nil says that nothing of it is left.
func (r *Resource) endOwn(ctx context.Context, x txn.XID, h holder) error {
	if h.pid == 0 {
		return errors.New("the connection broke, and behind a pooler its session cannot be identified; the orphan " +
			"scan will look for the branch")
	}
	err := r.with(ctx, func(conn *pgx.Conn) error {
		if _, err := fence(ctx, conn, h, proof{own: true}); err != nil {
			return err
		}
		if err := endPrepared(ctx, conn, x, txn.Abort); sqlState(err) != codeUndefinedObject {
			return err
		}
		return nil
	})
	if err == nil {
		return nil
	}
	if step := nextStep(finishing, err); step != "" {
		return fmt.Errorf("%w; %s", err, step)
	}
	return err
}

// endPrepared ends the branch as the role that prepared it, which only a superuser need
// not be. The listing may be empty, as on a standby: the answer to the statement itself
// is what counts.
func endPrepared(ctx context.Context, conn *pgx.Conn, x txn.XID, d txn.Decision) error {
	is, err := look(ctx, conn, x)
	if err != nil {
		return err
	}
	if is.owner != is.me {
		if _, err := run(ctx, conn.PgConn(), roleText(is.owner)); err != nil {
			return fmt.Errorf("become the role %q that prepared it: %w", is.owner, err)
		}
		defer restoreRole(ctx, conn, is.role)
	}
	tag, err := run(ctx, conn.PgConn(), finishNamed(is.nameFor(x), d))
	if err == nil && tag != finishTag(d) {
		err = fmt.Errorf("PostgreSQL answered %q", tag)
	}
	return err
}

// sight is a branch in the list of what is prepared. If it is not there only the name is known.
type sight struct {
	name
	owner, me, role string
}

// nameFor is the name under which the branch is prepared, or would be.
func (s sight) nameFor(x txn.XID) string {
	s.XID = x
	return s.String()
}

func look(ctx context.Context, conn *pgx.Conn, x txn.XID) (found sight, err error) {
	rows, err := conn.Query(ctx, lookText(x), pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		return sight{}, err
	}
	err = eachSight(rows, func(is sight) {
		if is.XID == x {
			found = is
		}
	})
	return found, err
}

// lookAll is look for many branches; those that are not listed are missing.
func lookAll(ctx context.Context, conn *pgx.Conn, all []adapters.Decided) (map[txn.XID]sight, error) {
	names := make([]string, len(all))
	for i, b := range all {
		names[i] = b.XID.String()
	}
	rows, err := conn.Query(ctx, lookAllText, pgx.QueryExecModeExec, names)
	if err != nil {
		return nil, err
	}
	found := make(map[txn.XID]sight, len(all))
	err = eachSight(rows, func(is sight) { found[is.XID] = is })
	return found, err
}

// eachSight reads the answer to lookText or lookAllText.
func eachSight(rows pgx.Rows, do func(sight)) error {
	defer rows.Close()
	for rows.Next() {
		var listed string
		var owner *string // null if the role is gone
		var is sight
		if err := rows.Scan(&listed, &owner, &is.me, &is.role); err != nil {
			return err
		}
		var ours bool
		if is.name, ours = parseName(listed); !ours {
			continue
		}
		is.owner = is.me
		if owner != nil {
			is.owner = *owner
		}
		do(is)
	}
	return rows.Err()
}

// restoreRole must work before anybody else gets the connection; where it does not, the
// connection is closed.
func restoreRole(ctx context.Context, conn *pgx.Conn, role string) {
	if conn.IsClosed() {
		return
	}
	ctx, cancel := grace(ctx)
	defer cancel()
	if _, err := run(ctx, conn.PgConn(), roleText(role)); err != nil {
		_ = conn.Close(ctx)
	}
}

// status is what the server says about a transaction number.
type status uint8

const (
	unproven status = iota // it may not or cannot say
	inProgress
	committed
	aborted
)

// statusOfBranch tells what became of a branch that is not listed. Who looked for it in vain before
// sees the marker of one that has committed: the server lets go of the name after that.
func statusOfBranch(ctx context.Context, conn *pgx.Conn, x txn.XID, b txn.Branch) (status, error) {
	var e evidence
	if b.Evidence != "" {
		var err error
		if e, err = parseEvidence(b.Evidence); err != nil {
			return unproven, err
		}
	}
	if there, err := marked(ctx, conn, x); err != nil || there {
		return committed, err
	}
	if b.Evidence == "" {
		return unproven, nil
	}
	what, err := statusOf(ctx, conn, e)
	if what == committed && e.marker {
		what = unproven // it is the number of another transaction, or somebody has removed the marker
	}
	return what, err
}

func statusOf(ctx context.Context, conn *pgx.Conn, e evidence) (status, error) {
	var text *string
	err := conn.QueryRow(ctx, statusText, pgx.QueryExecModeExec, e.system, e.timeline, e.number).Scan(&text)
	if sqlState(err) == codeInvalidValue { // a number that this server has not given out yet
		return unproven, nil
	}
	if err != nil || text == nil {
		return unproven, err
	}
	switch *text {
	case "committed":
		return committed, nil
	case "aborted":
		return aborted, nil
	case "in progress":
		return inProgress, nil
	}
	return unproven, fmt.Errorf("pg_xact_status answered %q", *text)
}

// proof is why a session may be ended. Anybody can write down the process of somebody
// else's session, so a name alone is none: the server must see it at work on the branch.
type proof struct {
	own    bool // this process opened the session itself
	x      txn.XID
	number string // of the transaction, if the branch has evidence
}

// fence ends the session that may still be preparing, and reports whether it is gone when
// it returns. One that is not proven to hold the branch is left alone.
func fence(ctx context.Context, conn *pgx.Conn, h holder, p proof) (bool, error) {
	var gone *bool
	var seen bool
	err := conn.QueryRow(ctx, fenceText, pgx.QueryExecModeExec, int32(h.pid), h.start, p.own,
		strings.TrimSuffix(prepareText(p.x), "'"), p.number).Scan(&gone, &seen)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return true, nil
	case err != nil:
		return false, fmt.Errorf("end the session of the branch: %w", err)
	case !seen:
		return false, fmt.Errorf("process %d may be the session of the branch, but this login may not see it: GRANT "+
			"pg_read_all_stats and pg_signal_backend, or the role that prepared, to it", h.pid)
	case gone == nil:
		return false, nil
	case !*gone:
		return false, fmt.Errorf("the session of the branch (process %d) was told to end and is still there: try again",
			h.pid)
	}
	return true, nil
}
