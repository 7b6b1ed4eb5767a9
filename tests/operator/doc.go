// SPDX-License-Identifier: Apache-2.0

// Package operator tests what people do with a cluster that runs: real nodes, real PostgreSQL, MariaDB and MySQL,
// what an administrator does to a database behind the cluster's back, and the page that tells an operator
// what to do about it, docs/operations.md.
package operator
