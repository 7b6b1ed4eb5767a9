// SPDX-License-Identifier: Apache-2.0

// Package security says who is at the other end of a connection, and what that one may do.
//
// An [Identity] is a kind and a name in a cluster: concord://shop/node/1,
// concord://shop/client/billing-app. It is the one URI of that scheme among the subject alternative
// names of a certificate, so what counts is who the cluster's authority says that it is, and neither an
// address nor the words of the caller. [Authority] issues such certificates, and [Keys] loads and
// verifies them. A client may have a token instead: [Tokens] holds what a node must know of those.
//
// A [Policy] maps the names of clients and agents to roles, and denies what it does not grant. Nodes
// need no grant: their certificates are enough, and good for nothing but what nodes do.
//
// What always holds:
//
//  1. Nobody is anybody by default. What cannot be verified is an error, never an anonymous identity.
//  2. A file that is wrong never takes the place of one that was right: [Keys.Reload] and
//     [Tokens.Reload] keep what they have, and say why.
//  3. A private key or a token that others could read is not used.
//  4. No error, and nothing that is logged, has a private key or a token in it.
package security
