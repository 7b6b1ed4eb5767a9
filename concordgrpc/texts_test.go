// SPDX-License-Identifier: Apache-2.0

package concordgrpc

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/internal/said"
)

// Who writes another error finds out here that its text has to be looked at by everybody.
func TestEveryErrorHasARow(t *testing.T) {
	const says = "its handler panicked" // behind the name of the service
	require.EqualError(t, errPanicked, says)
	said.Check(t, []string{says}, map[string]string{
		"it says that it is reached at %s, which a service of gRPC does not": "a part of what is said of a service " +
			"that cannot be reached where it says it is",
	})
}
