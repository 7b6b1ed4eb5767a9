// SPDX-License-Identifier: Apache-2.0

// Package protocol has the words that commit protocols share: what may happen (Event), what may
// be asked for (Effect), and how a node holds one transaction in hand, whatever its protocol
// (Transaction). The protocols are in the packages below it; what only one of them says is
// said there.
//
// A core of any of them is a value with Step(Event) []Effect. It has no clock, no goroutine and
// no I/O; a driver brings events in, carries effects out in their order, and decides
// nothing. Every effect may be carried out at once: a core withholds what is not safe yet,
// until an event says that the disk is done.
package protocol
