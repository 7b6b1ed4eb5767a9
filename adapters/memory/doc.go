// SPDX-License-Identifier: Apache-2.0

// Package memory is a resource for tests that behaves like a database: exclusive
// locks, undo on rollback, prepared branches that survive a crash with their locks,
// evidence for what has ended. It keeps int64 values under string keys.
//
// The Disk is what survives. Resources are connections to it, as many as a test
// wants, and Crash does to them what kill -9 of a server does:
//
//	disk := memory.NewDisk()
//	orders := memory.New("orders", disk)
//	tx, err := orders.Tx(ctx, global)
//	…
//	disk.Crash() // open branches are gone, prepared ones wait for their decision
//
// Nothing here is durable in earnest, so the binary does not use it.
package memory
