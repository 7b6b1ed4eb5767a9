// SPDX-License-Identifier: Apache-2.0

package attack

import (
	"debug/buildinfo"
	"debug/elf"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// What breaks concord on purpose, in its tests, is not in the program, and neither is a way to list what it serves.
func TestTheProgramHasNothingOfItsTests(t *testing.T) {
	info, err := buildinfo.ReadFile(binary)
	require.NoError(t, err)
	for _, s := range info.Settings {
		require.NotEqual(t, "-tags", s.Key, "built with %s", s.Value)
	}
	for _, m := range info.Deps {
		require.NotContains(t, m.Path, "grpc-reflection")
		require.NotEqual(t, "connectrpc.com/grpcreflect", m.Path)
		require.NotContains(t, m.Path, "stretchr/testify")
	}
	f, err := elf.Open(binary)
	require.NoError(t, err)
	defer f.Close()
	symbols, err := f.Symbols()
	require.NoError(t, err)
	ours := 0
	for _, s := range symbols {
		name, ok := strings.CutPrefix(s.Name, "github.com/concordtx/concord/")
		if !ok {
			continue
		}
		ours++
		for _, never := range []string{"internal/mutant.", "internal/crashfs.", "internal/faultproxy.", "internal/sim",
			"internal/explore", "internal/testdb", "concordtest", "adapters/adaptertest"} {
			require.False(t, strings.HasPrefix(name, never), s.Name)
		}
	}
	require.Greater(t, ours, 1000, "the program has its symbols")
}
