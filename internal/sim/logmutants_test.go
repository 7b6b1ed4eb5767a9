// SPDX-License-Identifier: Apache-2.0

//go:build mutant

package sim

// logMutants are the mistakes that the replicated log could make.
var logMutants = map[string]hunt{}
