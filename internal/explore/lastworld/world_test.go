// SPDX-License-Identifier: Apache-2.0

package lastworld

import (
	"testing"

	"github.com/concordtx/concord/internal/explore/exploretest"
)

func TestEveryOrderOfEventsKeepsThePromises(t *testing.T) { exploretest.Quick(t, Quick(), true) }
