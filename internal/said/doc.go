// SPDX-License-Identifier: Apache-2.0

// Package said finds the texts of errors in the sources of a package that no row of its table
// test says, so that a new error comes with a row.
package said
