// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/xml"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPictureOfTheDocsIsThatOfTheFigures(t *testing.T) {
	out := filepath.Join(t.TempDir(), "transfer.svg")
	require.NoError(t, run("transfer.json", out))
	drawn, err := os.ReadFile(out)
	require.NoError(t, err)
	committed, err := os.ReadFile("../../docs/transfer.svg")
	require.NoError(t, err)
	require.Equal(t, string(committed), string(drawn),
		"go run ./bench/chart -in bench/chart/transfer.json -out docs/transfer.svg")
}

func TestChartIsWellFormedWhateverItIsCalled(t *testing.T) {
	c := chart{Title: `<a> & "b"`, Unit: "µs",
		Rows: []row{{Name: "one", Parts: []part{{"x<y", 1}, {"z", 2}}}, {Name: "two", Parts: []part{{"z", 300}}}}}
	require.NoError(t, c.check())
	text := c.svg()
	require.Equal(t, text, c.svg())
	require.Equal(t, []string{"x<y", "z"}, c.names())
	require.Contains(t, text, "300 µs")
	d := xml.NewDecoder(strings.NewReader(text))
	for {
		_, err := d.Token()
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
	}
}

func TestChartRefusesWhatCannotBeDrawn(t *testing.T) {
	require.Error(t, chart{}.check())
	require.ErrorContains(t, chart{Rows: []row{{Name: "a", Parts: []part{{"x", 2}, {"y", -1}}}}}.check(), "negative")
}
