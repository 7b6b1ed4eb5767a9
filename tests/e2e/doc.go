// SPDX-License-Identifier: Apache-2.0

// Package e2e tests the product as its users run it: the real binary as three
// processes, real PostgreSQL, MariaDB and MySQL servers, and programs with the SDK that are
// killed at the worst moments. It has no code besides its tests.
//
// Each test has a cluster of its own and databases of its own on servers that the
// tests share. What the databases show at the end is compared with every answer that was
// given; nothing may stay prepared.
//
// CONCORD_E2E_TRANSFERS sets how many transfers TestTransfersSurviveLeaderKills commits.
// CONCORD_TEST_BINARY names a binary to test instead of one that is built from the source.
package e2e
