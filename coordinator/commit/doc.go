// SPDX-License-Identifier: Apache-2.0

// Package commit is what a leader knows of transactions that are under way.
package commit
