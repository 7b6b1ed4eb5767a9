// SPDX-License-Identifier: Apache-2.0

package tidy

import (
	"bytes"
	"encoding/json"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	module = "github.com/concordtx/concord"
	root   = "../.." // of the repository
)

// pkg is what "go list" says about a package.
type pkg struct {
	Dir, ImportPath                    string
	Imports                            []string
	GoFiles, TestGoFiles, XTestGoFiles []string
}

// name is the path inside the module, "." for the SDK.
func (p pkg) name() string {
	name, _ := ourName(p.ImportPath)
	return name
}

func ourName(importPath string) (string, bool) {
	if importPath == module {
		return ".", true
	}
	return strings.CutPrefix(importPath, module+"/")
}

func packages(t *testing.T) []pkg {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(goCommand(t, "list",
		"-json=Dir,ImportPath,Imports,GoFiles,TestGoFiles,XTestGoFiles", "./...")))
	var all []pkg
	for {
		var p pkg
		if err := d.Decode(&p); err == io.EOF {
			break
		} else {
			require.NoError(t, err)
		}
		all = append(all, p)
	}
	require.NotEmpty(t, all)
	return all
}

func goCommand(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command("go", args...)
	cmd.Dir = root
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, "go %s: %s", strings.Join(args, " "), stderr.String())
	return string(out)
}

// eachFile visits the files of the repository whose name ends in one of the suffixes,
// or all.
func eachFile(t *testing.T, visit func(path string, content []byte), suffixes ...string) {
	t.Helper()
	visited := 0
	require.NoError(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); name == ".git" || name == "bin" || name == "dist" {
				return filepath.SkipDir
			}
			return nil
		}
		if d.Name() == ".git" { // of a linked worktree
			return nil
		}
		wanted := len(suffixes) == 0
		for _, s := range suffixes {
			wanted = wanted || strings.HasSuffix(path, s)
		}
		if !wanted || !d.Type().IsRegular() || d.Name() == ".git" { // a file in a second worktree
			return nil
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		visited++
		relative, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		visit(filepath.ToSlash(relative), content)
		return nil
	}))
	require.NotZero(t, visited)
}

func generated(content []byte) bool {
	head, _, _ := bytes.Cut(content, []byte("\npackage "))
	return bytes.Contains(head, []byte("Code generated ")) && bytes.Contains(head, []byte("DO NOT EDIT"))
}
