// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"
)

// aCommand is a command line that a text names in quotes.
var aCommand = regexp.MustCompile(`"concord ([^"]+)"`)

// Whoever reads an error does what it says: each command that a text of the program names is
// there, with the flags and as many arguments as the text gives it.
func TestCommandsThatTextsNameExist(t *testing.T) {
	root := newRoot(&bytes.Buffer{}, &bytes.Buffer{}, &bytes.Buffer{})
	named := 0
	require.NoError(t, filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && strings.HasPrefix(d.Name(), ".") && d.Name() != ".." {
			return filepath.SkipDir
		}
		if filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			e, ok := n.(ast.Expr)
			if !ok {
				return true
			}
			text, whole := textOf(e)
			for _, m := range aCommand.FindAllStringSubmatch(text, -1) {
				named++
				if err := exists(root, strings.Fields(m[1])); err != nil {
					t.Errorf("%v: a text names %s: %v", set.Position(e.Pos()), m[0], err)
				}
			}
			return !whole // the parts of a text were looked at with it
		})
		return nil
	}))
	require.Greater(t, named, 40, "the texts were not found")
}

// textOf returns the text of a literal, or of several that are joined; what else is joined
// with them is %v. It reports whether there is such a text.
func textOf(e ast.Expr) (string, bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		text, err := strconv.Unquote(e.Value)
		return text, e.Kind == token.STRING && err == nil
	case *ast.BinaryExpr:
		x, left := textOf(e.X)
		y, right := textOf(e.Y)
		if e.Op == token.ADD && (left || right) {
			return orSome(x, left) + orSome(y, right), true
		}
	}
	return "", false
}

func orSome(text string, known bool) string {
	if known {
		return text
	}
	return "%v"
}

// exists says what is wrong with a command line, or nil. One that only names a command, to look
// at its help or as a reminder, needs no arguments.
func exists(root *cobra.Command, words []string) error {
	cmd, rest, err := root.Find(words)
	if err != nil {
		return err
	}
	args := 0
	for i := 0; i < len(rest); i++ {
		name, isFlag := strings.CutPrefix(rest[i], "--")
		name, _, given := strings.Cut(name, "=")
		if !isFlag {
			args++
			continue
		}
		if name == "help" {
			continue // which cobra adds to a command when it runs
		}
		f := cmd.Flag(name)
		switch {
		case f == nil:
			return fmt.Errorf("%q has no flag --%s", cmd.CommandPath(), name)
		case f.NoOptDefVal == "" && !given:
			i++ // its value
		}
	}
	switch {
	case cmd == root:
		return fmt.Errorf("there is no such command")
	case cmd.HasSubCommands() && args > 0:
		return fmt.Errorf("%q has no such command", cmd.CommandPath())
	case args > 0:
		return cmd.ValidateArgs(make([]string, args))
	}
	return nil
}

func TestACommandThatDoesNotExistIsFound(t *testing.T) {
	root := newRoot(&bytes.Buffer{}, &bytes.Buffer{}, &bytes.Buffer{})
	for line, right := range map[string]bool{
		"status": true, "status --addr %s": true, "tx get": true, "tx get %s": true, "tx ls --state heuristic": true,
		"member add %d":         true,
		"tx resolve %v --abort": true, "serve --help": true, "recover %v": true, "recover": true,
		"stat": false, "tx show": false, "member kick %d": false, "status --nodes": false, "status now": false,
		"tx get %s %s": false, "recover a b": false,
	} {
		err := exists(root, strings.Fields(line))
		require.Equal(t, right, err == nil, "%s: %v", line, err)
	}
}
