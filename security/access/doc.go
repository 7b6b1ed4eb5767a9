// SPDX-License-Identifier: Apache-2.0

// Package access stands in front of what a node or an agent serves: it finds out who calls, by a
// certificate or a token, and whether that one may, before anything of the request is read. What a
// call may touch is for its handler to say, which asks [Caller].
//
// A [Guard] has a table with a row for each procedure and page. What has none is not served.
package access
