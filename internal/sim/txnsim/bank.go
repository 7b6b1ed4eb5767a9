// SPDX-License-Identifier: Apache-2.0

package txnsim

import (
	"cmp"
	"slices"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/internal/sim"
	"github.com/concordtx/concord/txn"
)

// state is where a branch stands at its database.
type state int

const (
	absent state = iota
	active
	prepared
	committed
	rolledBack
	lost // it was there, and a failover or an old backup took it
)

func (s state) final() bool { return s >= committed }

// mover is who changed the state of a branch.
type mover int

const (
	ours  mover = iota // a session or a worker of the product, or the end of a session
	hands              // a DBA
	fate               // a failover, or an old backup
)

// family says which server a bank imitates.
type family int

const (
	// postgres: a prepared branch needs no session, and the number of its transaction
	// proves what became of it, on the same timeline.
	postgres family = iota
	// mariadb: as long as the session that prepared a branch is connected, others that want
	// to finish it hear that it does not exist, though it is listed. A finish that comes
	// right after the end of that session may be answered OK and lost. A marker row that
	// is part of the branch proves that it committed.
	mariadb
	// mysql detaches a branch from its session when it is prepared, and has the marker.
	mysql
)

// bank is a virtual database with the quirks that were measured on real ones.
type bank struct {
	name     string
	family   family
	noMarker bool
	down     bool
	// timeline tells the lives of a PostgreSQL apart, before and after a failover.
	timeline int
	branches map[branchKey]*branch
	open     []*branch // that may be active or prepared, in order of their creation
	all      []*branch
	locks    map[int]*branch // by row
	backup   map[*branch]state
	// row is how far the log had come, as the bank has it; saved is that of the backup.
	row, saved txn.HighWater
	restored   bool        // to a backup with an earlier row, and nobody has accepted that yet
	accepted   sim.Instant // when somebody last has; zero: never
	lives      int         // how often other files took the place of these
	foreign    []txn.XID
	w          *world
}

type branchKey struct {
	id txn.ID
	no txn.BranchNo
}

// branch is one branch at its bank.
type branch struct {
	bank   *bank
	ghost  *ghost
	no     txn.BranchNo
	state  state
	row    int // it locks this row from its first statement to its end
	locked bool
	failed bool   // a statement failed: PREPARE will answer ROLLBACK, without an error
	work   uint64 // what the transaction did; zero is nothing
	voted  uint64 // the work that was there when it was prepared
	// session is connected: the one that works on the branch, or has prepared it.
	session    bool
	detachedAt sim.Instant // when it ended
	hidden     bool        // prepared, and the server shows it to nobody until it is restarted
	timeline   int         // of the bank when it was prepared
	forgotten  bool        // its marker was removed
	visibleAt  sim.Instant // when a commit that was answered can be seen by others
	applied    int         // how often its work took effect
	part       *part       // of the service that has opened it; nil: a client has
	doubled    bool        // a call was done twice in it
	stolen     bool        // it has work of somebody whom nobody asked
	watch
}

func newBank(w *world, name string, f family) *bank {
	return &bank{name: name, family: f, w: w, branches: map[branchKey]*branch{}, locks: map[int]*branch{}}
}

// add begins a branch on a session of its own.
func (b *bank) add(br *branch) {
	br.bank, br.state, br.session, br.timeline = b, active, true, b.timeline
	b.branches[branchKey{br.ghost.id, br.no}] = br
	b.open = append(b.open, br)
	b.all = append(b.all, br)
	br.ghost.branches = append(br.ghost.branches, br)
	if b.down {
		br.closeSession()
	}
}

func (b *branch) xid() txn.XID {
	return txn.XID{Cluster: b.bank.w.formed, ID: b.ghost.id, Branch: b.no}
}

// lock reports whether the branch has its row, or needs none.
func (b *branch) lock() bool {
	if b.bank.w.quirks.Rows == 0 || b.locked || b.state != active {
		return true
	}
	if b.bank.locks[b.row] != nil {
		return false
	}
	b.bank.locks[b.row], b.locked = b, true
	return true
}

// set moves a branch and lets the checker look at it.
func (b *branch) set(s state, by mover) {
	before := b.state
	b.state = s
	switch {
	case s.final():
		b.session, b.hidden = false, false
		if b.locked {
			delete(b.bank.locks, b.row)
			b.locked = false
		}
		if s == committed {
			b.applied++
		}
	case before.final(): // it came back
		b.applied = 0
		b.bank.open = append(b.bank.open, b)
		b.locked = b.bank.w.quirks.Rows > 0 && b.bank.locks[b.row] == nil
		if b.locked {
			b.bank.locks[b.row] = b
		}
	}
	b.bank.w.check.moved(b, before, by)
}

// prepare is what the database answers: the tag of the statement. It is true only for
// "prepared"; "rolled back" is not an error.
func (b *branch) prepare() (tagPrepared bool) {
	switch {
	case b.bank.down || b.state != active:
		return false
	case b.failed:
		b.bank.w.hit(StatementFailed)
		b.set(rolledBack, ours)
		return false
	}
	b.voted, b.timeline = b.work, b.bank.timeline
	if b.bank.family == mysql {
		b.session = false
	}
	b.set(prepared, ours)
	return true
}

// commitAlone is a plain COMMIT. It is true only if the answer is that it is done.
func (b *branch) commitAlone() bool {
	switch {
	case b.bank.down || b.state != active:
		return false
	case b.failed:
		b.bank.w.hit(StatementFailed)
		b.set(rolledBack, ours)
		return false
	}
	b.voted = b.work
	b.set(committed, ours)
	return true
}

// prepareAgain is a PREPARE that is executed on a new session after the work was lost:
// some servers prepare an empty branch.
func (b *branch) prepareAgain() (tagPrepared bool) {
	if b.bank.down || b.bank.family == postgres || !b.state.final() {
		return b.prepare()
	}
	b.work, b.voted, b.failed = 0, 0, false
	b.set(prepared, ours)
	return true
}

// answer is what a server says to the statement that ends a prepared branch.
type answer int

const (
	okay        answer = iota
	notFound           // 42704, XAER_NOTA
	unreachable        // the connection is refused
)

// end is COMMIT PREPARED, XA COMMIT and the like; own says that it comes from the session
// that works on the branch.
func (b *branch) end(d txn.Decision, own bool) answer {
	want := committed
	if d == txn.Abort {
		want = rolledBack
	}
	w := b.bank.w
	switch {
	case b.bank.down:
		return unreachable
	case b.state == active && own && d == txn.Abort:
		b.set(rolledBack, ours)
		return okay
	case b.state != prepared || b.hidden:
		return notFound
	case b.bank.family == mariadb && b.session && !own:
		w.hit(HeldByItsSession)
		return notFound
	case b.bank.family == mariadb && !own && w.Now-b.detachedAt < detaching && w.odds(w.quirks.LateDetach):
		w.hit(BranchHidden)
		b.hidden = true
		return okay
	}
	b.set(want, ours)
	if w.quirks.SlowCommit {
		b.visibleAt = w.Now + w.roll(20*sim.Millisecond)
	}
	return okay
}

// detaching is how long a MariaDB takes to let go of the branches of a session that ended.
const detaching = 200 * sim.Millisecond

// proof is what a server can prove about a branch that it does not list.
type proof int

const (
	unproven proof = iota
	inProgress
	provesCommit
	provesAbort // PostgreSQL only
)

func (b *branch) proof() proof {
	xa := b.bank.family != postgres
	switch {
	case xa && b.bank.noMarker, !xa && b.timeline != b.bank.timeline, b.state == lost:
		return unproven
	case b.state == prepared || b.state == active, b.bank.w.Now < b.visibleAt:
		return inProgress
	case b.state == committed && !(xa && b.forgotten):
		return provesCommit
	case b.state == rolledBack && !xa:
		return provesAbort
	}
	return unproven
}

func (b *branch) listed() bool { return b.state == prepared && !b.hidden }

// closeSession is the end of a session: what it had not prepared is rolled back.
func (b *branch) closeSession() {
	if !b.session {
		return
	}
	b.session, b.detachedAt = false, b.bank.w.Now
	if b.state == active {
		b.set(rolledBack, ours)
	}
}

// marked reports whether the branch has a marker that others see.
func (b *branch) marked() bool {
	return b.state == committed && !b.forgotten && !b.bank.noMarker && b.bank.family != postgres
}

// evidence is a page of the markers.
func (b *bank) evidence(after txn.XID) []txn.XID {
	var kept []txn.XID
	for _, br := range b.all {
		if br.marked() {
			br.showsMarker()
			kept = append(kept, br.xid())
		}
	}
	kept = append(kept, b.foreign...)
	order := func(x, y txn.XID) int { return cmp.Or(cmp.Compare(x.Cluster, y.Cluster), x.Compare(y)) }
	kept = slices.DeleteFunc(kept, func(x txn.XID) bool { return order(x, after) <= 0 })
	slices.SortFunc(kept, order)
	return kept[:min(len(kept), adapters.EvidencePage)]
}

// list is what the bank shows as prepared.
func (b *bank) list() []adapters.Prepared {
	b.open = slices.DeleteFunc(b.open, func(br *branch) bool { return br.state.final() })
	var out []adapters.Prepared
	for _, br := range b.open {
		if br.listed() {
			p := adapters.Prepared{XID: br.xid()}
			if br.ghost.last != nil {
				p.Last = txn.TagOf(vaultName)
			}
			out = append(out, p)
		}
	}
	for _, x := range b.foreign {
		out = append(out, adapters.Prepared{XID: x})
	}
	return out
}

// endSessions is what a restart does. It shows again what the server had hidden.
func (b *bank) endSessions() {
	for _, br := range slices.Clone(b.open) {
		br.closeSession()
		br.hidden = false
		br.detachedAt = -detaching
	}
}

// restart takes the bank away for a while.
func (b *bank) restart(d sim.Instant) {
	if b.down {
		return
	}
	b.endSessions()
	b.down = true
	b.w.hit(DatabaseDown)
	b.w.After(d, func() { b.down = false })
}

// failover takes the bank to a standby that is a little behind: a prepared branch is
// gone, or one that was finished is prepared again.
func (b *bank) failover() {
	if len(b.all) == 0 {
		return
	}
	b.endSessions()
	b.timeline++
	recent := b.all[max(0, len(b.all)-20):]
	br := recent[b.w.pick(len(recent))]
	switch br.state {
	case prepared:
		if b.w.odds(0.5) {
			br.set(lost, fate)
		}
	case committed, rolledBack:
		if br.voted != 0 && !br.ghost.alone {
			br.set(prepared, fate)
		}
	}
}

// save makes a backup.
func (b *bank) save() {
	b.backup, b.saved = map[*branch]state{}, b.row
	for _, br := range b.all {
		b.backup[br] = br.state
	}
}

// restore puts the backup in the place of the bank.
func (b *bank) restore() {
	if b.backup == nil {
		return
	}
	b.endSessions()
	b.timeline++
	b.lives++
	b.restored = b.restored || b.saved.Less(b.row)
	b.row = b.saved
	b.w.hit(BackupRestored)
	for _, br := range b.all {
		was, there := b.backup[br]
		switch {
		case there && was == prepared && br.state != prepared:
			br.set(prepared, fate)
		case was.final() && br.state != was:
			br.set(was, fate)
		case was < prepared && (br.state == prepared || br.state == committed):
			br.set(lost, fate)
		}
	}
}

// byHand is a DBA who ends a prepared branch, and may take its evidence along.
func (b *bank) byHand() {
	b.list()
	candidates := slices.DeleteFunc(slices.Clone(b.open), func(br *branch) bool {
		return !br.listed() || b.family == mariadb && br.session
	})
	if b.down || len(candidates) == 0 {
		return
	}
	br := candidates[b.w.pick(len(candidates))]
	br.forgotten = b.w.odds(0.3)
	if b.w.odds(0.5) {
		br.endByHand(committed)
	} else {
		br.endByHand(rolledBack)
	}
}

// meddle is a DBA who has looked at the same list as the cluster a moment ago: he commits
// what is to be rolled back, or kills a session that holds a branch.
func (b *bank) meddle() {
	w := b.w
	if w.Healed || w.quirks.DBA == 0 && w.quirks.LateDetach == 0 {
		return
	}
	for _, br := range b.open {
		if !br.listed() || br.ghost.decision != txn.Abort {
			continue
		}
		w.After(w.roll(20*sim.Millisecond), func() {
			switch {
			case !br.listed() || b.down:
			case br.session && w.quirks.LateDetach > 0:
				br.closeSession()
			case !br.session && w.quirks.DBA > 0 && w.odds(0.5):
				br.endByHand(committed)
			}
		})
	}
}

func (b *branch) endByHand(s state) {
	if b.ghost.decision == txn.Undecided {
		b.bank.w.hit(DBABeforeDecision)
	} else {
		b.bank.w.hit(DBAAfterDecision)
	}
	b.set(s, hands)
}
