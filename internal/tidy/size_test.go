// SPDX-License-Identifier: Apache-2.0

package tidy

import (
	"bytes"
	"path"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	mostLines = 600 // of a Go file that somebody wrote
	mostFiles = 30  // of Go in one folder, tests included
)

func TestFilesAndFoldersStaySmall(t *testing.T) {
	folders := map[string]int{}
	eachFile(t, func(file string, content []byte) {
		folders[path.Dir(file)]++
		if lines := bytes.Count(content, []byte("\n")); !generated(content) {
			require.LessOrEqual(t, lines, mostLines,
				"%s has %d lines: give a part of it a file of its own, named by its noun", file, lines)
		}
	}, ".go")
	for folder, files := range folders {
		require.LessOrEqual(t, files, mostFiles,
			"%s has %d Go files: find the second room in it, or put small tests together", folder, files)
	}
	require.Greater(t, len(folders), 30, "the folders were not found")
}
