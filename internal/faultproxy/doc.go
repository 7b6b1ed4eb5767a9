// SPDX-License-Identifier: Apache-2.0

// Package faultproxy is a bad network for tests: a Link stands between one dialer and one
// listener, and does to the bytes of either direction what networks do. It needs no
// privileges, and says nothing about the content.
//
// What always holds: a Link keeps at most some megabytes per connection and direction,
// bytes that it delivers are delivered once and in order, and a connection of which bytes
// vanished delivers no later ones: it is reset when the fault ends, as TCP would not skip
// bytes either.
package faultproxy
