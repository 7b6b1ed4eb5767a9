// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
)

// Seeds says which seeds a block runs, and on how many workers.
type Seeds struct {
	First   uint64
	Count   uint64 // zero: until the context is done
	Workers int    // zero: one for each processor
}

// Each runs seeds on several workers, and hands each result to take, one at a time, in no
// certain order: take must add up what does not depend on it. Of several seeds that fail
// the error is that of the lowest, whatever the workers: all seeds before it have been run.
func Each[R any](ctx context.Context, seeds Seeds, run func(seed uint64) (R, error),
	take func(seed uint64, r R)) error {
	b := block[R]{Seeds: seeds, next: seeds.First, run: run, take: take}
	workers := seeds.Workers
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	var all sync.WaitGroup
	for range workers {
		all.Go(func() { b.work(ctx) })
	}
	all.Wait()
	return b.err
}

// block is the state that the workers of Each share.
type block[R any] struct {
	Seeds
	run  func(seed uint64) (R, error)
	take func(seed uint64, r R)

	mu     sync.Mutex
	next   uint64
	failed uint64 // the lowest seed with an error
	err    error
}

func (b *block[R]) work(ctx context.Context) {
	for {
		seed, ok := b.draw(ctx)
		if !ok {
			return
		}
		r, err := b.run(seed)
		b.finish(seed, r, err)
	}
}

// draw takes the next seed, while there is one and none has failed.
func (b *block[R]) draw(ctx context.Context) (uint64, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil || ctx.Err() != nil || b.Count > 0 && b.next-b.First >= b.Count {
		return 0, false
	}
	b.next++
	return b.next - 1, true
}

func (b *block[R]) finish(seed uint64, r R, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case err == nil:
		b.take(seed, r)
	case b.err == nil || seed < b.failed:
		b.failed, b.err = seed, err
	}
}

// twiceEvery is how many seeds there are for one that runs twice.
const twiceEvery = 100

// ErrDifferent says that two runs of one seed went differently: something in them does not
// come from the seed, and no failure can be replayed.
var ErrDifferent = errors.New("two runs of the same seed went differently")

// Twice is run, except that one seed of a hundred runs twice and has to go the same way.
func Twice[R comparable](run func(seed uint64) (R, error)) func(seed uint64) (R, error) {
	return func(seed uint64) (R, error) {
		r, err := run(seed)
		if err != nil || seed%twiceEvery != 0 {
			return r, err
		}
		again, err := run(seed)
		if err == nil && again != r {
			err = fmt.Errorf("seed %d: %w: %v, then %v", seed, ErrDifferent, r, again)
		}
		return r, err
	}
}
