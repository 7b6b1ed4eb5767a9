// SPDX-License-Identifier: Apache-2.0

package commit

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

// lone is the core of a cluster of one node, driven by hand: its disk writes at once, and its
// clock, workers and databases are the test. What it hands to the workers piles up.
type lone struct {
	t        *testing.T
	config   replica.Config
	machine  Config
	log      *replica.Core
	core     *Machine
	table    *txn.Table
	disk     *loneDisk
	now      time.Time
	request  uint64
	replies  map[uint64]Reply
	tasks    []Task
	scans    []string
	evidence []EvidenceAsk
	waits    []WaitsAsk
	forgets  map[string][]txn.XID
	raises   map[string]Spent // that raise a row, by resource, the last of each
	notes    []string
	letters  []Letter
	finished map[txn.ID]txn.Txn
	keys     map[string]txn.KeyUse
}

// loneDisk is the log of one node.
type loneDisk struct {
	hard    zab.HardState
	entries []zab.Entry
}

func (d *loneDisk) Initial() (hard zab.HardState, base, last, applied zab.Zxid) {
	if len(d.entries) > 0 {
		last = d.entries[len(d.entries)-1].Zxid
	}
	return d.hard, zab.Zxid{}, last, zab.Zxid{}
}

func (d *loneDisk) Floor(z zab.Zxid) (floor zab.Zxid, ok bool) {
	for _, e := range d.entries {
		if !z.Less(e.Zxid) {
			floor = e.Zxid
		}
	}
	return floor, true
}

func (d *loneDisk) Entries(after, upto zab.Zxid, _ int) (list []zab.Entry, err error) {
	for _, e := range d.entries {
		if after.Less(e.Zxid) && !upto.Less(e.Zxid) {
			list = append(list, e)
		}
	}
	return list, nil
}

// newLone returns a leader that is ready.
func newLone(t *testing.T, resources ...string) *lone {
	l := &lone{t: t, disk: &loneDisk{}, now: time.UnixMilli(1_800_000_000_000),
		config: replica.Config{Node: 1, Members: []replica.Member{{ID: 1}}, NewCluster: 7},
		machine: Config{Resources: resources,
			Rules: Rules{MaxTransaction: time.Minute, Grace: time.Second, Scan: time.Hour}}}
	l.restart()
	return l
}

// restart makes the core again from its log, and lets it lead.
func (l *lone) restart() {
	l.t.Helper()
	l.config.Boot++
	l.replies, l.forgets, l.finished, l.keys = map[uint64]Reply{}, map[string][]txn.XID{}, map[txn.ID]txn.Txn{},
		map[string]txn.KeyUse{}
	l.tasks, l.scans, l.evidence, l.waits, l.raises = nil, nil, nil, nil, map[string]Spent{}
	l.table = txn.NewTable(txn.Meta{}, nil, l)
	l.core = New(l.machine, l.table)
	log, err := replica.New(l.config, l.disk, l.core)
	require.NoError(l.t, err)
	l.log = log
	for range 100 {
		l.tick(50 * time.Millisecond)
		if log.Leading() && l.table.Cluster() != 0 {
			return
		}
	}
	l.t.Fatal("it does not lead")
}

// Keep implements txn.Archive.
func (l *lone) Keep(c txn.Changes) {
	for _, x := range c.Open {
		delete(l.finished, x.ID)
	}
	for _, x := range c.Finished {
		l.finished[x.ID] = x
	}
	for _, u := range c.Keys {
		l.keys[u.Key] = u
	}
}

// Finished implements txn.Archive.
func (l *lone) Finished(id txn.ID) (txn.Txn, bool) { x, ok := l.finished[id]; return x, ok }

// KeyUse implements txn.Archive.
func (l *lone) KeyUse(key string) (txn.KeyUse, bool) { u, ok := l.keys[key]; return u, ok }

// step is one turn, and those that follow from its writes.
func (l *lone) step(events ...replica.Event) {
	l.t.Helper()
	for len(events) > 0 {
		fx, err := l.log.Step(events...)
		require.NoError(l.t, err)
		out := l.core.Take()
		events = nil
		for _, w := range fx.Write {
			if w.Hard != nil {
				l.disk.hard = *w.Hard
			}
			l.disk.entries = append(l.disk.entries, w.Entries...)
			events = append(events, replica.Peer{Event: zab.Persisted{Write: w.ID}})
		}
		for _, r := range fx.Reply {
			l.replies[r.Request] = Reply{Request: r.Request, Err: r.Err, Zxid: r.Zxid}
		}
		for _, r := range out.Reply {
			l.replies[r.Request] = r
		}
		l.letters = append(l.letters, out.Send...)
		l.tasks = append(l.tasks, out.Finish...)
		l.scans = append(l.scans, out.Scan...)
		l.evidence = append(l.evidence, out.Evidence...)
		l.waits = append(l.waits, out.Waits...)
		for name, s := range out.Forget {
			l.forgets[name] = append(l.forgets[name], s.XIDs...)
			if !s.To.IsZero() {
				l.raises[name] = s
			}
		}
		for _, n := range fx.Notes {
			l.notes = append(l.notes, n.Text)
		}
	}
}

func (l *lone) tick(d time.Duration) {
	l.t.Helper()
	l.now = l.now.Add(d)
	l.step(replica.Tick{Now: l.now})
}

// ask puts a question and returns its answer.
func (l *lone) ask(event func(request uint64) replica.Event) Reply {
	l.t.Helper()
	l.request++
	l.step(event(l.request))
	r, answered := l.replies[l.request]
	require.True(l.t, answered)
	return r
}

func (l *lone) commit(id txn.ID, branches ...txn.Branch) Reply {
	l.t.Helper()
	return l.ask(func(request uint64) replica.Event {
		return CommitAsked{Request: request, CommitRequest: txn.CommitRequest{ID: id, Branches: branches}}
	})
}

// take returns what was handed to the workers since the last call.
func (l *lone) take() []Task {
	tasks := l.tasks
	l.tasks = nil
	return tasks
}

func (l *lone) xid(id txn.ID, no txn.BranchNo) txn.XID {
	return txn.XID{Cluster: l.table.Cluster(), ID: id, Branch: no}
}

func (l *lone) newID() txn.ID { return txn.NewID(l.now) }

func (l *lone) get(id txn.ID) txn.Txn {
	l.t.Helper()
	x, ok := l.table.Get(id)
	require.True(l.t, ok)
	return x
}

// prepared is one row of a listing.
func prepared(x txn.XID) adapters.Prepared { return adapters.Prepared{XID: x} }

// A resource may have any name. One that was called as the client in a report was taken for
// it: what its workers finished was never taken back from them, and 64 branches later they
// got no more.
func TestAResourceMayHaveTheNameOfAnythingElse(t *testing.T) {
	for _, name := range []string{"client", "operator", "cluster", "leader", "recovery", "orphan", "resolved by"} {
		l := newLone(t, name)
		ended := 0
		for range 3 * MaxTasks {
			id := l.newID()
			require.Equal(t, txn.Commit, l.commit(id, txn.Branch{Resource: name}).Txn.Decision)
			l.tick(2 * time.Second) // more than the grace period
			for _, task := range l.take() {
				l.step(Finished{XID: task.XID, Finish: txn.Done, By: txn.FromCluster, Who: name})
				ended++
			}
		}
		require.Equal(t, 3*MaxTasks, ended, name)
		// An orphan of it is rolled back, and a contradiction of an abort is reported.
		id := l.newID()
		for range 3 {
			l.step(Listed{Resource: name, Listing: []adapters.Prepared{prepared(l.xid(id, 0))}})
			l.tick(2 * time.Minute)
		}
		rollback := l.take()
		require.Len(t, rollback, 1, name)
		require.Equal(t, txn.Abort, rollback[0].Decision)
		l.step(Finished{XID: rollback[0].XID, Finish: txn.Contradicted, By: txn.FromCluster, Who: name, Why: "by hand"})
		l.tick(time.Second)
		require.Equal(t, []txn.Heuristic{{Outcome: txn.HeuristicCommit, By: txn.FromCluster, Who: name,
			Why: "by hand"}}, l.get(id).Heuristics)
	}
}

// A decision is an operator's because the record says so, whatever its text says, or does not.
func TestWhoDecidedIsNotReadFromTheReason(t *testing.T) {
	l := newLone(t, "orders")
	client := l.newID()
	l.commit(client, txn.Branch{Resource: "orders"})
	require.Equal(t, txn.FromClient, l.get(client).By)
	require.Empty(t, l.take(), "its client has the time to finish it")

	operator := l.newID()
	l.step(Listed{Resource: "orders", Listing: []adapters.Prepared{prepared(l.xid(operator, 0))}})
	r := l.ask(func(request uint64) replica.Event {
		return ResolveAsked{Request: request,
			Resolution: txn.Resolution{ID: operator, Decision: txn.Commit, Who: "ann", Resources: []string{"orders"}},
			Census:     Census{Prepared: []txn.Branch{{Resource: "orders"}}}}
	})
	require.Equal(t, txn.Commit, r.Txn.Decision)
	require.Equal(t, txn.FromOperator, l.get(operator).By)
	l.tick(sweepInterval)
	require.Equal(t, []Task{{XID: l.xid(operator, 0), Branch: txn.Branch{Resource: "orders"}, Decision: txn.Commit}},
		l.take(),
		"nobody else would finish it")
}

// Evidence that no session of the adapter wrote can never be checked: its branch would stay in
// doubt for ever. It is refused by a decision before it is in the log.
func TestABranchThatNobodyCouldFinishIsAnAbort(t *testing.T) {
	l := newLone(t, "orders")
	l.core.config.Validate = func(b txn.Branch) error {
		if b.Evidence == "poison" {
			return errors.New("evidence: it is not in a form that this version writes")
		}
		return nil
	}
	id := l.newID()
	r := l.commit(id, txn.Branch{No: 3, Resource: "orders", Evidence: "poison"})
	require.Equal(t, txn.Abort, r.Txn.Decision)
	require.Equal(t, `branch 3: resource "orders": evidence: it is not in a form that this version writes`,
		r.Txn.Reason)
	require.Empty(t, l.get(id).Branches)
	require.Equal(t, txn.Abort, l.commit(id, txn.Branch{No: 3, Resource: "orders"}).Txn.Decision,
		"the first decision wins")
	require.Equal(t, txn.Commit, l.commit(l.newID(), txn.Branch{Resource: "orders"}).Txn.Decision)
}

// work answers what is with the workers: those of bad fail, others end.
func (l *lone) work(bad map[txn.ID]bool) (done []txn.ID) {
	l.t.Helper()
	for _, task := range l.take() {
		if bad[task.XID.ID] {
			l.step(Failed{XID: task.XID, Why: "nobody can finish it"})
			continue
		}
		l.step(Finished{XID: task.XID, Finish: txn.Done, By: txn.FromCluster, Who: task.Branch.Resource})
		done = append(done, task.XID.ID)
	}
	return done
}

// Thousands of branches that fail again and again, all older than the others, kept a new one
// waiting for a minute.
func TestWhatNobodyCanFinishDelaysNobody(t *testing.T) {
	l := newLone(t, "orders")
	bad := map[txn.ID]bool{}
	for range 4000 {
		id := l.newID()
		bad[id] = true
		l.commit(id, txn.Branch{Resource: "orders"})
	}
	for range 2 * 60 * int(time.Second/(250*time.Millisecond)) { // until all have failed some times
		l.tick(250 * time.Millisecond)
		l.work(bad)
	}
	for range 20 {
		id := l.newID()
		l.commit(id, txn.Branch{Resource: "orders"})
		for range int(l.machine.Rules.Grace/sweepInterval) - 1 {
			l.tick(sweepInterval)
			require.NotContains(t, l.work(bad), id, "its client has the time to finish it")
		}
		var done []txn.ID
		for range 2 {
			l.tick(sweepInterval)
			done = append(done, l.work(bad)...)
		}
		require.Contains(t, done, id)
	}
	// One that failed once is before all that failed more often, too.
	id := l.newID()
	l.commit(id, txn.Branch{Resource: "orders"})
	bad[id] = true
	for turns := 0; l.core.live[id].working(0) && l.core.live[id].branch(0).attempts == 0; turns++ {
		require.Less(t, turns, 100)
		l.tick(sweepInterval)
		l.work(bad)
	}
	delete(bad, id)
	var done []txn.ID
	for range int(retryMin/sweepInterval) + 1 {
		l.tick(sweepInterval)
		done = append(done, l.work(bad)...)
	}
	require.Contains(t, done, id)
}

// However many have to wait, new ones find room, and each of the others gets its turn.
func TestRetriesLeaveRoomForFirstAttempts(t *testing.T) {
	l := newLone(t, "orders")
	var ids []txn.ID
	for range MaxTasks {
		id := l.newID()
		ids = append(ids, id)
		l.commit(id, txn.Branch{Resource: "orders"})
	}
	l.tick(2 * time.Second)
	for _, task := range l.take() {
		l.step(Failed{XID: task.XID, Why: "refused"})
	}
	l.tick(2 * time.Second)
	again := l.take()
	require.Len(t, again, MaxRetries)
	require.True(t, again[0].Again)
	for range 2 * MaxTasks { // while all of those hang
		l.commit(l.newID(), txn.Branch{Resource: "orders"})
	}
	l.tick(2 * time.Second)
	l.tick(sweepInterval) // they are more than a turn looks through
	require.Len(t, l.take(), MaxTasks)
	turns := map[txn.ID]int{}
	for len(again) > 0 {
		for _, task := range again {
			turns[task.XID.ID]++
			l.step(Failed{XID: task.XID, Why: "refused"})
		}
		l.tick(50 * time.Millisecond)
		again = l.take()
	}
	require.Len(t, turns, len(ids))
}

func TestBackoffEndsWhenTheDatabaseReturns(t *testing.T) {
	for name, away := range map[string]func(l *lone, gone bool){
		"as a scan finds": func(l *lone, gone bool) {
			e := Listed{Resource: "orders"}
			if gone {
				e.Err = errors.New("connection refused")
			}
			l.step(e)
		},
		"as a probe finds": func(l *lone, gone bool) { l.step(Fitness{Resource: "orders", Fit: true, Down: gone}) },
	} {
		t.Run(name, func(t *testing.T) {
			l := newLone(t, "orders", "billing")
			id, other := l.newID(), l.newID()
			l.commit(id, txn.Branch{Resource: "orders"})
			l.commit(other, txn.Branch{Resource: "billing"})
			bad := map[txn.ID]bool{id: true, other: true}
			away(l, true)
			for l.core.live[other].branch(0).due.Sub(l.now) < 20*time.Second {
				l.tick(time.Second)
				l.work(bad)
			}
			due := l.core.live[other].branch(0).due
			away(l, false)
			l.tick(50 * time.Millisecond)
			tasks := l.take()
			require.Len(t, tasks, 1, "and that of the other database waits")
			require.Equal(t, id, tasks[0].XID.ID)
			require.Equal(t, due, l.core.live[other].branch(0).due)
		})
	}
}

// An attempt that was under way when the database returned says nothing, and is made anew.
func TestAnInterruptedAttemptIsMadeAnewAtOnce(t *testing.T) {
	l := newLone(t, "orders")
	id := l.newID()
	l.commit(id, txn.Branch{Resource: "orders"})
	l.tick(2 * time.Second)
	require.Len(t, l.take(), 1)
	l.step(Failed{XID: l.xid(id, 0), Interrupted: true, Why: "it answers again"})
	l.tick(sweepInterval)
	require.Equal(t, []Task{{XID: l.xid(id, 0), Branch: txn.Branch{Resource: "orders"}, Decision: txn.Commit}},
		l.take())
}

// A listed branch of an aborted transaction that cannot be rolled back is tried less and less
// often, shows why, and takes no place from others.
func TestAListedBranchThatFailsIsTriedLessOftenAndSaysWhy(t *testing.T) {
	l := newLone(t, "orders")
	var listing []adapters.Prepared
	for range 2 * MaxTasks {
		id := l.newID()
		l.ask(func(request uint64) replica.Event {
			return OutcomeAsked{Request: request, Inquiry: txn.Inquiry{ID: id}}
		})
		listing = append(listing, prepared(l.xid(id, 0)))
	}
	attempts := 0
	for range 24 { // two minutes of scans
		l.step(Listed{Resource: "orders", Listing: listing})
		for range 20 {
			l.tick(250 * time.Millisecond)
			for _, task := range l.take() {
				attempts++
				l.step(Failed{XID: task.XID, Why: "permission denied"})
			}
		}
	}
	require.GreaterOrEqual(t, attempts, 4*len(listing))
	require.LessOrEqual(t, attempts, 9*len(listing), "the scan tries no more often than the backoff says")
	x := listing[0].XID
	r := l.ask(func(request uint64) replica.Event { return ViewAsked{Request: request, ID: x.ID} })
	require.Equal(t, ListedBranch{Resource: "orders", Decision: txn.Abort, Err: "permission denied",
		Tried: r.View.InDoubt[x].Tried}, r.View.InDoubt[x])
	require.GreaterOrEqual(t, r.View.InDoubt[x].Attempts, 4)
	require.WithinRange(t, r.View.InDoubt[x].Failed, l.now.Add(-retryMax), l.now)

	id := l.newID()
	l.step(Listed{Resource: "orders", Listing: []adapters.Prepared{prepared(l.xid(id, 0))}},
		Listed{Resource: "orders", Err: errors.New("connection refused")})
	r = l.ask(func(request uint64) replica.Event { return ViewAsked{Request: request, ID: id} })
	require.Equal(t, "connection refused", r.View.InDoubt[l.xid(id, 0)].Err,
		"an undecided one says why it cannot be asked for")
}

func settle(id txn.ID, no txn.BranchNo) func(request uint64) replica.Event {
	return func(request uint64) replica.Event {
		return SettleAsked{Request: request, ID: id, Branch: no, Who: "ann", Why: "poison"}
	}
}

func TestABranchThatNobodyCanFinishIsGivenUpByAnOperator(t *testing.T) {
	l := newLone(t, "orders", "billing")
	id := l.newID()
	branches := []txn.Branch{{No: 1, Resource: "orders"}, {No: 2, Resource: "billing"}}
	require.Equal(t, txn.Commit, l.commit(id, branches...).Txn.Decision)
	l.tick(2 * time.Second)
	for _, task := range l.take() {
		if task.XID.Branch == 2 {
			l.step(Finished{XID: task.XID, Finish: txn.Done, By: txn.FromCluster, Who: "billing"})
		} else {
			l.step(Failed{XID: task.XID, Why: "nobody can finish it"})
		}
	}
	require.ErrorIs(t, l.ask(settle(id, 2)).Err, txn.ErrRefused, "it is finished")
	require.ErrorIs(t, l.ask(settle(id, 3)).Err, txn.ErrNotFound)
	require.NoError(t, l.ask(settle(id, 1)).Err)
	want := []txn.Heuristic{{Branch: 1, Outcome: txn.HeuristicHazard, By: txn.FromOperator, Who: "ann", Why: "poison"}}
	require.Equal(t, want, l.get(id).Heuristics)
	require.Equal(t, txn.HeuristicHazard, l.get(id).Outcome())
	require.ErrorIs(t, l.ask(settle(id, 1)).Err, txn.ErrRefused, "it is on record")
	for range 300 {
		l.tick(time.Second)
	}
	require.Empty(t, l.take(), "nobody works on it")
	require.True(t, l.get(id).Ended)
	// Also at a later leader, and when its branch turns up again.
	l.restart()
	l.step(Listed{Resource: "orders", Listing: []adapters.Prepared{prepared(l.xid(id, 1))}})
	for range 300 {
		l.tick(time.Second)
	}
	require.Empty(t, l.take())
	require.Contains(t, l.core.ScanState("orders").Report[0], "ann has given it up (poison)")
	r := l.ask(func(request uint64) replica.Event {
		return ForgetAsked{Request: request, ID: id, Who: "ann", Why: "dealt with"}
	})
	require.NoError(t, r.Err)
	require.True(t, l.get(id).Finished())
}

func TestOnlyADecidedBranchIsGivenUp(t *testing.T) {
	l := newLone(t, "orders")
	id := l.newID()
	require.ErrorIs(t, l.ask(settle(id, 0)).Err, txn.ErrNotFound)
	l.step(Listed{Resource: "orders", Listing: []adapters.Prepared{prepared(l.xid(id, 0))}})
	r := l.ask(settle(id, 0))
	require.ErrorIs(t, r.Err, txn.ErrRefused)
	require.ErrorContains(t, r.Err, "concord tx resolve")
	l.ask(func(request uint64) replica.Event {
		return ResolveAsked{Request: request,
			Resolution: txn.Resolution{ID: id, Decision: txn.Abort, Who: "ann", Why: "orphan"}}
	})
	l.tick(sweepInterval)
	require.NoError(t, l.ask(settle(id, 0)).Err, "its rollback may be what cannot be done")
	require.Equal(t, txn.HeuristicHazard, l.get(id).Outcome())
}

// A report that an earlier leader proposed and this one delivers ends the work on its branch.
func TestABranchOfWhichTheLogHasAReportIsNotWorkedOn(t *testing.T) {
	l := newLone(t, "orders", "billing")
	id := l.newID()
	l.commit(id, txn.Branch{No: 1, Resource: "orders"}, txn.Branch{No: 2, Resource: "billing"})
	l.ask(settle(id, 1))
	l.restart()
	l.tick(2 * time.Second)
	tasks := l.take()
	require.Len(t, tasks, 1)
	require.EqualValues(t, 2, tasks[0].XID.Branch)
}

// Which clock is right nobody knows, so one that is ahead, of any node, is as good as that of the
// leader: else a leader whose clock is behind would stop all work.
func TestAGidIsComparedWithTheClockThatIsAhead(t *testing.T) {
	l := newLone(t, "orders")
	ahead := txn.NewID(l.now.Add(maxAhead + time.Minute))
	require.ErrorIs(t, l.commit(ahead).Err, txn.ErrInvalid)
	_, known := l.table.Get(ahead)
	require.False(t, known)
	require.Equal(t, txn.Commit, l.commit(txn.NewID(l.now.Add(maxAhead-time.Minute))).Txn.Decision)
	l.step(replica.Tick{Now: l.now, Peers: l.now.Add(2 * time.Minute)})
	require.Equal(t, txn.Commit, l.commit(ahead).Txn.Decision)
}

// A branch of a transaction from tomorrow holds locks today, so it is aborted in the log when it
// was listed for long enough, and its record does not count for how far the log has come. One
// from the year 10889 is reported, and leaves no record.
func TestAnOrphanFromTheFutureIsAbortedOrReported(t *testing.T) {
	l := newLone(t, "orders")
	today, tomorrow, never := l.newID(), txn.NewID(l.now.Add(23*time.Hour)),
		txn.NewID(time.Date(10889, 1, 1, 0, 0, 0, 0, time.UTC))
	l.commit(today)
	for range 3 {
		l.step(Listed{Resource: "orders",
			Listing: []adapters.Prepared{prepared(l.xid(tomorrow, 0)), prepared(l.xid(never, 0))}})
		l.tick(2 * time.Minute)
	}
	require.Equal(t, txn.Abort, l.get(tomorrow).Decision)
	require.Equal(t, txn.FromCluster, l.get(tomorrow).By)
	l.step(Listed{Resource: "orders", Listing: []adapters.Prepared{prepared(l.xid(tomorrow, 0)),
		prepared(l.xid(never, 0))}})
	require.Len(t, l.take(), 1)
	_, known := l.table.Get(never)
	require.False(t, known)
	require.Contains(t, l.core.ScanState("orders").Report[0], "dated 10889")
	require.Equal(t, today, l.core.youngest)
	for _, ask := range []func(request uint64) replica.Event{
		func(request uint64) replica.Event {
			return OutcomeAsked{Request: request, Inquiry: txn.Inquiry{ID: never}}
		},
		func(request uint64) replica.Event {
			return CommitAsked{Request: request,
				CommitRequest: txn.CommitRequest{ID: never, Branches: []txn.Branch{{Resource: "orders"}}}}
		},
	} {
		require.ErrorIs(t, l.ask(ask).Err, txn.ErrInvalid)
	}
}
