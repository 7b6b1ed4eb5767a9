// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/concordtx/concord/cmd/internal/terminal"
)

// omissionHelp says how latencies are measured. It is part of the help of every command
// that prints some.
const omissionHelp = `Latencies are free of coordinated omission. The load is a closed loop: a worker starts
the next operation when the last one has ended, so a worker that is held up starts
none, and a pause of a second would count as one slow operation, although many would
have met it. Therefore an operation that took longer than the workers' mean interval
also stands for those that would have begun meanwhile at that interval: each of them
is counted with the time that was left of the pause (HdrHistogram's correction).`

// maxWorkers bounds what one process of a measurement makes of connections.
const maxWorkers = 4096

// load is how hard and how long something is driven.
type load struct {
	workers, rounds int
	duration        time.Duration
	dir             string
}

func (l *load) flags(cmd *cobra.Command) {
	cmd.Flags().IntVar(&l.workers, "workers", 16, "how many at the same time")
	cmd.Flags().DurationVar(&l.duration, "duration", 10*time.Second, "how long a round takes")
	cmd.Flags().IntVar(&l.rounds, "rounds", 5, "how many rounds are counted; one more, at most 5s long, warms up")
	dirFlag(cmd, &l.dir)
}

func dirFlag(cmd *cobra.Command, dir *string) {
	cmd.Flags().StringVar(dir, "dir", "",
		"where the nodes keep their data, in a folder of its own; on a real disk, or fsync costs nothing (default: "+
			"the folder for temporary files)")
}

func (l *load) check() error {
	switch {
	case l.workers < 1 || l.workers > maxWorkers:
		return terminal.Usagef("--workers: %d is not between 1 and %d", l.workers, maxWorkers)
	case l.rounds < 1:
		return terminal.Usagef("--rounds: %d is less than 1", l.rounds)
	case l.duration <= 0:
		return terminal.Usagef("--duration: %v is not a positive duration such as 10s", l.duration)
	}
	return nil
}

// warmUp is the length of the round that is not counted.
func (l *load) warmUp() time.Duration { return min(l.duration, 5*time.Second) }

// workFolder makes a folder below dir, and returns what removes it.
func workFolder(dir string) (string, func() error, error) {
	made, err := os.MkdirTemp(dir, "concord-bench-")
	if err != nil {
		return "", nil, fmt.Errorf("make a folder for the nodes: %w: give another one with --dir", err)
	}
	return made, func() error { return os.RemoveAll(made) }, nil
}
