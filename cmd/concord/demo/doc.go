// SPDX-License-Identifier: Apache-2.0

// Package demo is "concord demo": three nodes, banks, money on the move and leaders that die, in one
// process.
package demo
