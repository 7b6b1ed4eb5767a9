// SPDX-License-Identifier: Apache-2.0

// Package exploretest is what the tests of all worlds do: visit the quick ones, and hunt planted
// mistakes.
package exploretest
