// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/concordtx/concord/bench/meter"
	"github.com/concordtx/concord/cmd/internal/terminal"
	"github.com/concordtx/concord/txn"
)

// historyResult is the contract of "history -o json".
type historyResult struct {
	Workers int `json:"workers"`
	Sample  int `json:"sample"`
	// Points are what a sample of decisions costs at the beginning, half way and at the end.
	Points []historyPoint `json:"points"`
	// CPURatio and MemoryRatio compare the last point with the first.
	CPURatio    float64 `json:"cpu_ratio"`
	MemoryRatio float64 `json:"memory_ratio"`
	// BytesPerTransaction is what one finished transaction takes on the disk of one node.
	BytesPerTransaction float64 `json:"bytes_per_transaction"`
	// StartSeconds is from starting three nodes to all of them working together: on empty
	// folders, and with the history.
	EmptyStartSeconds float64 `json:"empty_start_seconds"`
	StartSeconds      float64 `json:"start_seconds"`
}

type historyPoint struct {
	Finished  int64   `json:"finished"`
	NodesCPU  float64 `json:"nodes_cpu_seconds_per_decision"`
	PerSecond float64 `json:"per_second"`
	Memory    int64   `json:"memory_bytes_of_a_node"` // resident, mean of the three
	Disk      int64   `json:"disk_bytes_of_a_node"`   // mean of the three
}

// historyBegin is how many transactions are finished at the first point.
const historyBegin = 1000

func (c *cli) historyCommand() *cobra.Command {
	var transactions, workers, sample int
	var dir string
	cmd := &cobra.Command{
		Use: "history", Short: "What a decision costs when many transactions are finished", Args: terminal.NoArgs,
		Long: "Starts three node processes and finishes transactions without branches. What a sample of\n" +
			"decisions costs the nodes is measured when a thousand transactions are finished, when half of\n" +
			"--transactions are, and when all are. With it go the memory and the disk of a node. At last the nodes " +
			"are stopped and\n" +
			"started again, and the time is taken until all three work together.",
		Example: "  concord-bench history --transactions 1000000\n  concord-bench history --transactions 50000 " +
			"--sample 5000 -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case sample < 1:
				return terminal.Usagef("--sample: %d is less than 1", sample)
			case transactions < historyBegin+sample:
				return terminal.Usagef("--transactions: %d is less than %d and the sample together", transactions,
					historyBegin)
			case workers < 1 || workers > maxWorkers:
				return terminal.Usagef("--workers: %d is not between 1 and %d", workers, maxWorkers)
			}
			r, err := c.benchHistory(cmd.Context(),
				&history{transactions: transactions, workers: workers, sample: sample}, dir)
			if err != nil {
				return err
			}
			return c.printHistory(r)
		},
	}
	cmd.Flags().IntVar(&transactions, "transactions", 1_000_000, "how many are finished at the last point")
	cmd.Flags().IntVar(&workers, "workers", 64, "how many at the same time")
	cmd.Flags().IntVar(&sample, "sample", 50_000, "how many decisions are measured at each point")
	dirFlag(cmd, &dir)
	return cmd
}

// history is one measurement.
type history struct {
	transactions, workers, sample int

	nodes    *nodes
	decider  *decider
	finished int64
}

func (c *cli) benchHistory(ctx context.Context, h *history, dir string) (_ *historyResult, err error) {
	folder, remove, err := workFolder(dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	begin := time.Now()
	if h.nodes, err = startNodes(ctx, c.concord, folder, nil); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, h.nodes.stop()) }()
	r := &historyResult{Workers: h.workers, Sample: h.sample, EmptyStartSeconds: time.Since(begin).Seconds()}
	if h.decider, err = newDecider(ctx, h.nodes.addresses()); err != nil {
		return nil, err
	}
	defer h.decider.close()
	for _, target := range h.targets() {
		if _, err := h.finish(ctx, int64(target)-h.finished); err != nil {
			return nil, err
		}
		p, err := h.point(ctx)
		if err != nil {
			return nil, err
		}
		r.Points = append(r.Points, p)
		fmt.Fprintf(c.err, "%d finished: %s of the nodes' CPU per decision, %d MB of memory and %d MB of disk for "+
			"each node\n",
			p.Finished, micros(p.NodesCPU), p.Memory>>20, p.Disk>>20)
	}
	first, last := r.Points[0], r.Points[len(r.Points)-1]
	r.CPURatio, r.MemoryRatio = last.NodesCPU/first.NodesCPU, float64(last.Memory)/float64(first.Memory)
	r.BytesPerTransaction = float64(last.Disk-first.Disk) / float64(last.Finished-first.Finished)
	r.StartSeconds, err = h.restart(ctx)
	return r, err
}

// targets are how many transactions are finished when a sample begins. The one in the
// middle shows whether what grows goes on growing.
func (h *history) targets() []int {
	targets := []int{historyBegin}
	if middle := h.transactions/2 - h.sample; middle >= historyBegin+h.sample {
		targets = append(targets, middle)
	}
	return append(targets, h.transactions-h.sample)
}

// finish makes n more decisions.
func (h *history) finish(ctx context.Context, n int64) (meter.Lap, error) {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	enough := errors.New("enough")
	var begun atomic.Int64
	l, err := meter.Drive(ctx, h.workers, 24*time.Hour, func(ctx context.Context, _ int) error {
		switch mine := begun.Add(1); {
		case mine > n:
			return enough
		case mine == n:
			stop(enough)
		}
		_, err := h.decider.commit(ctx, txn.NewID(time.Now()), "")
		return err
	})
	if err != nil && !errors.Is(err, enough) {
		return meter.Lap{}, err
	}
	h.finished += l.Done
	if l.Done < n {
		return meter.Lap{}, fmt.Errorf("%d of %d decisions failed: %w", n-l.Done, n, l.Failure)
	}
	return l, nil
}

// point measures a sample.
func (h *history) point(ctx context.Context) (historyPoint, error) {
	before, err := treeCPU(h.nodes.pids()...)
	if err != nil {
		return historyPoint{}, err
	}
	l, err := h.finish(ctx, int64(h.sample))
	if err != nil {
		return historyPoint{}, err
	}
	after, err := treeCPU(h.nodes.pids()...)
	if err != nil {
		return historyPoint{}, err
	}
	p := historyPoint{Finished: h.finished, NodesCPU: (after - before).Seconds() / float64(l.Done),
		PerSecond: l.PerSecond()}
	for _, pid := range h.nodes.pids() {
		resident, err := residentMemory(pid)
		if err != nil {
			return historyPoint{}, err
		}
		p.Memory += resident / int64(len(h.nodes.members))
	}
	bytes, err := folderSize(h.nodes.dir)
	p.Disk = bytes / int64(len(h.nodes.members))
	return p, err
}

// restart stops all nodes and returns how long they need to work together again.
func (h *history) restart(ctx context.Context) (float64, error) {
	if err := h.nodes.halt(); err != nil {
		return 0, err
	}
	begin := time.Now()
	for _, m := range h.nodes.members {
		if err := h.nodes.start(m.ID); err != nil {
			return 0, err
		}
	}
	_, err := h.nodes.await(ctx)
	return time.Since(begin).Seconds(), err
}

// residentMemory of a process, in bytes.
func residentMemory(pid int) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, fmt.Errorf("measure the memory of process %d on %s: %w: only Linux tells", pid, runtime.GOOS, err)
	}
	const resident = 1
	fields := strings.Fields(string(text))
	if len(fields) <= resident {
		return 0, fmt.Errorf("measure the memory of process %d: the system says %q", pid, text)
	}
	pages, err := strconv.ParseInt(fields[resident], 10, 64)
	return pages * int64(os.Getpagesize()), err
}

// folderSize adds up the files below dir. One that vanishes meanwhile counts nothing.
func folderSize(dir string) (sum int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			sum += info.Size()
		}
		return err
	})
	return sum, err
}

func (c *cli) printHistory(r *historyResult) error {
	if c.output == "json" {
		return terminal.PrintJSON(c.out, r)
	}
	var rows [][]string
	for _, p := range r.Points {
		rows = append(rows, []string{fmt.Sprint(p.Finished), micros(p.NodesCPU), fmt.Sprintf("%.0f", p.PerSecond),
			fmt.Sprintf("%.0f MB", float64(p.Memory)/1e6), fmt.Sprintf("%.1f MB", float64(p.Disk)/1e6)})
	}
	if err := terminal.PrintTable(c.out, []string{"FINISHED", "CPU NODES", "PER SECOND", "MEMORY", "DISK"},
		rows); err != nil {
		return err
	}
	fmt.Fprintf(c.out, "\nCPU per decision %.2f times, memory %.2f times; %.0f bytes on the disk of a node for each "+
		"finished transaction\n",
		r.CPURatio, r.MemoryRatio, r.BytesPerTransaction)
	fmt.Fprintf(c.out, "three nodes work together %.2f s after their start with the history, %.2f s without\n",
		r.StartSeconds, r.EmptyStartSeconds)
	return nil
}
