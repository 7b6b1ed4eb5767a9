// SPDX-License-Identifier: Apache-2.0

//go:build mutant

package sim

// logMutants are the mistakes that the replicated log could make.
var logMutants = map[string]hunt{
	"X01": {checks: []string{"S10", "L5"}, seeds: 50, run: runLog(Options{Steps: 500})},
	"X04": {checks: []string{"S8"}, seeds: 100, run: runLog(Options{Steps: 500})},
	"X05": {checks: []string{"S2", "S3", "S6"}, seeds: 1000, run: runLog(Options{Steps: 1000})},
	"X21": {checks: []string{"S7"}, seeds: 200, run: runLog(Options{Steps: 1000})},
	"X22": {checks: []string{"S10", "L5"}, seeds: 50, run: runLog(Options{Steps: 500})},
	"X23": {checks: []string{"S9"}, seeds: 200, run: runLog(Options{Steps: 1000})},
	"X24": {checks: []string{"S6"}, seeds: 1000, run: runLog(Options{Steps: 1000})},
	"X25": {checks: []string{"S15"}, seeds: 1000, run: runLog(Options{Steps: 1000})},
	"X26": {checks: []string{"S15"}, seeds: 1000, run: runLog(Options{Steps: 1000})},
	"X32": {checks: []string{"S4"}, seeds: 200, run: runLog(Options{Steps: 1000})},
	"X34": {checks: []string{"V1", "V4"}, seeds: 1000, run: runLog(Options{Steps: 1000})},
}

// runLog hunts with runs of the log alone.
func runLog(o Options) func(seed uint64) error {
	return func(seed uint64) error {
		_, err := Run(seed, o)
		return err
	}
}
