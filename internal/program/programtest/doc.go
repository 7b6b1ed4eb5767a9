// SPDX-License-Identifier: Apache-2.0

// Package programtest is what tests share that run the binary of cmd/concord.
package programtest
