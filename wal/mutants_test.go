// SPDX-License-Identifier: Apache-2.0

//go:build mutant

package wal

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/internal/mutant"
)

// hunt says how a mutant is looked for, and which check has to notice it.
type hunt struct {
	check string
	tries int
	run   func(try int) error
}

var hunts = map[string]hunt{
	"X27": {check: "DUR1", tries: 200, run: func(try int) error {
		_, _, err := writeFails(try)
		return err
	}},
	"X28": {check: "F07", tries: 1, run: func(int) error { return damagedMiddle() }},
	"X29": {check: "L6", tries: 10, run: func(try int) error {
		_, err := applyUntilThePowerFails(uint64(try))
		return err
	}},
	"X30": {check: "W01", tries: 10, run: func(try int) error {
		y := newStory(uint64(try))
		_, err := powerFails(uint64(try), func(s *Store) error { return y.live(s, 40) }, y)
		return err
	}},
}

// TestMutants kills every mutant of the storage.
func TestMutants(t *testing.T) {
	for _, m := range mutant.Of("wal") {
		t.Run(m.ID, func(t *testing.T) {
			h, ok := hunts[m.ID]
			require.True(t, ok, "%s (%s) is not hunted", m.ID, m.Name)
			began := time.Now()
			for try := range h.tries {
				var err error
				mutant.With(m.ID, func() { err = h.run(try) })
				if err == nil {
					continue
				}
				require.ErrorContains(t, err, h.check)
				took := time.Since(began).Round(time.Millisecond)
				for try := range try + 1 {
					require.NoError(t, h.run(try), "try %d finds something without the mutant too", try)
				}
				t.Logf("MUTANT %s killed by %s: try %d of at most %d, %s: %v", m.ID, h.check, try+1, h.tries, took, err)
				return
			}
			t.Fatalf("MUTANT %s survived %d tries: %s", m.ID, h.tries, m.What)
		})
	}
}
