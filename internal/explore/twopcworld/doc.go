// SPDX-License-Identifier: Apache-2.0

// Package twopcworld is a world of package explore: one transaction of two-phase commit, with
// everybody who takes part in it.
package twopcworld
