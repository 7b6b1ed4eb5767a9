// SPDX-License-Identifier: Apache-2.0

// Command compare writes to the replicated logs of concord, etcd and ZooKeeper on one
// machine, in turns, with the same numbers of clients and bytes. See README.md.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

type options struct {
	clients  []int
	size     int
	rounds   int
	duration time.Duration
	warmUp   time.Duration
	dir      string
	systems  []string
	json     bool
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	o, err := parse(os.Args[1:])
	if err == nil {
		err = run(ctx, o)
	}
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "compare:", err)
		os.Exit(1)
	}
}

func parse(args []string) (o options, err error) {
	f := flag.NewFlagSet("compare", flag.ContinueOnError)
	clients := f.String("clients", "1,64,256", "numbers of clients")
	systems := f.String("systems", "concord,etcd,zookeeper", "what to drive")
	f.IntVar(&o.size, "size", 256, "bytes of each value")
	f.IntVar(&o.rounds, "rounds", 5, "rounds that are counted, for each number of clients")
	f.DurationVar(&o.duration, "duration", 10*time.Second, "how long a round takes")
	f.DurationVar(&o.warmUp, "warm-up", 20*time.Second, "how long each system is driven before the first round")
	f.StringVar(&o.dir, "dir", "", "where the data go, on a real disk (default: the folder for temporary files)")
	f.BoolVar(&o.json, "json", false, "print JSON instead of a table")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q: see -help", f.Arg(0))
	}
	for _, text := range strings.Split(*clients, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return o, fmt.Errorf("-clients: %q is not a number above 0", text)
		}
		o.clients = append(o.clients, n)
	}
	for _, name := range strings.Split(*systems, ",") {
		if starter(name) == nil {
			return o, fmt.Errorf("-systems: %q is none of concord, etcd, zookeeper", name)
		}
		o.systems = append(o.systems, name)
	}
	if o.rounds < 1 || o.duration <= 0 || o.warmUp < 0 || o.size < 0 {
		return o, errors.New("-rounds and -duration are above 0, -warm-up and -size not below")
	}
	return o, nil
}

func run(ctx context.Context, o options) (err error) {
	dir, err := os.MkdirTemp(o.dir, "concord-compare-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	r := newReport(o)
	contestants := start(ctx, o, dir, r)
	defer func() {
		for _, c := range contestants {
			err = errors.Join(err, c.stop())
		}
	}()
	for _, clients := range o.clients {
		for round := range o.rounds {
			for i := range contestants {
				c := contestants[(i+round)%len(contestants)] // somebody else begins each time
				if r.failed(c.name()) {
					continue
				}
				f, err := c.round(ctx, clients, o.size, o.duration)
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				if err != nil {
					r.notRun(c.name(), err)
					continue
				}
				r.add(c.name(), clients, f)
				fmt.Fprintf(os.Stderr, "%d clients, round %d: %s %.0f/s\n", clients, round+1, c.name(), f.perSecond)
			}
		}
	}
	if o.json {
		e := json.NewEncoder(os.Stdout)
		e.SetIndent("", "  ")
		return e.Encode(r.rows())
	}
	return r.print(os.Stdout)
}

// start starts what can be started, and drives each for a while.
func start(ctx context.Context, o options, dir string, r *report) (running []system) {
	for _, name := range o.systems {
		s, err := starter(name)(ctx, dir)
		if err == nil {
			running = append(running, s)
			if o.warmUp > 0 {
				_, err = s.round(ctx, o.clients[len(o.clients)-1], o.size, o.warmUp)
			}
		}
		if err != nil {
			r.notRun(name, err)
		}
	}
	return running
}
