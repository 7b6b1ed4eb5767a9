// SPDX-License-Identifier: Apache-2.0

// Package meter drives something with a closed loop of workers and measures it: rates, gaps, CPU,
// and latencies that are free of coordinated omission. A worker that is held up starts nothing, so
// a pause would count as one slow operation although many would have met it: an operation that
// took longer than the workers' mean interval also stands for those that would have begun
// meanwhile, each with the time that was left of the pause.
package meter
