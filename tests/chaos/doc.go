// SPDX-License-Identifier: Apache-2.0

// Package chaos runs the product for minutes under load while everything around it breaks: three nodes, an
// agent, PostgreSQL, MariaDB and MySQL as processes, clients with the SDK as processes, and clients of the HTTP
// API. Faults are drawn from a seed. What clients were told is compared at the end with what the databases
// hold. It has no code besides its tests.
//
//	go test ./tests/chaos -run TestChaos -v -chaos.length=10m -chaos.faults=300 -chaos.transactions=20000
//
// A run that fails keeps its directory (the logs of all processes, what every client did and was told, and what
// was broken when) and prints it with the seed. The seed draws the same faults, not the same run: processes and
// networks go their own way.
package chaos
