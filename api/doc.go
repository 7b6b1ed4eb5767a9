// SPDX-License-Identifier: Apache-2.0

// Package api is the way into a coordinator node: the generated messages and
// stubs, the conversion between them and the words of package txn, the mapping
// of errors to status codes and back, and the Client that the SDK and the command
// line share.
//
// Everything that came over the wire is validated here and nowhere else: what a
// conversion returns is well formed, what it refuses is an error that names the field.
package api
