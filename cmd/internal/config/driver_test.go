// SPDX-License-Identifier: Apache-2.0

package config

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// A driver that nothing opens is never taken for another one, and every driver has what a row of the
// table cannot be without.
func TestEveryDriverIsOpenedByWhatItsRowSays(t *testing.T) {
	for _, d := range drivers {
		if !ofNode.opens(d) && !ofAgent.opens(d) {
			t.Errorf("driver %q is opened by nothing: give its row in driver.go what opens it, for nodes or for agents",
				d.name)
		}
		if d.at == 0 || d.shown == "" {
			t.Errorf("driver %q: its row in driver.go does not say how a resource names its database, or how a "+
				"message shows it", d.name)
		}
		c := []Resource{{Name: "ledger", Driver: d.name}}
		if !ofNode.opens(d) {
			_, err := Open(t.Context(), c, nil)
			require.ErrorContains(t, err, "is none of postgres, mysql (also for MariaDB), agent")
			require.ErrorContains(t, checkResources(c, ofNode), "is none of")
		}
		if !ofAgent.opens(d) {
			_, err := OpenHosted(t.Context(), c, 1)
			require.ErrorContains(t, err, "is none of postgres, mysql (also for MariaDB), pebble")
			require.ErrorContains(t, checkResources(c, ofAgent), "is none of")
		}
	}
}

// A pool has room for all branches, unless its data source name says otherwise.
func TestPoolsHaveRoom(t *testing.T) {
	for dsn, want := range map[string]string{
		"postgres://app@h/d":                  "postgres://app@h/d?pool_max_conns=9",
		"postgres://app@h/d?sslmode=disable":  "postgres://app@h/d?sslmode=disable&pool_max_conns=9",
		"host=h dbname=d":                     "host=h dbname=d pool_max_conns=9",
		"postgres://app@h/d?pool_max_conns=3": "postgres://app@h/d?pool_max_conns=3",
	} {
		require.Equal(t, want, withPool(dsn, 9))
	}
}
