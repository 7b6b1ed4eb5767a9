// SPDX-License-Identifier: Apache-2.0

// Package explore visits every state that a small world of cores can reach, in the order
// of their distance from the start, so that the first mistake that it meets has the
// shortest way to it. The worlds are made of the cores that ship, not of models of them.
//
// # Cores are stepped once
//
// A core is a value, so what it does with an event follows from its state alone. Each
// state of a core is numbered, and each pair of a state and an event is stepped once and
// remembered. A state of the world is then a handful of numbers: the states of its cores,
// sets or queues of numbered messages, and what is left of the budgets for trouble. Two
// core states have one number when all their fields are equal (twopcworld), or when their
// fingerprints of 64 bits are (ZAB).
//
// # What a result says
//
// Complete means that no bound of the search was met: all states were visited that the
// budgets of the world allow. States are told apart by 64 bits: two different ones of a
// hundred million are taken for the same with a chance of one in four thousand.
//
// # The worlds
//
// Each is a package below this one. twopcworld is one transaction: the initiator or the agents that
// hold its branches, a leader, the log, the resources. threepcworld is one transaction too, with
// journals, elections and the fold of the log. zabworld is a cluster of three nodes with disks that
// lose what was not synced. What can go wrong in them, and what must hold, is said there.
package explore
