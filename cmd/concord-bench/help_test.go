// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Whoever adds a measurement says what it measures, in its help and in the documents.
func TestEveryMeasurementIsExplained(t *testing.T) {
	var documents strings.Builder
	pages, err := filepath.Glob("../../docs/*.md")
	require.NoError(t, err)
	for _, page := range append(pages, "../../README.md") {
		text, err := os.ReadFile(page)
		require.NoError(t, err)
		documents.Write(text)
	}
	commands := newRoot(io.Discard, io.Discard).Commands()
	require.NotEmpty(t, commands)
	for _, c := range commands {
		path := c.CommandPath()
		assert.NotEmpty(t, c.Short, "%s: say in Short what it measures, in a line", path)
		assert.NotEmpty(t, c.Long, "%s: say in Long what it starts, and what its figures mean", path)
		assert.True(t, strings.Contains(documents.String(), path), "%s: say in README or docs/ what it is for", path)
	}
}
