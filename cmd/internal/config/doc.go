// SPDX-License-Identifier: Apache-2.0

// Package config is what nodes and agents are told: files, environment and flags, their checks,
// and the databases that they name.
package config
