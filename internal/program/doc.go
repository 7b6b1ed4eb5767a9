// SPDX-License-Identifier: Apache-2.0

// Package program runs programs of this repository, for tests and for measurements, as processes that do not outlive
// whoever started them.
package program
