// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Every key has a row in docs/operations.md, with its default, and nothing else has.
func TestEveryKeyHasARow(t *testing.T) {
	page, err := os.ReadFile("../../../docs/operations.md")
	require.NoError(t, err)
	for heading, of := range map[string]struct {
		config  reflect.Type
		program program
		host    host
	}{
		"## Install": {reflect.TypeFor[Node](), NodeProgram, ofNode},
		"## Agents":  {reflect.TypeFor[Agent](), AgentProgram, ofAgent},
	} {
		rows, defaults := settings(string(page), heading), of.program.defaults()
		require.NotEmpty(t, rows, "docs/operations.md has no settings under %q", heading)
		keys := keysOf(of.config, "")
		for _, key := range keys {
			shown, found := rows[key]
			require.True(t, found, "the key %s: add a row to the settings under %q of docs/operations.md", key, heading)
			require.Equal(t, defaultText(defaults[key]), shown,
				"the default of %s under %q of docs/operations.md", key, heading)
			_, has := defaults[key]
			require.True(t, has != slices.Contains(of.program.lists, key), "the key %s has a default, if only an "+
				"empty one, or is in the lists of %s: otherwise no variable sets it", key, of.program.command)
		}
		for _, key := range slices.Sorted(maps.Keys(rows)) {
			require.True(t, slices.Contains(keys, key), "docs/operations.md has the key %s under %q: no program "+
				"reads it", key, heading)
		}
		row := regexp.MustCompile("(?m)^\\| `resources` \\|.*$").FindString(string(page[strings.Index(string(page),
			"\n"+heading+"\n"):]))
		for _, key := range append(slices.Clone(resourceKeys), of.program.own) {
			require.Contains(t, row, "`"+key+"`", "the key %s of a resource, under %q of docs/operations.md", key,
				heading)
		}
		for _, d := range drivers {
			require.Equal(t, of.host.opens(d), regexp.MustCompile(`driver.*[( ]`+d.name+`[,)]`).MatchString(row),
				"the driver %s, under %q of docs/operations.md", d.name, heading)
		}
	}
}

// Every field of a resource that is written down has a key, which at least one program knows.
func TestEveryFieldOfAResourceHasAKey(t *testing.T) {
	values := map[string]any{}
	keys := append(slices.Clone(resourceKeys), NodeProgram.own, AgentProgram.own)
	for _, key := range keys {
		values[key] = "x"
	}
	r, err := decodeResource(values, keys)
	require.NoError(t, err)
	for field, value := range reflect.ValueOf(r).Fields() {
		require.False(t, value.IsZero(), "no key is read into Resource.%s", field.Name)
	}
}

// keysOf are the keys that a struct is read from; a list is one key.
func keysOf(t reflect.Type, prefix string) (keys []string) {
	for field := range t.Fields() {
		name := field.Tag.Get("mapstructure")
		if name == "" {
			name = strings.ToLower(field.Name)
		}
		if field.Type.Kind() == reflect.Struct {
			keys = append(keys, keysOf(field.Type, prefix+name+".")...)
		} else {
			keys = append(keys, prefix+name)
		}
	}
	return keys
}

var (
	settingsRow = regexp.MustCompile("^\\| (`[^|]+) \\| ([^|]+) \\| .+ \\|$")
	quoted      = regexp.MustCompile("`([^`]+)`")
)

// settings reads the first table below a heading: keys and their defaults. A row of several keys has one default for
// each, or one for all.
func settings(page, heading string) map[string]string {
	rows := map[string]string{}
	_, after, _ := strings.Cut(page, "\n"+heading+"\n")
	for line := range strings.Lines(after) {
		row := settingsRow.FindStringSubmatch(strings.TrimSpace(line))
		switch {
		case row != nil:
			keys, defaults := quoted.FindAllStringSubmatch(row[1], -1), strings.Split(row[2], ", ")
			for i, key := range keys {
				rows[key[1]] = defaults[min(i, len(defaults)-1)]
			}
		case len(rows) > 0:
			return rows
		}
	}
	return rows
}

func defaultText(value any) string {
	switch v := value.(type) {
	case time.Duration:
		text := v.String()
		for _, zero := range []string{"m0s", "h0m"} {
			if strings.HasSuffix(text, zero) {
				text = strings.TrimSuffix(text, zero[1:])
			}
		}
		return text
	case nil, string:
		if v == nil || v == "" {
			return "none"
		}
	}
	return fmt.Sprint(value)
}
