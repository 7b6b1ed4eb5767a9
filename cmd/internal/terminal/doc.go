// SPDX-License-Identifier: Apache-2.0

// Package terminal is what the command lines of the repository share: how they print, for people
// and for programs, and how they exit.
package terminal
