// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	root = "../.." // of the repository
	// maxLinked modules are in the program. Who wants one more takes one away, or says why in docs/dependencies.md.
	maxLinked = 68
)

func goCommand(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, "go %s: %s", strings.Join(args, " "), stderr.String())
	return string(out)
}

// build makes the program as a release has it.
func build(t *testing.T) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "concord")
	goCommand(t, "build", "-trimpath", "-ldflags", "-s -w", "-o", path, "./cmd/concord")
	return path
}

// The bill names what "go list" says that the program links, each module with its checksum and licences.
func TestTheBillNamesWhatIsLinked(t *testing.T) {
	program := build(t)
	b, err := materials(program)
	require.NoError(t, err)
	var billed []string
	for _, c := range b.Components {
		require.NotEmpty(t, c.Licenses, c.Name)
		if c.Name == "std" {
			continue
		}
		billed = append(billed, c.Name+" "+c.Version)
		require.Equal(t, "go.sum", c.Properties[0].Name)
		sums, err := os.ReadFile(root + "/go.sum")
		require.NoError(t, err)
		require.Contains(t, string(sums), c.Name+" "+c.Version+" "+c.Properties[0].Value+"\n")
	}
	var listed []string
	for line := range strings.Lines(goCommand(t, "list", "-deps", "-f",
		"{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}}{{end}}{{end}}", "./cmd/concord")) {
		if line = strings.TrimSpace(line); line != "" && !strings.Contains(strings.Join(listed, "\n")+"\n", line+"\n") {
			listed = append(listed, line)
		}
	}
	require.ElementsMatch(t, listed, billed)
	require.LessOrEqual(t, len(listed), maxLinked, "see docs/dependencies.md")

	again, err := materials(program)
	require.NoError(t, err)
	one, err := json.Marshal(b)
	require.NoError(t, err)
	two, err := json.Marshal(again)
	require.NoError(t, err)
	require.Equal(t, string(one), string(two))
	require.Regexp(t, `^urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`, b.Serial)

	_, err = materials(root + "/go.mod")
	require.ErrorContains(t, err, "is no program that the Go tool has built")
}

var row = regexp.MustCompile("(?m)^\\| `([^`]+)` \\| ([^|]+) \\| (program|library|bench|tests) \\|$")

// Each direct module has a row that says what it is for, and each row its module.
func TestEveryDirectModuleHasAReason(t *testing.T) {
	page, err := os.ReadFile(root + "/docs/dependencies.md")
	require.NoError(t, err)
	linked := map[string]bool{}
	for _, m := range strings.Fields(goCommand(t, "list", "-deps", "-f", "{{with .Module}}{{.Path}}{{end}}",
		"./cmd/concord")) {
		linked[m] = true
	}
	var named []string
	for _, r := range row.FindAllStringSubmatch(string(page), -1) {
		named = append(named, r[1])
		require.Greater(t, len(strings.TrimSpace(r[2])), 5, "%s: say what it is for", r[1])
		require.Equal(t, r[3] == "program", linked[r[1]], "%s is said to be for: %s", r[1], r[3])
	}
	var mod struct {
		Require []struct {
			Path     string
			Indirect bool
		}
		Replace []any
	}
	require.NoError(t, json.Unmarshal([]byte(goCommand(t, "mod", "edit", "-json")), &mod))
	var direct []string
	for _, r := range mod.Require {
		if !r.Indirect {
			direct = append(direct, r.Path)
		}
	}
	require.ElementsMatch(t, direct, named, "go.mod and the table of docs/dependencies.md")
	require.Empty(t, mod.Replace, "a release has no replaced modules")
}

func TestLicencesAreKnownByTheirTexts(t *testing.T) {
	for text, ids := range map[string][]string{
		"Apache License\n   Version 2.0, January 2004":                                         {"Apache-2.0"},
		"Permission is hereby granted, free of charge, to any\nperson obtaining a copy of":     {"MIT"},
		"Redistribution and use in source and binary forms, with or without modification":      {"BSD-2-Clause"},
		"Redistribution and use in source and binary forms ... to endorse or promote products": {"BSD-3-Clause"},
		"GNU GENERAL PUBLIC LICENSE\n   Version 3":                                             {"GPL"},
		"All rights reserved.": nil,
	} {
		require.Equal(t, ids, identify(text), text)
	}
}

// A module that nobody may link is named with the reason.
func TestLicencesThatAreNotAllowed(t *testing.T) {
	for name, c := range map[string]struct{ file, text, says string }{
		"none": {"README.md", "Permission is hereby granted, free of charge, to any person obtaining a copy",
			"has no licence"},
		"unknown": {"LICENSE", "Do what you like on Sundays.", "the licence in LICENSE is not known"},
		"GPL": {"COPYING", "GNU General Public License version 2", "has the licence GPL, and allowed are " +
			"Apache-2.0"},
		"two": {"LICENSE.txt", "Apache License Version 2.0 ... Commons Clause", "has the licence Commons-Clause"},
	} {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, c.file), []byte(c.text), 0o600))
		_, err := licensesOf("example.com/m", dir)
		require.ErrorContains(t, err, "example.com/m", name)
		require.ErrorContains(t, err, c.says, name)
	}
}

// The checks of OpenSSF Scorecard have true answers, and those that the tree can pass it passes.
func TestTheScorecardIsHonest(t *testing.T) {
	checks, err := scorecard("../..")
	require.NoError(t, err)
	require.Len(t, checks, 18)
	is := map[string]string{}
	for _, c := range checks {
		require.NotEmpty(t, c.why, c.name)
		is[c.name] = c.is
	}
	require.Len(t, is, 18, "each once")
	for _, name := range []string{"Binary-Artifacts", "CI-Tests", "Fuzzing", "License", "SAST", "Security-Policy"} {
		require.Equal(t, "yes", is[name], name)
	}
	require.Equal(t, "yes", is["Signed-Releases"])

	empty, err := scorecard(t.TempDir())
	require.NoError(t, err)
	for _, c := range empty {
		if c.name != "Binary-Artifacts" && c.name != "Pinned-Dependencies" {
			require.NotEqual(t, "yes", c.is, c.name)
		}
	}
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "tool"), []byte("\x7fELF..."), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM golang:1.26\n"), 0o600))
	planted, err := scorecard(dir)
	require.NoError(t, err)
	require.Equal(t, check{"Binary-Artifacts", "no", "tool"}, planted[0])
	require.Equal(t, "no", planted[12].is)
	require.Contains(t, planted[12].why, "golang:1.26")
}

// Whoever has the key signs the checksums of a release, and anybody verifies that as docs/dependencies.md says.
func TestAReleaseIsSignedByWhoHasTheKey(t *testing.T) {
	if _, err := exec.LookPath("ssh-keygen"); err != nil {
		t.Skip("ssh-keygen is not installed, which signs")
	}
	dir := t.TempDir()
	run := func(in, name string, args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Dir, cmd.Stdin = dir, strings.NewReader(in)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	tree, err := filepath.Abs(root)
	require.NoError(t, err)
	const sums = "abc  concord\n"
	require.NoError(t, os.WriteFile(filepath.Join(dir, "SHA256SUMS"), []byte(sums), 0o600))
	out, err := run("", "make", "-s", "-C", tree, "sign", "DIST="+dir, "SIGNING_KEY=")
	require.NoError(t, err, out)
	require.Contains(t, out, "not signed")
	require.NoFileExists(t, filepath.Join(dir, "SHA256SUMS.sig"))

	for _, key := range []string{"key", "thief"} {
		out, err = run("", "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
		require.NoError(t, err, out)
	}
	public, err := os.ReadFile(filepath.Join(dir, "key.pub"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "signers"), append([]byte("concord "), public...), 0o600))
	page, err := os.ReadFile(filepath.Join(root, "docs", "dependencies.md"))
	require.NoError(t, err)
	command := regexp.MustCompile("(?m)^(ssh-keygen -Y verify .*) < SHA256SUMS$").FindSubmatch(page)
	require.NotNil(t, command, "docs/dependencies.md does not say how to verify a release")
	verify := func(what string) error {
		words := strings.Fields(string(command[1]))
		out, err := run(what, words[0], words[1:]...)
		t.Log(out)
		return err
	}
	for key, good := range map[string]bool{"key": true, "thief": false} {
		out, err = run("", "make", "-s", "-C", tree, "sign", "DIST="+dir, "SIGNING_KEY="+filepath.Join(dir, key))
		require.NoError(t, err, out)
		require.Equal(t, good, verify(sums) == nil, key)
		require.Error(t, verify("abd  concord\n"), "another checksum")
	}
}
