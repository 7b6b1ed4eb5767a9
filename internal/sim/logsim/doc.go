// SPDX-License-Identifier: Apache-2.0

// Package logsim simulates the replicated log alone: bare cores in the clusters of package sim, and
// clients that propose and read, some of them one after the other and at any node.
package logsim
