// SPDX-License-Identifier: Apache-2.0

package zab

// Message is what one node says to another: an envelope that every receiver
// checks first, and a body.
type Message struct {
	From, To NodeID
	// Epoch is the epoch that the sender speaks for (0 for ballots and FollowerInfo).
	Epoch Epoch
	// Session is the number that the follower chose for its connection to this
	// leader, echoed by the leader; 0 for ballots.
	Session uint64
	Body    Body
}

// Body is one of the message kinds of the protocol.
type Body interface{ isBody() }
