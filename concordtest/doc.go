// SPDX-License-Identifier: Apache-2.0

// Package concordtest gives tests a cluster in their own process, and ways to make it fail.
//
//	func TestTransfer(t *testing.T) {
//		orders, ledger := concordtest.Memory("orders"), concordtest.Postgres("ledger")
//		c := concordtest.New(t, orders, ledger)
//		ledger.Exec("create table account (id text primary key, cents bigint)")
//
//		bank := NewBank(c.Client(), orders.Resource(), ledger.Resource())
//		c.LoseAnswer()
//		require.ErrorIs(t, bank.Transfer(t.Context(), 500), concord.ErrUnknownOutcome)
//	}
//
// The cluster is three real coordinator nodes, whose disks are memory, and it is ready in less
// than a second. Everything ends with the test, and leaves no goroutine.
//
// A real database is a server that the test starts, if its programs are on this machine; if not, the test is
// skipped, and says so, or fails if the environment variable CONCORD_TEST_REQUIRE is 1. PostgresAt and MySQLAt
// use a server that runs already.
package concordtest
