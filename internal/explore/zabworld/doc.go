// SPDX-License-Identifier: Apache-2.0

// Package zabworld is a world of package explore: a cluster of three nodes of protocol/zab, their
// disks and the wires between them.
package zabworld
