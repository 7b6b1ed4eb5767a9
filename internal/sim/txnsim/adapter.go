// SPDX-License-Identifier: Apache-2.0

package txnsim

import (
	"errors"

	"github.com/concordtx/concord/internal/sim"
	"github.com/concordtx/concord/txn"
)

// attempt is one call of an adapter: it ends a branch, or concludes from what the server
// shows what became of it, as adapters/postgres and adapters/mysql do.
type attempt struct {
	b       *branch
	d       txn.Decision
	own     bool // by the session that prepared it
	holder  bool // the record names the session that prepared it
	evident bool // the record says that there is evidence
	life    int  // of the bank, when the connection was made
	done    func(txn.Finish, error)
}

var (
	errConnection = errors.New("connection refused")
	errHeld       = errors.New("its session is alive, and nobody knows which one it is")
	errHidden     = errors.New("its marker is written and not committed, but it is not listed")
	errRunning    = errors.New("the branch is not listed and its transaction is still running")
)

// fencePause is how long an adapter waits after it has ended the session of a branch: longer
// than the server takes to let go of it.
const fencePause = 250 * sim.Millisecond

func (a attempt) run() {
	server := a.b.bank
	a.life = server.lives
	switch {
	case server.down:
		a.done(0, errConnection)
	case a.own && a.b.session && a.b.end(a.d, true) == okay:
		a.answer(txn.Done)
	case server.w.planted == NotFoundMeansDone:
		if a.b.end(a.d, false) == unreachable {
			a.done(0, errConnection)
			return
		}
		a.answer(txn.AlreadyDone)
	case server.family == postgres:
		a.postgres()
	default:
		a.xa()
	}
}

// answer tells what was concluded, after the checker has compared it with the truth.
func (a attempt) answer(f txn.Finish) {
	a.b.bank.w.check.concluded(a, f)
	a.done(f, nil)
}

// proof is what the server can prove to somebody with this record: a marker is found
// without one.
func (a attempt) proof() proof {
	if a.b.bank.family == postgres && !a.evident {
		return unproven
	}
	return a.b.proof()
}

func (a attempt) postgres() {
	if a.b.end(a.d, false) == okay {
		a.answer(txn.Done)
		return
	}
	p := a.proof()
	switch {
	case a.d == txn.Commit && p == inProgress:
		a.done(0, errRunning)
	case a.d == txn.Commit:
		a.answer(map[proof]txn.Finish{provesCommit: txn.AlreadyDone, provesAbort: txn.Contradicted,
			unproven: txn.Lost}[p])
	case p == provesCommit:
		a.answer(txn.Contradicted)
	case p == inProgress && !a.holder:
		a.done(0, errRunning)
	case a.holder && (p == inProgress || !a.evident):
		a.b.closeSession()
		if a.b.end(a.d, false) == okay {
			a.answer(txn.Done)
			return
		}
		a.answer(txn.AlreadyDone)
	default:
		a.answer(txn.AlreadyDone)
	}
}

func (a attempt) xa() {
	listed, p := a.b.listed(), a.b.proof()
	if p == provesCommit && !listed {
		a.already(p)
		return
	}
	// The marker, though not committed, tells who wrote it.
	known := a.holder || p == inProgress
	if known && (a.d == txn.Abort || listed && a.b.bank.family == mariadb) {
		if a.b.session {
			a.b.bank.w.hit(HolderFenced)
			a.b.closeSession()
		}
		a.b.bank.w.After(fencePause, a.fenced)
		return
	}
	a.fenced()
}

// fenced goes on when no session holds the branch any more, or nobody knows which one.
func (a attempt) fenced() {
	p := a.b.proof()
	switch {
	case a.b.bank.down, a.b.bank.lives != a.life:
		a.done(0, errConnection)
	case !a.b.listed() && p == inProgress:
		a.done(0, errHidden)
	case !a.b.listed():
		a.already(p)
	case a.b.end(a.d, false) == okay:
		a.verify()
	case a.b.listed():
		a.done(0, errHeld)
	default:
		a.done(0, errHidden)
	}
}

// verify looks whether what the server said has happened.
func (a attempt) verify() {
	p := a.b.proof()
	switch {
	case p == inProgress:
		a.done(0, errHidden)
	case a.d == txn.Abort && p == provesCommit:
		a.answer(txn.Contradicted)
	case a.d == txn.Commit && a.evident && p == unproven:
		a.answer(txn.Lost)
	default:
		a.answer(txn.Done)
	}
}

// already is the answer for a branch that has ended, or never was.
func (a attempt) already(p proof) {
	switch {
	case a.d == txn.Commit && p == provesCommit:
		a.answer(txn.AlreadyDone)
	case a.d == txn.Commit:
		a.answer(txn.Lost)
	case p == provesCommit:
		a.answer(txn.Contradicted)
	default:
		a.answer(txn.AlreadyDone)
	}
}
