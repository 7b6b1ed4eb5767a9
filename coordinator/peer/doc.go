// SPDX-License-Identifier: Apache-2.0

// Package peer is how the nodes of a cluster talk to each other: frames over TCP, a handshake in
// which two nodes find out whether they belong together, one ordered connection per direction
// and pair, reports that each makes of itself, and snapshots on connections of their own.
//
// Transport carries what it is given and decides nothing but with whom it talks.
package peer
