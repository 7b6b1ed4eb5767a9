// SPDX-License-Identifier: Apache-2.0

// Package threepcworld is a world of package explore: one transaction of three-phase commit, with its
// agents, their journals and databases, and the cluster.
package threepcworld
