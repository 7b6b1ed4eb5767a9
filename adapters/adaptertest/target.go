// SPDX-License-Identifier: Apache-2.0

package adaptertest

import (
	"context"
	"testing"
	"time"

	"github.com/concordtx/concord/adapters"
)

// Patience bounds every wait of the suite. A server that restarts and a fence that
// waits for a session to leave are far below it.
const Patience = 60 * time.Second

// Target is a resource under test: how to open it, work in it and hurt it. Keys are
// at most 32 upper-case letters and digits, and each case has its own.
type Target struct {
	// Open returns a new instance on connections of its own, as another process would
	// have it. The suite closes it. After Restart the suite opens anew.
	Open func(t testing.TB) adapters.Adapter
	// Write sets key to value inside the branch, whether the key exists or not.
	Write func(ctx context.Context, s adapters.Session, key string, value int64) error
	// Read returns the committed value as somebody outside sees it, without waiting for
	// locks.
	Read func(t testing.TB, key string) (value int64, found bool)
	// Fail runs a statement inside the branch that the resource answers with an error,
	// and returns that error.
	Fail func(ctx context.Context, s adapters.Session) error
	// ReadOnly reads something inside the branch and writes nothing.
	ReadOnly func(ctx context.Context, s adapters.Session) error
	// Hang runs a statement inside the branch that nothing but a rollback of the branch ends
	// before Patience, and returns its error.
	Hang func(ctx context.Context, s adapters.Session) error
	// Busy returns when the server is in the middle of a statement of s, which may be
	// waiting for a lock.
	Busy func(t testing.TB, s adapters.Session)

	// EndSession makes the connection of s die from the server's side.
	EndSession func(t testing.TB, s adapters.Session)
	// Restart ends the server as kill -9 does, starts it again and returns when it serves.
	Restart func(t testing.TB)
	// Child is what ServeChild's open needs in the child process, such as a DSN.
	Child string
	// Foreign plants prepared branches that are not ours, with names that hurt whoever
	// pastes them into a statement, and returns the check that all are still prepared.
	// Its own cleanup removes them.
	Foreign func(t testing.TB) (untouched func(t testing.TB))
	// Batches: the resource is an adapters.Batching.
	Batches bool
	// Rows: the resource is an adapters.Marked.
	Rows bool
	// Last: the resource can be the last one of a transaction. It is an adapters.Settler, and its sessions are
	// adapters.Last and adapters.Tagged.
	Last bool
	// Hostile is what applications do to the transaction of a branch. Harmless things
	// belong to it as well: an adapter that refuses everything is of no use.
	Hostile []Hostile
}

// Run runs every case as a subtest, one after another. A case that the target has not
// got the means for is no subtest, so that nothing passes that was not run.
func Run(t *testing.T, target Target) {
	for _, group := range [][]testCase{endCases, surviveCases, finishCases, listCases, lockCases, concurrentCases,
		fitnessCases, waterCases, tagCases, lastCases} {
		for _, c := range group {
			if c.needs != nil && !c.needs(target) {
				t.Logf("not run: %s: the target has no %s", c.name, c.what)
				continue
			}
			t.Run(c.name, func(t *testing.T) { c.run(newBench(t, target)) })
		}
	}
	if len(target.Hostile) == 0 {
		t.Log("not run: hostile applications: the target names none")
	}
	for _, h := range target.Hostile {
		t.Run("a hostile application: "+h.Name, func(t *testing.T) { h.run(t, target) })
	}
}

// RunLast runs the cases of a last resource alone, for one that cannot prepare.
func RunLast(t *testing.T, target Target) {
	for _, c := range lastCases {
		if c.needs != nil && !c.needs(target) {
			t.Logf("not run: %s: the target has no %s", c.name, c.what)
			continue
		}
		t.Run(c.name, func(t *testing.T) { c.run(newBench(t, target)) })
	}
}

// testCase is one situation and its result. needs tells whether the target has what
// the case takes, and what names it.
type testCase struct {
	name  string
	run   func(b *bench)
	needs func(Target) bool
	what  string
}
