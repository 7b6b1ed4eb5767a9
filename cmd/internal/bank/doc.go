// SPDX-License-Identifier: Apache-2.0

// Package bank makes banks of databases: accounts between which the demonstration and the
// measurements move money.
package bank
