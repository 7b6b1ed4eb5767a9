// SPDX-License-Identifier: Apache-2.0

// Package crashfs is a file system in memory that forgets, when asked for what a crash
// would leave, what was not synced.
package crashfs
