// SPDX-License-Identifier: Apache-2.0

//go:build mutant

package sim

import "slices"

// txnMutants are the mistakes that coordinators, clients and workers could make. Checks that
// would notice them too, and sooner, are mute.
var txnMutants = map[string]hunt{
	"X03": txnHunt(100, "DUR1"),
	"X07": txnHunt(1000, "AC1", "AC2"),
	"X08": txnHunt(1000, "AC1", "AC2", "AC3w"),
	"X11": txnHunt(100, "AC1"),
	"X12": txnHunt(1000, "AC5", "HEUR"),
	"X13": txnHunt(100, "AC5"),
	"X18": txnHunt(1000, "AC1", "AC2"),
	"X19": txnHunt(100, "FOREIGN"),
	"X20": {seeds: 1000, checks: []string{"AC4"}, run: withoutFaults},
	"X31": txnHunt(500, "HEUR"),
	"X35": txnHunt(100, "AC1"),
	"X36": txnHunt(200, "LEASE"),
}

func txnHunt(seeds uint64, checks ...string) hunt {
	mute := slices.DeleteFunc([]string{"LIN", "HEUR", "AC6"}, func(id string) bool { return slices.Contains(checks, id) })
	return hunt{seeds: seeds, checks: checks, run: func(seed uint64) error {
		_, err := RunTxn(seed, TxnOptions{trace: true, Mute: mute})
		return err
	}}
}

// withoutFaults runs a seed only if it is one without faults.
func withoutFaults(seed uint64) error {
	if !newCluster(seed, Options{}).swarm.Quiet {
		return nil
	}
	_, err := RunTxn(seed, TxnOptions{trace: true, Mute: []string{"AC6"}})
	return err
}
