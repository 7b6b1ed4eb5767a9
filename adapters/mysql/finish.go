// SPDX-License-Identifier: Apache-2.0

package mysql

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/internal/mutant"
	"github.com/concordtx/concord/txn"
)

// Commit finishes a prepared branch that was decided to commit.
func (r *Resource) Commit(ctx context.Context, x txn.XID, b txn.Branch) (txn.Finish, error) {
	return r.finish(ctx, x, b, txn.Commit)
}

// Rollback finishes a branch that was decided to abort. It ends the session that works for
// it, if its marker proves which one that is.
func (r *Resource) Rollback(ctx context.Context, x txn.XID, b txn.Branch) (txn.Finish, error) {
	return r.finish(ctx, x, b, txn.Abort)
}

func (r *Resource) finish(ctx context.Context, x txn.XID, b txn.Branch, d txn.Decision) (answer txn.Finish, err error) {
	ctx, cancel := context.WithTimeout(ctx, finishTime)
	defer cancel()
	err = r.onKnownServer(ctx, func(c *sql.Conn, s server) (err error) {
		f := finisher{r: r, conn: c, server: s, xid: x, decision: d,
			evident: b.Evidence == markerEvidence && !r.options.NoMarker}
		f.claimed, _ = parseHolder(b.Holder)
		if err = r.notBehind(ctx, c, s); err == nil {
			answer, err = f.run(ctx)
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("%s %s at %s: %w", d, x, r.name, advise(err))
	}
	return answer, nil
}

// finisher ends one branch for the recovery half, or learns from the evidence what
// became of it.
type finisher struct {
	r        *Resource
	conn     *sql.Conn
	server   server
	xid      txn.XID
	decision txn.Decision
	evident  bool        // the branch left a marker
	written  bool        // its marker was seen, and was not committed
	own      bool        // the session of the branch asks, and holder is itself
	holder   holder      // that holds the branch for certain; zero if nothing proves it
	claimed  holder      // that somebody says to hold it; zero if nobody does
	tag      txn.LastTag // in the name under which it is listed
}

var (
	errHeld = errors.New("its session is alive or about to end, and nothing says which one it is: wait until the " +
		"server ends it, or find it in the process list and KILL it; then try again")
	errAlive = errors.New("a session that is said to hold it is alive, but nothing proves that it does, so it is " +
		"left alone: wait until it ends, or see what it is doing and KILL it; then try again")
	errHidden = errors.New("its marker is written but not committed, and XA RECOVER does not list it: either " +
		"another session is finishing it now, or the server hides it until it is restarted; try again")
	errStillListed = errors.New("the server said that it was finished, but lists it again: try again")
)

func (f *finisher) run(ctx context.Context) (txn.Finish, error) {
	listed, found, writer, err := f.look(ctx)
	if err != nil {
		return 0, err
	}
	if !f.own { // the branch itself wrote who works for it; what a record says may be made up
		f.holder = writer
	}
	// The list came first: what had left it then has its marker committed, or pending for
	// as long as its commit takes.
	if found == committed && !listed {
		return f.already(committed), nil
	}
	switch {
	case f.mustFence(listed):
		listed, err = f.fence(ctx)
	case listed && f.holder == (holder{}):
		listed, err = f.await(ctx)
	}
	if err != nil {
		return 0, err
	}
	if listed {
		return f.end(ctx)
	}
	if found, _, err = f.marker(ctx); err != nil {
		return 0, err
	}
	if found == pending {
		return 0, errHidden
	}
	return f.already(found), nil
}

// look reports whether the branch is there, and what its marker shows. A marker that is written and not committed
// is that of a branch that has not ended. To abort that is enough, and to commit it is if any list has ever shown
// the branch as prepared: so the list, which is long when thousands of branches are, is not asked for each.
func (f *finisher) look(ctx context.Context) (listed bool, found trace, writer holder, err error) {
	if !f.own {
		if found, writer, err = f.marker(ctx); err != nil {
			return false, absent, holder{}, err
		}
		f.written = found == pending
		if f.written && !f.unnamed() && (f.decision == txn.Abort || f.r.listed.has(f.xid)) {
			return true, found, writer, nil
		}
	}
	if listed, err = f.listed(ctx, true); err != nil {
		return false, absent, holder{}, err
	}
	found, writer, err = f.marker(ctx)
	return listed, found, writer, err
}

// unnamed reports whether only the list of what is prepared tells the whole name of the branch: it has the tag of a
// last resource.
func (f *finisher) unnamed() bool { return f.xid.ID.Class() == txn.LastResource && f.tag == 0 }

// mustFence reports whether the session that holds the branch has to go first. For an
// abort always: it may be about to prepare. For a commit only if the branch hangs on it.
func (f *finisher) mustFence(listed bool) bool {
	if f.holder == (holder{}) {
		return false
	}
	return f.decision == txn.Abort || listed && !f.holder.detaches
}

// fence ends the holder, waits until it has let go of the branch, and reports whether
// the branch is listed then.
func (f *finisher) fence(ctx context.Context) (listed bool, err error) {
	// If that life of the server is over, its sessions are over with it.
	if f.holder.of(f.server) {
		if err := f.holder.end(ctx, f.conn, f.server); err != nil {
			return false, err
		}
	}
	if listed = f.written && !f.unnamed(); !listed { // else whoever ends it now hears whether it was prepared
		listed, _, _, err = f.look(ctx)
	}
	if err != nil || !listed || !f.holder.of(f.server) {
		return listed, err
	}
	return true, f.letGo(ctx, f.holder)
}

// await returns when a session of which nothing proves that it holds the branch cannot hold
// it, and reports whether the branch is still listed then. It does not wait for a session
// that is alive.
func (f *finisher) await(ctx context.Context) (listed bool, err error) {
	if !f.claimed.of(f.server) || f.claimed.detaches && f.server.detaches {
		return true, nil
	}
	alive, err := f.claimed.alive(ctx, f.conn, f.server)
	if err != nil {
		return false, err
	}
	if alive {
		return false, errAlive
	}
	if err := f.letGo(ctx, f.claimed); err != nil {
		return false, err
	}
	return f.listed(ctx, true)
}

// end finishes a branch that is listed.
func (f *finisher) end(ctx context.Context) (txn.Finish, error) {
	verb := "XA ROLLBACK "
	if f.decision == txn.Commit {
		verb = "XA COMMIT "
	}
	_, err := f.conn.ExecContext(ctx, verb+xaTagged(f.xid, f.tag))
	switch {
	case err == nil:
		return f.verify(ctx)
	case isCode(err, codeRolledBack, codeRolledBackTimeout, codeRolledBackDeadlock):
		if f.decision == txn.Abort {
			return f.verify(ctx)
		}
		if f.evident {
			return txn.Contradicted, nil // it wrote, at least its marker, and the server rolled it back
		}
		return txn.Lost, nil // MariaDB says so of a branch that wrote nothing, too
	case !isCode(err, codeNotA):
		return 0, err
	}
	listed, err := f.listed(ctx, false)
	if err != nil {
		return 0, err
	}
	if listed {
		return 0, errHeld
	}
	found, _, err := f.marker(ctx)
	if err != nil {
		return 0, err
	}
	if found == pending {
		return 0, errHidden
	}
	return f.already(found), nil
}

// verify looks whether what the server said has happened.
func (f *finisher) verify(ctx context.Context) (txn.Finish, error) {
	found, _, err := f.marker(ctx)
	switch {
	case err != nil:
		return 0, err
	case found == pending:
		return 0, errHidden
	case f.written && (found == committed) == (f.decision == txn.Commit):
		return txn.Done, nil // what it had written is committed, or gone
	}
	listed, err := f.listed(ctx, false)
	if err != nil {
		return 0, err
	}
	if listed {
		return 0, errStillListed
	}
	found, _, err = f.marker(ctx)
	switch {
	case err != nil:
		return 0, err
	case found == pending:
		return 0, errHidden
	case f.decision == txn.Abort && found == committed:
		return txn.Contradicted, nil // somebody else committed it
	case f.decision == txn.Commit && f.evident && found == absent:
		return txn.Lost, nil
	}
	return txn.Done, nil
}

// already is the answer for a branch that has ended, or never was.
func (f *finisher) already(found trace) txn.Finish {
	switch {
	case f.decision == txn.Commit && found == committed, mutant.NotFoundIsDone:
		return txn.AlreadyDone
	case f.decision == txn.Commit:
		return txn.Lost
	case found == committed:
		return txn.Contradicted
	}
	return txn.AlreadyDone
}

// listed reports whether the branch is prepared. The user of an application may not be allowed
// to ask; for its own branch, whose session has ended, presumed says what it goes on with.
func (f *finisher) listed(ctx context.Context, presumed bool) (bool, error) {
	list, _, err := recoverList(ctx, sqlRows(f.conn))
	if f.own && isCode(err, codeRMError) {
		return presumed, nil
	}
	if err == nil && !f.own {
		f.r.listed.set(list)
	}
	i := slices.IndexFunc(list, func(p adapters.Prepared) bool { return p.XID == f.xid })
	if i >= 0 {
		f.tag = list[i].Last
	}
	return i >= 0, err
}

func (f *finisher) marker(ctx context.Context) (trace, holder, error) {
	return f.r.marker(ctx, f.conn, f.server, f.xid)
}

// Recover lists the prepared branches that are ours, of every cluster. The servers say
// neither since when nor by whom they are prepared.
func (r *Resource) Recover(ctx context.Context) ([]adapters.Prepared, error) {
	c, err := r.db.Conn(ctx)
	if err != nil {
		return nil, fmt.Errorf("recover %s: %w", r.name, advise(err))
	}
	defer c.Close()
	list, _, err := recoverList(ctx, sqlRows(c))
	if err != nil {
		return nil, fmt.Errorf("recover %s: %w", r.name, advise(err))
	}
	r.listed.set(list)
	return list, nil
}

// lastList is what was prepared when somebody last looked.
type lastList struct {
	mu   sync.Mutex
	xids map[txn.XID]bool
}

func (l *lastList) set(list []adapters.Prepared) {
	xids := make(map[txn.XID]bool, len(list))
	for _, p := range list {
		xids[p.XID] = true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.xids = xids
}

func (l *lastList) has(x txn.XID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.xids[x]
}
