// SPDX-License-Identifier: Apache-2.0

package txnsim

import (
	"fmt"

	"github.com/concordtx/concord/coordinator/commit"
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/txn"
)

// recentKeys is how many of the last pieces of work with a key may be begun again.
const recentKeys = 6

// keyedJob is a piece of work that has an idempotency key, which others may be doing or have done, and
// false if there is to be none.
func (w *world) keyedJob() (job int, ok bool) {
	switch {
	case !w.quirks.Keys || !w.odds(0.4):
		return 0, false
	case len(w.keyed) > 0 && w.odds(0.6):
		return w.keyed[w.pick(len(w.keyed))], true
	}
	w.jobs++
	w.keyed = append(w.keyed, w.jobs)
	w.keyed = w.keyed[max(0, len(w.keyed)-recentKeys):]
	return w.jobs, true
}

func keyOf(job int) string { return fmt.Sprint("job ", job) }

// lookUp asks some node what is committed under the key of a transaction.
func (w *world) lookUp(g *ghost) {
	told := w.check.toldUnder(g.job)
	w.question(w.leaderOrAny(), false, func(request uint64) replica.Event {
		return commit.KeyAsked{Request: request, Key: g.key}
	}, func(r commit.Reply) {
		if r.Err == nil {
			w.hit(KeyLookedUp)
			w.check.keyAnswered(g, told, r.Key)
		}
	}, func() {})
}

// toldUnder is the transaction that a client was told is committed for a piece of work, or nil.
func (c *checker) toldUnder(job int) *ghost {
	if g := c.jobs[job]; g != nil && g.told == txn.Commit {
		return g
	}
	return nil
}

// beaten reports whether another transaction is committed under the key of this one.
func (c *checker) beaten(g *ghost) bool {
	return g.key != "" && c.jobs[g.job] != nil && c.jobs[g.job] != g
}

// keyAnswered is KEY: what is committed under a key, and was told before the question, is found.
func (c *checker) keyAnswered(g, told *ghost, use *txn.KeyUse) {
	switch has := c.jobs[g.job]; {
	case use == nil && told != nil:
		c.Fail("KEY", "nothing is found under %q, and a client was told before that %v is committed", g.key, told.id)
	case use != nil && (has == nil || has.id != use.ID || string(use.Result) != use.ID.String()):
		c.Fail("KEY", "%v with %q is found under %q, under which it is not committed", use.ID, use.Result, g.key)
	}
}
