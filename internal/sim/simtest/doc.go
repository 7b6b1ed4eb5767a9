// SPDX-License-Identifier: Apache-2.0

// Package simtest is what the tests of all simulated worlds do: hunt planted mistakes.
package simtest
