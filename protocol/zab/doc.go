// SPDX-License-Identifier: Apache-2.0

// Package zab is the atomic broadcast core of concord.
package zab
