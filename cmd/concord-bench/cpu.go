// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/concordtx/concord/bench/meter"
)

// tick is the unit of the times in /proc. Linux shows them to programs in hundredths of
// a second whatever its own clock does.
const tick = 10 * time.Millisecond

// treeCPU is what processes and all that descends from them have used so far, the dead
// ones that were waited for included.
func treeCPU(roots ...int) (time.Duration, error) {
	if len(roots) == 0 {
		return 0, nil
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, fmt.Errorf("measure CPU of other processes: %w: only Linux tells", err)
	}
	all := map[int]processTimes{}
	children := map[int][]int{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if p, ok := readTimes(pid); ok { // not ok: it has ended meanwhile
			all[pid] = p
			children[p.parent] = append(children[p.parent], pid)
		}
	}
	var sum time.Duration
	for todo := roots; len(todo) > 0; {
		pid := todo[len(todo)-1]
		p, ok := all[pid]
		if !ok {
			return 0, fmt.Errorf("measure CPU of process %d: there is none", pid)
		}
		sum += p.used
		todo = append(todo[:len(todo)-1:len(todo)-1], children[pid]...)
	}
	return sum, nil
}

type processTimes struct {
	parent int
	used   time.Duration
}

// readTimes reads the stat file of one process. What stands before the last bracket is
// its name, which may hold anything.
func readTimes(pid int) (processTimes, bool) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return processTimes{}, false
	}
	_, rest, found := cutLast(string(text), ')')
	fields := strings.Fields(rest)
	const parent, first, last = 1, 11, 14 // utime, stime, cutime, cstime
	if !found || len(fields) <= last {
		return processTimes{}, false
	}
	var p processTimes
	if p.parent, err = strconv.Atoi(fields[parent]); err != nil {
		return processTimes{}, false
	}
	for _, f := range fields[first : last+1] {
		ticks, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return processTimes{}, false
		}
		p.used += time.Duration(ticks) * tick
	}
	return p, true
}

func cutLast(s string, sep byte) (before, after string, found bool) {
	if i := strings.LastIndexByte(s, sep); i >= 0 {
		return s[:i], s[i+1:], true
	}
	return s, "", false
}

// lap drives for so long, and measures what processes with these ids use of the CPU meanwhile.
func (l load) lap(ctx context.Context, d time.Duration, do func(context.Context, int) error,
	pids ...int) (meter.Lap, error) {
	before, err := treeCPU(pids...)
	if err != nil {
		return meter.Lap{}, err
	}
	lap, err := meter.Drive(ctx, l.workers, d, do)
	if err != nil {
		return meter.Lap{}, err
	}
	after, err := treeCPU(pids...)
	lap.Servers = after - before
	return lap, err
}
