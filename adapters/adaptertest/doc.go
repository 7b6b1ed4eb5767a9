// SPDX-License-Identifier: Apache-2.0

// Package adaptertest is the conformance suite of the contract in package adapters.
// Every adapter runs it against the real thing:
//
//	func TestConformance(t *testing.T) {
//		server := start(t)
//		adaptertest.Run(t, adaptertest.Target{
//			Open:  func(t testing.TB) adapters.Adapter { return open(t, server.DSN) },
//			Write: func(ctx context.Context, s adapters.Session, key string, value int64) error { … },
//			…
//		})
//	}
//
// What a target leaves nil does not exist for its resource (an embedded store has no
// client to kill); the case is then not run, and the log of the test says so.
//
// The suite never sleeps and retries only where the contract says "try again":
// finishing a branch that another session may still hold. All waits end after
// Patience.
//
// # A hostile application
//
// Target.Hostile names what the SQL of an application can do to the transaction of its
// branch. The suite does it between two writes, before one and after one, lets the
// branch end in each way, and compares what it was told with what is in the table.
//
// # A killed client
//
// The client that dies with its branch prepared is a process of its own: the test
// binary executes itself again. For that the package under test has
//
//	func TestMain(m *testing.M) {
//		adaptertest.ServeChild(openByDSN, write)
//		os.Exit(m.Run())
//	}
//
// and sets Target.Child to the text that openByDSN needs.
package adaptertest
