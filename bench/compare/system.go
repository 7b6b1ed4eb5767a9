// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"time"
)

// system is a cluster of three processes on this machine, with a durable log.
type system interface {
	name() string
	// round lets clients write values of size bytes, each the next when the last is
	// acknowledged, for a while.
	round(ctx context.Context, clients, size int, d time.Duration) (figures, error)
	stop() error
}

// figures are what one round has shown.
type figures struct {
	perSecond float64
	p50, p99  float64 // ms, free of coordinated omission
	errors    int64
}

// starter returns what starts a system, nil if there is none of that name.
func starter(name string) func(ctx context.Context, dir string) (system, error) {
	switch name {
	case "concord":
		return startConcord
	case "etcd":
		return startEtcd
	case "zookeeper":
		return startZooKeeper
	}
	return nil
}

const (
	readyTimeout = time.Minute
	pollInterval = 100 * time.Millisecond
	nodeCount    = 3
)

// await asks again and again until ready returns nil, a process has ended, or the time is up.
func await(ctx context.Context, p *processes, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		if log := p.died(); log != "" {
			return fmt.Errorf("a process has ended by itself; end of its log:\n%s", log)
		}
		select {
		case <-time.After(pollInterval):
		case <-ctx.Done():
			return fmt.Errorf("not ready in %v: %w", readyTimeout, err)
		}
	}
}
