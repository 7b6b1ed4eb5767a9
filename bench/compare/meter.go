// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"time"

	"github.com/concordtx/concord/bench/meter"
)

// drive lets clients write again and again, and measures as "concord-bench decisions" does.
func drive(ctx context.Context, clients int, d time.Duration,
	write func(ctx context.Context, client int) error) (figures, error) {
	lap, err := meter.Drive(ctx, clients, d, write)
	if err != nil {
		return figures{}, err
	}
	if lap.Done == 0 {
		return figures{}, fmt.Errorf("no write succeeded: %w", lap.Failure)
	}
	s := meter.NewSeries(clients)
	s.Add(&lap)
	return figures{perSecond: lap.PerSecond(), p50: s.Millis(50), p99: s.Millis(99), errors: lap.Failed}, nil
}
