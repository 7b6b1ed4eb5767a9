// SPDX-License-Identifier: Apache-2.0

package mutant

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEveryMutantIsKilledSomewhereOrHasNoPlace(t *testing.T) {
	for i, m := range Table() {
		require.Equal(t, fmt.Sprintf("X%02d", i+1), m.ID)
		require.NotEmpty(t, m.What, m.ID)
		require.NotEqual(t, len(m.In) > 0, m.NotHere != "",
			"%s: either tests kill it, or it has no place, and a reason", m.ID)
	}
	require.Len(t, Table(), 71)
}

// A switch that nobody asks plants nothing, and a package without TestMutants kills nothing.
func TestEveryMutantIsPlantedAndItsPackagesHaveTests(t *testing.T) {
	root := "../.."
	planted := map[string]bool{}
	require.NoError(t, filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range Table() {
			if strings.Contains(string(content), "mutant."+m.Name) && !strings.Contains(path, "internal/") {
				planted[m.ID] = true
			}
		}
		return nil
	}))
	for _, m := range Table() {
		require.Equal(t, m.NotHere == "", planted[m.ID], "%s (%s): planted", m.ID, m.Name)
		for _, pkg := range m.In {
			content, err := os.ReadFile(filepath.Join(root, pkg, "mutants_test.go"))
			require.NoError(t, err, "%s must be killed in %s", m.ID, pkg)
			require.Contains(t, string(content), "func TestMutants(", pkg)
		}
	}
}
