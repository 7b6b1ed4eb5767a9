// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"time"

	"github.com/concordtx/concord/security/access"
)

// limits are what callers may take of a node.
type limits struct {
	Connections  int
	PerSubject   int           `mapstructure:"connections_per_subject"`
	Body         time.Duration // of a request
	Write        time.Duration // of a piece of an answer
	MemoryMiB    int64         `mapstructure:"memory_mib"`
	StreamMiB    int64         `mapstructure:"stream_memory_mib"`
	Watches      int
	Leases       int `mapstructure:"leases_per_subject"`
	Transactions int `mapstructure:"transactions_per_subject"`
}

// limitDefaults are the keys with their defaults.
func limitDefaults() map[string]any {
	d := access.DefaultLimits
	return map[string]any{
		"limits.connections": d.Connections, "limits.connections_per_subject": d.PerSubject, "limits.body": d.Body,
		"limits.write": d.Write, "limits.memory_mib": d.Memory >> 20, "limits.stream_memory_mib": d.StreamMemory >> 20,
		"limits.watches": d.Watches, "limits.leases_per_subject": d.Leases,
		"limits.transactions_per_subject": d.Transactions,
	}
}

func (l limits) check() error {
	for _, n := range []struct {
		key      string
		is       int64
		from, to int64
	}{{"connections", int64(l.Connections), 64, 1 << 20},
		{"connections_per_subject", int64(l.PerSubject), 1, 1 << 20},
		{"memory_mib", l.MemoryMiB, 8, 1 << 20}, {"stream_memory_mib", l.StreamMiB, 2, l.MemoryMiB},
		{"watches", int64(l.Watches), 1, 1 << 20}, {"leases_per_subject", int64(l.Leases), 1, 1 << 20},
		{"transactions_per_subject", int64(l.Transactions), 1, 1024}} {
		if n.is < n.from || n.is > n.to {
			return fmt.Errorf("limits.%s: %d is not between %d and %d", n.key, n.is, n.from, n.to)
		}
	}
	for _, d := range []struct {
		key string
		is  time.Duration
	}{{"body", l.Body}, {"write", l.Write}} {
		if d.is < time.Second || d.is > time.Hour {
			return fmt.Errorf("limits.%s: %v is not a duration from 1s to 1h", d.key, d.is)
		}
	}
	return nil
}

func (l limits) access() access.Limits {
	return access.Limits{Connections: l.Connections, PerSubject: l.PerSubject, Body: l.Body, Write: l.Write,
		Memory: l.MemoryMiB << 20, StreamMemory: l.StreamMiB << 20, Watches: l.Watches, Leases: l.Leases,
		Transactions: l.Transactions}
}
