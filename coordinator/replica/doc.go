// SPDX-License-Identifier: Apache-2.0

// Package replica is what a node of a replicated log is made of: who its members are.
package replica
