// SPDX-License-Identifier: Apache-2.0

// Package member carries the messages of three-phase commit between its members: to and from the
// messages of the API, and from here to there (Sender).
//
// What is read is checked as far as it can be without knowing the transaction, so that the cores
// are stepped with what a member can have said. Who said it is not: that is the business of
// whoever serves it.
package member
