// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/internal/faultproxy"
	"github.com/concordtx/concord/internal/testdb"
	"github.com/concordtx/concord/txn"
)

// errNotHere says that a fault cannot be made on this machine.
var errNotHere = errors.New("not possible here")

// hand is a global transaction of which somebody takes the steps one by one, and may stop anywhere.
type hand struct {
	cluster  txn.ClusterID
	id       txn.ID
	opened   []adapters.Opener
	sessions []adapters.Session // by branch number
	branches []txn.Branch       // once prepared
}

// Enlist opens one branch per resource.
func (h *hand) Enlist(ctx context.Context, r adapters.Opener) (adapters.Session, error) {
	for i, o := range h.opened {
		if o == r {
			return h.sessions[i], nil
		}
	}
	s, err := r.Open(ctx, h.xid(len(h.sessions)))
	if err != nil {
		return nil, err
	}
	h.opened, h.sessions = append(h.opened, r), append(h.sessions, s)
	return s, nil
}

func (h *hand) xid(no int) txn.XID {
	return txn.XID{Cluster: h.cluster, ID: h.id, Branch: txn.BranchNo(no)}
}

// prepare writes its gid at some places and prepares all branches.
func (h *hand) prepare(ctx context.Context, at ...place) error {
	var all []txn.BranchNo
	for i, p := range at {
		if err := p.exec(ctx, h, "INSERT INTO hand VALUES (?)", h.id.String()); err != nil {
			return err
		}
		all = append(all, txn.BranchNo(i))
	}
	for i, s := range h.sessions {
		s.(adapters.Counted).Siblings(all)
		vote, branch, err := s.Prepare(ctx)
		if err != nil || vote != txn.VoteYes {
			return fmt.Errorf("branch %d votes %v: %w", i, vote, err)
		}
		branch.No, branch.Resource = txn.BranchNo(i), h.opened[i].Name()
		h.branches = append(h.branches, branch)
	}
	return nil
}

// directly are the SQL databases past all links.
func (w *world) directly(name string) (place, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if p := w.hands[name]; p != nil {
		return p, nil
	}
	open := openMySQL
	if name == orders {
		open = openPostgres
	}
	d := w.dbs[name]
	p, err := open(name, d.server.DSN(d.dbName()))
	if err == nil {
		w.hands[name] = p
	}
	return p, err
}

// administrator ends a branch behind the cluster's back, before or after the decision, as it is decided or against
// it. What contradicts has to be reported, as what it is.
func administrator(w *world, r *rand.Rand, _ time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	i := r.IntN(3)
	mine, other := w.dbs[sqlNames[i]], w.dbs[sqlNames[(i+1)%3]]
	before, decision, act := r.IntN(2) == 0, txn.Decision(txn.Commit), txn.Decision(txn.Commit)
	if r.IntN(2) == 0 {
		decision = txn.Abort
	}
	if r.IntN(2) == 0 {
		act = txn.Abort
	}
	w.say("administrator: %s, before the decision %v, decision %v, act %v", mine.name, before, decision, act)
	h := &hand{cluster: w.id, id: txn.NewID(time.Now())}
	var at []place
	for _, d := range []*database{mine, other} {
		p, err := w.directly(d.name)
		if err != nil {
			return err
		}
		at = append(at, p)
	}
	if err := h.prepare(ctx, at...); err != nil {
		w.say("administrator: the transaction is not prepared: %v", err)
		return errNotHere // sessions of the pool did not outlive a server; the cluster ends what there is
	}
	caller := w.caller()
	defer caller.Close()
	// What was never seen of a branch nobody can miss.
	if err := until(ctx, "both branches are listed", func() bool {
		x, err := caller.Get(ctx, &concordv1.GetRequest{Gid: h.id.String()})
		return err == nil && len(x.GetTransaction().GetBranches()) == 2
	}); err != nil {
		return err
	}
	if before {
		if err := w.endByHand(ctx, mine, h.xid(0), act); err != nil {
			return w.tooLate(err)
		}
	} else {
		setBoth(mine.nodes, hole)
		defer mine.nodes.Heal()
	}
	if err := w.decide(ctx, caller, h, decision); err != nil {
		return err
	}
	if !before {
		if err := w.endByHand(ctx, mine, h.xid(0), act); err != nil {
			return w.tooLate(err)
		}
		mine.nodes.Heal()
	}
	state, want := map[txn.Decision]string{txn.Commit: "committed", txn.Abort: "aborted"}[decision], ""
	switch {
	case act == decision:
	case decision == txn.Abort:
		state, want = "heuristic", "heuristic-commit"
	case mine.name == orders:
		state, want = "heuristic", "heuristic-rollback"
	default:
		state, want = "heuristic", "heuristic-hazard" // these servers do not remember a rollback
	}
	if want != "" {
		w.mu.Lock()
		w.injected[h.id.String()+"/0"] = want
		w.mu.Unlock()
	}
	if err := until(ctx, "the transaction is "+state, func() bool {
		x, err := caller.Get(ctx, &concordv1.GetRequest{Gid: h.id.String()})
		return err == nil && x.GetTransaction().GetState() == state
	}); err != nil {
		return fmt.Errorf("%v: %w", h.id, err)
	}
	for d, v := range map[*database]txn.Decision{mine: act, other: decision} {
		there := len(w.texts(d, "SELECT gid FROM hand WHERE gid = '"+h.id.String()+"'")) == 1
		if there != (v == txn.Commit) {
			return fmt.Errorf("AC1: %v should be %v at %s", h.id, v, d.name)
		}
	}
	return nil
}

// tooLate is for an administrator who finds that the branch has ended already: the machine was so slow that the
// cluster took its client for dead, or what ends it was on its way before the line was cut.
func (w *world) tooLate(err error) error {
	w.say("administrator: the branch has ended already: %v", err)
	return errNotHere
}

func setBoth(l *faultproxy.Link, f faultproxy.Fault) {
	l.Set(faultproxy.Forward, f)
	l.Set(faultproxy.Backward, f)
}

// until polls a condition that must come true.
func until(ctx context.Context, what string, condition func() bool) error {
	for !condition() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("not within %v: %s", patience, what)
		case <-time.After(50 * time.Millisecond):
		}
	}
	return nil
}

// decide has a transaction decided: by the request of its client, or by an operator.
func (w *world) decide(ctx context.Context, caller *api.Client, h *hand, d txn.Decision) error {
	if d == txn.Abort {
		_, err := caller.Resolve(ctx, &concordv1.ResolveRequest{Gid: h.id.String(), Decision: "abort", Who: "chaos",
			Reason: "to see what happens"})
		return err
	}
	res, err := caller.Commit(ctx, api.CommitRequest(txn.CommitRequest{ID: h.id, Cluster: h.cluster,
		Branches: h.branches}))
	if err == nil && res.GetDecision() != "commit" {
		err = fmt.Errorf("%v: the decision is %s: %s", h.id, res.GetDecision(), res.GetReason())
	}
	return err
}

// endByHand commits or rolls back a prepared branch as docs/operations.md says: on MariaDB the session that holds
// it goes first.
func (w *world) endByHand(ctx context.Context, d *database, x txn.XID, decision txn.Decision) error {
	verb := map[txn.Decision]string{txn.Commit: "COMMIT", txn.Abort: "ROLLBACK"}[decision]
	if d.name == orders {
		return d.server.Exec(ctx, d.dbName(), verb+" PREPARED '"+x.String()+"'")
	}
	if d.server.Flavor() == testdb.FlavorMariaDB {
		c, err := d.admin.Conn(ctx)
		if err != nil {
			return err
		}
		defer c.Close()
		if _, err := c.ExecContext(ctx, "SET SESSION TRANSACTION ISOLATION LEVEL READ UNCOMMITTED"); err != nil {
			return err
		}
		var holder string
		if err := c.QueryRowContext(ctx, "SELECT SUBSTRING_INDEX(holder, '@', 1) FROM concord_branch WHERE gid = '"+
			x.ID.String()+"' AND branch = "+strconv.Itoa(int(x.Branch))).Scan(&holder); err != nil {
			return err
		}
		if _, err := c.ExecContext(ctx, "KILL "+holder); err != nil {
			return err
		}
		if _, err := c.ExecContext(ctx, "DO SLEEP(1.5)"); err != nil {
			return err
		}
	}
	_, err := d.admin.ExecContext(ctx, fmt.Sprintf("XA %s '%s','%s',%d", verb, x.Gtrid(), x.Bqual(), txn.FormatID))
	return err
}

// preparedFull takes every place for prepared transactions that PostgreSQL has, and gives them back.
func preparedFull(w *world, r *rand.Rand, d time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	db := w.dbs[orders]
	filler := fmt.Sprintf("filler %x ", r.Uint32())
	full := false
	for i := 0; i < 300 && !full; i++ {
		err := db.server.Exec(ctx, db.dbName(), "BEGIN", fmt.Sprintf("PREPARE TRANSACTION '%s%d'", filler, i))
		if full = err != nil; full && !strings.Contains(err.Error(), "maximum number of prepared transactions") {
			w.say("no more prepared transactions: %v", err)
		}
	}
	last(d)
	for _, name := range w.texts(db, "SELECT gid FROM pg_prepared_xacts") {
		if strings.HasPrefix(name, filler) {
			if err := db.server.Exec(ctx, db.dbName(), "ROLLBACK PREPARED '"+name+"'"); err != nil {
				return err
			}
		}
	}
	return nil
}

// overload asks for many decisions at once. Everybody gets a word: a decision, or that nobody decided.
func overload(w *world, _ *rand.Rand, _ time.Duration) error {
	caller, err := api.Dial([]string{w.nodes[0].api, w.nodes[1].api, w.nodes[2].api},
		api.ClientOptions{Patience: 10 * time.Second})
	if err != nil {
		return err
	}
	defer caller.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var group sync.WaitGroup
	var mu sync.Mutex
	var silent error
	done := 0
	for range 1500 {
		group.Go(func() {
			_, err := caller.Commit(ctx, api.CommitRequest(txn.CommitRequest{ID: txn.NewID(time.Now()), Cluster: w.id,
				Label: strings.Repeat("x", txn.MaxLabel)}))
			mu.Lock()
			defer mu.Unlock()
			if done++; err != nil && !errors.Is(err, txn.ErrUnavailable) && !errors.Is(err, txn.ErrBusy) {
				silent = err
			}
		})
	}
	group.Wait()
	if silent != nil {
		return fmt.Errorf("of 1500 at once one was told neither a decision nor that there is none: %w", silent)
	}
	return nil
}
