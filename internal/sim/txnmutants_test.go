// SPDX-License-Identifier: Apache-2.0

//go:build mutant

package sim

// txnMutants are the mistakes that coordinators, clients and workers could make.
var txnMutants = map[string]hunt{}
