// SPDX-License-Identifier: Apache-2.0

package tidy

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// logWords says which key of a log line has the place of others that mean the same.
var logWords = map[string]string{
	"error": "err", "transaction": "gid", "tx": "gid", "xid": "gid", "no": "branch", "finish": "found",
	"address": "addr", "listen": "addr", "directory": "dir", "path": "file", "reason": "why", "duration": "took",
	"elapsed": "took", "cluster_id": "cluster", "node_id": "node",
}

var logKey = regexp.MustCompile(`^[a-z][a-z0-9]*(_[a-z0-9]+)*$`)

// oldKeys are files whose keys are not of this style yet.
var oldKeys = []string{"join.go", "part.go"}

// Whoever looks for a transaction or a node in the logs looks for one key.
func TestLogKeysAreOfOneStyle(t *testing.T) {
	keys, all := map[string]bool{}, []string{}
	eachFile(t, func(path string, content []byte) {
		if strings.HasSuffix(path, "_test.go") || generated(content) {
			return
		}
		found, wrong := logCalls(t, path, content)
		if slices.Contains(oldKeys, path) {
			require.NotEmpty(t, wrong, "%s is mended: take it out of oldKeys", path)
			return
		}
		all = append(all, wrong...)
		for _, key := range found {
			keys[key] = true
		}
	}, ".go")
	require.Empty(t, all, "keys of log lines are lower_snake, and the same thing has the same key everywhere:\n%s",
		strings.Join(all, "\n"))
	for _, key := range []string{"gid", "branch", "resource", "node", "peer", "err"} {
		require.True(t, keys[key], "the key %s was not found", key)
	}
	for _, bad := range []string{
		`log.Warn("x", "badKey", 1)`, `a.log.Error("x", "bad key", 1)`, `c.logger.Debug("x", "n", 1, "error", err)`,
		`log.Info("x", "why", err.Error(), "lone")`, `log.Info("x", name, 1)`, `slog.Default().With("xid", x)`,
		`c.Logger.With("n", 1).Info("x", "transaction", 1)`, `log.Warn("x", append(more, "reason", 1)...)`,
		`slog.Any("error", err)`, `slog.String("badKey", "")`, `log.Debug("x", "cause", err)`,
	} {
		_, wrong := logCalls(t, "", []byte("package p\nfunc f() { "+bad+" }"))
		require.NotEmpty(t, wrong, "%s is not found", bad)
	}
	found, wrong := logCalls(t, "", []byte("package p\nfunc f() { log.With(\"gid\", x).Warn(\"x\", \"err\", err) }"))
	require.Equal(t, []string{"err", "gid"}, found)
	require.Empty(t, wrong)
}

// logCalls lists the keys that a file gives to slog, and what is wrong with them.
func logCalls(t *testing.T, path string, source []byte) (keys, wrong []string) {
	t.Helper()
	set := token.NewFileSet()
	f, err := parser.ParseFile(set, path, source, parser.SkipObjectResolution)
	require.NoError(t, err)
	ast.Inspect(f, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		args := logArgs(call)
		for i := 0; i < len(args); i += 2 {
			if isAttr(args[i]) { // is a key and its value, and looked at by itself
				i--
				continue
			}
			key, why := keyOf(args[i], args[i+1:])
			keys = append(keys, key)
			if why != "" {
				wrong = append(wrong, fmt.Sprintf("%s:%d: %s", path, set.Position(args[i].Pos()).Line, why))
			}
		}
		return true
	})
	return keys, wrong
}

// keyOf returns a key, and what is wrong with it beside the value that follows.
func keyOf(arg ast.Expr, following []ast.Expr) (key, wrong string) {
	text, ok := arg.(*ast.BasicLit)
	if !ok || text.Kind != token.STRING {
		return "", "a key is a text that stands in the call"
	}
	key, _ = strconv.Unquote(text.Value)
	switch word := logWords[key]; {
	case word != "":
		return key, fmt.Sprintf("the key %q is called %q everywhere else", key, word)
	case !logKey.MatchString(key):
		return key, fmt.Sprintf("the key %q is not lower_snake", key)
	case len(following) == 0:
		return key, fmt.Sprintf("the key %q has no value", key)
	}
	if value, ok := following[0].(*ast.Ident); ok && value.Name == "err" && key != "err" {
		return key, fmt.Sprintf("an error has the key \"err\", not %q", key)
	}
	return key, ""
}

// logArgs returns the keys and values that a call gives to slog.
func logArgs(call *ast.CallExpr) []ast.Expr {
	called, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return nil
	}
	args := call.Args
	switch name := called.Sel.Name; {
	case isAttr(call):
		return args[:min(2, len(args))]
	case name == "With" && isLogger(called.X):
	case slices.Contains([]string{"Debug", "Info", "Warn", "Error"}, name) && isLogger(called.X):
		args = args[1:]
	default:
		return nil
	}
	if !call.Ellipsis.IsValid() {
		return args
	}
	if added, ok := args[len(args)-1].(*ast.CallExpr); ok && len(added.Args) > 0 { // to what was given to a helper
		return added.Args[1:]
	}
	return nil
}

// isAttr says whether an expression makes a slog.Attr, whose key comes first.
func isAttr(e ast.Expr) bool {
	call, ok := e.(*ast.CallExpr)
	if !ok {
		return false
	}
	called, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	of, ok := called.X.(*ast.Ident)
	return ok && of.Name == "slog" && slices.Contains([]string{"Any", "Bool", "Duration", "Float64", "Group",
		"GroupAttrs", "Int", "Int64", "String", "Time", "Uint64"}, called.Sel.Name)
}

// isLogger goes by the names that loggers have in this repository.
func isLogger(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.Ident:
		return slices.Contains([]string{"log", "logger", "slog"}, e.Name)
	case *ast.SelectorExpr:
		return slices.Contains([]string{"log", "logger", "Log", "Logger"}, e.Sel.Name)
	case *ast.CallExpr: // slog.Default(), log.With("gid", gid)
		called, ok := e.Fun.(*ast.SelectorExpr)
		return ok && slices.Contains([]string{"Default", "With"}, called.Sel.Name) && isLogger(called.X)
	}
	return false
}
