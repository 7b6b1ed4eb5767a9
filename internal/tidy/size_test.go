// SPDX-License-Identifier: Apache-2.0

package tidy

import (
	"bytes"
	"go/scanner"
	"go/token"
	"path"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

const (
	mostLines = 600 // of a Go file that somebody wrote
	mostFiles = 30  // of Go in one folder, tests included
	mostWide  = 120 // columns of a line of Go, of which a tab has tabWidth
	tabWidth  = 4
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

// Texts of several lines, such as SQL, are as wide as they have to be.
func TestLinesStayNarrow(t *testing.T) {
	eachFile(t, func(file string, content []byte) {
		if generated(content) {
			return
		}
		free := linesOfTexts(content)
		for i, line := range strings.Split(string(content), "\n") {
			wide := utf8.RuneCountInString(line) + strings.Count(line, "\t")*(tabWidth-1)
			if wide > mostWide && !free[i+1] {
				t.Errorf("%s:%d has %d columns: break it after a comma, an operator or a word", file, i+1, wide)
			}
		}
	}, ".go")
}

// linesOfTexts returns the lines, from one on, that texts of several lines are on.
func linesOfTexts(content []byte) map[int]bool {
	lines := map[int]bool{}
	set := token.NewFileSet()
	file := set.AddFile("", -1, len(content))
	var s scanner.Scanner
	s.Init(file, content, nil, 0)
	for {
		at, tok, text := s.Scan()
		if tok == token.EOF {
			return lines
		}
		if more := strings.Count(text, "\n"); tok == token.STRING && more > 0 {
			for first, i := file.Line(at), 0; i <= more; i++ {
				lines[first+i] = true
			}
		}
	}
}
