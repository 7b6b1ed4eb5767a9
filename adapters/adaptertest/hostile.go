// SPDX-License-Identifier: Apache-2.0

package adaptertest

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/txn"
)

// Hostile is something that an application does to the transaction of its branch: SQL
// that ends, nests, chains, disguises, replaces or breaks it.
type Hostile struct {
	Name string
	// Do does it, through the handle of the branch or past it. The application takes no
	// notice of its error.
	Do func(ctx context.Context, s adapters.Session) error
	// Damage is what it does to a branch that wrote.
	Damage Damage
	// After removes what Do itself left outside of the branch, such as a transaction that
	// it prepared by hand. It is called once the branch has ended.
	After func(t testing.TB)
}

// Damage is what becomes of the work that a branch did before.
type Damage uint8

const (
	// Harmless: the branch is as it was and commits all of its work.
	Harmless Damage = iota
	// Spoiled: nothing of the branch is or will be committed, and the adapter knows.
	Spoiled
	// Unproven: nothing of it is committed, but the adapter cannot tell.
	Unproven
	// Torn: part of it is committed, or nobody but the application can tell.
	Torn
)

// place is where in its work an application is hostile.
type place struct {
	name          string
	before, after bool // it writes before and after
}

var places = []place{
	{name: "between two writes", before: true, after: true},
	{name: "last", before: true},
	{name: "first", after: true},
}

// run is one hostile application at one place, with each end of the branch.
func (h Hostile) run(t *testing.T, target Target) {
	open := func() adapters.Adapter {
		r := target.Open(t)
		t.Cleanup(func() { require.NoError(t, r.Close()) })
		return r
	}
	r, other := open(), open() // for all, so that what one leaves behind meets the next
	for _, p := range places {
		for _, end := range ends(target) {
			t.Run(p.name+", "+end.name, func(t *testing.T) {
				v := &victim{bench: newBench(t, target), Hostile: h, place: p, r: r, other: other, last: end.last}
				v.sweeper = other
				v.suffer()
				end.run(v)
				v.leavesNothing()
			})
		}
	}
}

type end struct {
	name string
	run  func(*victim)
	last bool // of a last resource
}

// ends are the ways in which a branch can end.
func ends(target Target) []end {
	list := []end{{"committed in one phase", (*victim).commits, false}, {"rolled back", (*victim).rollsBack, false}}
	if !target.NoPrepare {
		list = append(list, end{"prepared and committed", func(v *victim) { v.prepares(txn.Commit) }, false},
			end{"prepared and rolled back", func(v *victim) { v.prepares(txn.Abort) }, false})
	}
	if target.Last {
		list = append(list, end{"committed as the last resource", (*victim).decides, true})
	}
	return list
}

// victim is a branch whose application is hostile.
type victim struct {
	*bench
	Hostile
	place
	r, other      adapters.Adapter
	last          bool // it is that of a last resource
	x             txn.XID
	s             adapters.Session
	first, second string
	failed        bool // an error of a write was answered, which the application ignores
}

func (v *victim) suffer() {
	v.x, v.first, v.second = v.xid(), v.key(), v.key()
	if v.last {
		v.x = v.lastXID()
		v.s, _ = v.bench.last(v.r, v.x)
	} else {
		v.s = v.begin(v.r, v.x)
	}
	if v.before {
		require.NoError(v.t, v.Write(v.ctx, v.s, v.first, 1))
	}
	err := v.Do(v.ctx, v.s)
	if v.Damage == Harmless {
		require.NoError(v.t, err)
	}
	if v.after {
		v.failed = v.Write(v.ctx, v.s, v.second, 2) != nil
	}
}

// prepares asks for the vote. After a yes the branch ends as it was decided.
func (v *victim) prepares(d txn.Decision) {
	vote, _, err := v.s.Prepare(v.ctx)
	require.NotEqual(v.t, txn.VoteReadOnly, vote, "it wrote")
	if vote == txn.VoteNo {
		v.refused(err)
		return
	}
	require.NoError(v.t, err)
	v.accepted()
	require.Equal(v.t, []txn.XID{v.x}, v.listed(v.r))
	v.requireNone()
	if d == txn.Abort {
		require.NoError(v.t, v.s.Rollback(v.ctx))
		v.requireNone()
		return
	}
	got, err := v.s.Commit(v.ctx)
	require.NoError(v.t, err)
	require.Equal(v.t, txn.Done, got)
	v.requireAll()
}

func (v *victim) commits() { v.committed(v.s.CommitOnePhase(v.ctx)) }

// decides commits the branch of a last resource. Whoever settles it then finds the same.
func (v *victim) decides() {
	err := v.s.(adapters.Last).CommitLast(v.ctx, aMarker)
	v.committed(err)
	switch m := v.settle(v.other, v.x); {
	case err == nil:
		require.Equal(v.t, aMarker, m)
	case errors.Is(err, adapters.ErrNotCommitted):
		require.Equal(v.t, anAbort, m)
	}
}

// committed requires what is true of a commit that was answered with err.
func (v *victim) committed(err error) {
	if err == nil {
		v.accepted()
		v.requireAll()
		return
	}
	v.refused(err)
	if v.Damage == Harmless || v.Damage == Spoiled {
		require.ErrorIs(v.t, err, adapters.ErrNotCommitted)
	}
}

// rollsBack is a closure that fails in the end.
func (v *victim) rollsBack() {
	err := v.s.Rollback(v.ctx)
	switch {
	case v.Damage == Harmless || v.Damage == Spoiled:
		require.NoError(v.t, err)
	case v.Damage == Torn && v.before:
		require.ErrorIs(v.t, err, adapters.ErrTorn)
	}
	if err == nil {
		v.requireNone()
		return
	}
	v.requireTrue(err)
}

// accepted requires that the branch had a right to succeed.
func (v *victim) accepted() {
	require.Equal(v.t, Harmless, v.Damage, "the transaction was not the one that the branch began")
	require.False(v.t, v.failed, "a write was answered with an error")
}

// refused requires the right kind of error of a branch that did not succeed.
func (v *victim) refused(err error) {
	require.Error(v.t, err)
	require.NotEqual(v.t, Harmless, v.Damage, "%v", err)
	if v.Damage == Torn && v.before {
		require.ErrorIs(v.t, err, adapters.ErrTorn)
	}
	v.requireTrue(err)
}

// requireTrue requires that an error says torn when something is committed, and only when
// something may be.
func (v *victim) requireTrue(err error) {
	if v.Damage == Spoiled {
		require.NotErrorIs(v.t, err, adapters.ErrTorn)
	}
	if !errors.Is(err, adapters.ErrTorn) {
		v.requireNone()
		return
	}
	require.NotErrorIs(v.t, err, adapters.ErrNotCommitted)
}

func (v *victim) requireNone() {
	v.requireAbsent(v.first)
	v.requireAbsent(v.second)
}

func (v *victim) requireAll() {
	if v.before {
		v.requireValue(v.first, 1)
	}
	if v.after {
		v.requireValue(v.second, 2)
	}
}

// leavesNothing requires that nothing is prepared or locked, and that the sessions which
// the instance goes on to use are in order.
func (v *victim) leavesNothing() {
	if v.After != nil {
		v.After(v.t)
	}
	require.Empty(v.t, v.listed(v.other))
	for _, key := range []string{v.first, v.second} {
		v.requireFree(v.other, key)
	}
	// The session that goes back is the first that comes again.
	key := v.key()
	s := v.bench.work(v.r, v.xid(), key, 4)
	v.requireAbsent(key)
	require.NoError(v.t, s.Rollback(v.ctx))
	v.requireAbsent(key)
	v.seed(v.r, key, 5)
	v.requireValue(key, 5)
}
