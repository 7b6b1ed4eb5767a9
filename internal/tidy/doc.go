// SPDX-License-Identifier: Apache-2.0

// Package tidy holds the rules of the house as tests: which package may import which,
// what a protocol core must not touch, what the SDK must not bring along, and what no
// file of the repository may say. It has no code of its own.
//
// A new package gets a line in the table of layers_test.go.
package tidy
