// SPDX-License-Identifier: Apache-2.0

package threepcworld

import "regexp"

// What keeps a world small beside the letters that only add letters (saturate) and those that have no
// effect any more (prune). Each of these leaves every decision, promise and attempt reachable that was
// reachable without it:
//
//   - Reasons are for people. Cores, records and votes that differ in them alone are the same.
//   - An agent compares its epoch where it has no entry. Recovered with one, it is as if it had never
//     been away, but for what its journal did not have.
//   - Where no crash is left, journals force at once (forceAtOnce). What an agent withholds until then
//     is late in reaching others; so may be any letter. What it does not repeat meanwhile is lost; so may
//     be any letter. Nothing else that it does depends on how far its journal is, and what a crash would
//     find on the disk nobody will see.
//
// Agents are not interchangeable: elections of one number are compared by the names of who began them.

// reasons are the fields of cores that only people read.
var reasons = regexp.MustCompile(`reason:"[^"]*"`)

// forceAtOnce has journals write what they are to write, if nobody crashes any more.
func (w *threePC) forceAtOnce(s *sitting) {
	if s.crashes > 0 {
		return
	}
	for n := range w.size.Agents {
		for s.writes[n][0] != 0 {
			w.forced(s, n)
		}
	}
}
