// SPDX-License-Identifier: Apache-2.0

// Package mutant has one switch for each mistake that the checks must catch. The places
// where the product could make the mistake ask it:
//
//	if mutant.ShorterLogLeads || !ahead {
//
// In the product every switch is the constant false, so nothing of this is compiled. With
// the build tag "mutant" the switches are variables, and a test named TestMutants in each
// package of Table's In turns them on one at a time and demands that a named check
// fails within a budget. A mutant that survives fails the build: whatever was meant to
// notice the mistake does not.
//
// TestMutants logs one line for each, which internal/prove collects:
//
//	MUTANT X24 killed by S6: seed 3 of at most 200: node 2 leads epoch 4 without ...
package mutant
