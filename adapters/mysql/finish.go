// SPDX-License-Identifier: Apache-2.0

package mysql

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

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
		f := r.finisher(c, s, adapters.Decided{XID: x, Branch: b, Decision: d})
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

func (r *Resource) finisher(c *sql.Conn, s server, b adapters.Decided) *finisher {
	f := &finisher{r: r, conn: c, server: s, xid: b.XID, decision: b.Decision,
		evident: b.Branch.Evidence == markerEvidence && !r.options.NoMarker}
	f.claimed, _ = parseHolder(b.Branch.Holder)
	return f
}

// FinishAll implements adapters.Batching.
func (r *Resource) FinishAll(ctx context.Context, all []adapters.Decided) ([]txn.Finish, error) {
	found := make([]txn.Finish, len(all))
	if r.options.NoMarker {
		return found, nil
	}
	ctx, cancel := context.WithTimeout(ctx, finishTime)
	defer cancel()
	err := r.onKnownServer(ctx, func(c *sql.Conn, s server) error {
		if err := r.notBehind(ctx, c, s); err != nil {
			return err
		}
		w := wave{r: r, conn: c, server: s, xids: make([]txn.XID, len(all))}
		for i, b := range all {
			w.xids[i] = b.XID
			w.branches = append(w.branches, r.finisher(c, s, b))
		}
		return w.run(ctx, found)
	})
	if err != nil {
		return found, fmt.Errorf("finish branches at %s: %w", r.name, advise(err))
	}
	return found, nil
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
		if f.there() {
			return true, found, writer, nil
		}
	}
	if listed, err = f.listed(ctx, true); err != nil {
		return false, absent, holder{}, err
	}
	found, writer, err = f.marker(ctx)
	return listed, found, writer, err
}

// there reports whether a marker that was seen, and is that of a branch that has not ended, is enough.
func (f *finisher) there() bool {
	return f.written && !f.unnamed() && (f.decision == txn.Abort || f.r.listed.has(f.xid))
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

// ending is the statement that ends a branch.
func (f *finisher) ending() string {
	verb := "XA ROLLBACK "
	if f.decision == txn.Commit {
		verb = "XA COMMIT "
	}
	return verb + xaTagged(f.xid, f.tag)
}

// end finishes a branch that is listed.
func (f *finisher) end(ctx context.Context) (txn.Finish, error) {
	_, err := f.conn.ExecContext(ctx, f.ending())
	return f.ended(ctx, err)
}

// ended says what came of the branch, to whose XA COMMIT or XA ROLLBACK the server has answered.
func (f *finisher) ended(ctx context.Context, err error) (txn.Finish, error) {
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

// wave ends many branches together: those whose markers are written and not committed, and whose sessions are gone.
type wave struct {
	r        *Resource
	conn     *sql.Conn
	server   server
	xids     []txn.XID
	branches []*finisher // in the same order
}

// run leaves out what one has to look into, or to wait for.
func (w *wave) run(ctx context.Context, found []txn.Finish) error {
	seen, err := w.r.markers(ctx, w.conn, w.server, w.xids)
	if err != nil {
		return err
	}
	var some []int
	for i, f := range w.branches {
		m := seen[keyOf(f.xid)]
		f.holder, f.written = m.holder, m.found == pending
		if f.there() && f.holder != (holder{}) {
			some = append(some, i)
		}
	}
	if some, err = w.fence(ctx, some); err != nil || len(some) == 0 {
		return err
	}
	texts := make([]string, len(some))
	for n, i := range some {
		texts[n] = w.branches[i].ending()
	}
	answers := eachOn(ctx, w.conn, texts)
	if seen, err = w.r.markers(ctx, w.conn, w.server, w.xids); err != nil {
		return err
	}
	for n, i := range some {
		f, is := w.branches[i], seen[keyOf(w.xids[i])].found
		switch _, answered := codeOf(answers[n].err); {
		case answers[n].err != nil && !answered:
			return answers[n].err
		case answers[n].err == nil && is != pending && (is == committed) == (f.decision == txn.Commit):
			found[i] = txn.Done // what it had written is committed, or gone
		default:
			found[i], _ = f.ended(ctx, answers[n].err) // whoever tries that one alone says what is wrong
		}
	}
	return nil
}

// fence ends sessions that hold branches, waits until they have let go of them, and returns the branches without
// those whose sessions are still there.
func (w *wave) fence(ctx context.Context, some []int) ([]int, error) {
	var held []int
	var texts []string
	for _, i := range some {
		f := w.branches[i]
		if f.mustFence(true) && f.holder.of(w.server) && !w.r.gone.knows(f.holder) {
			held, texts = append(held, i), append(texts, f.holder.kill())
		}
	}
	there := map[int]bool{}
	if len(held) > 0 {
		for n, a := range eachOn(ctx, w.conn, texts) {
			if there[held[n]] = !isCode(a.err, codeUnknownThread); !there[held[n]] {
				w.r.gone.note(w.branches[held[n]].holder, time.Now())
			}
		}
	}
	some = slices.DeleteFunc(some, func(i int) bool { return there[i] })
	now := time.Now()
	for _, i := range some {
		f := w.branches[i]
		if !f.mustFence(true) || !f.holder.of(w.server) {
			continue
		}
		// One that was forgotten by now may have gone this moment.
		if since := w.r.gone.knownSince(f.holder); since.IsZero() || now.Sub(since) < detachTime {
			return some, f.pause(ctx, now)
		}
	}
	return some, nil
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
