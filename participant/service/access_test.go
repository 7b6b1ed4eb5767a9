// SPDX-License-Identifier: Apache-2.0

package service

import (
	"testing"

	"github.com/stretchr/testify/require"

	concordv1 "github.com/concordtx/concord/api/concord/v1"
)

func TestEveryProcedureHasARule(t *testing.T) {
	services := concordv1.File_concord_v1_participant_proto.Services()
	for i := range services.Len() {
		require.Empty(t, rules.Missing(services.Get(i)), "say who may call it, in access.go")
	}
}
