// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// allowed are the licences that what we link may have. Each of them lets concord be given away under its own; the
// last one wants changes of its own files published, and we change none.
var allowed = []string{"Apache-2.0", "MIT", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MPL-2.0"}

var (
	licenseFile = regexp.MustCompile(`(?i)^(licen[cs]e|copying|unlicense)([.-].*)?$`)
	space       = regexp.MustCompile(`\s+`)
)

// marks are what the texts of licences say and no other's. Those that nobody may link are here so that they
// are seen beside an allowed one.
var marks = []struct{ text, id string }{
	{"apache license, version 2.0", "Apache-2.0"},
	{"apache license version 2.0", "Apache-2.0"},
	{"mozilla public license version 2.0", "MPL-2.0"},
	{"mozilla public license, version 2.0", "MPL-2.0"},
	{"permission is hereby granted, free of charge, to any person obtaining a copy", "MIT"},
	{"permission to use, copy, modify, and distribute this software for any purpose with or without fee", "ISC"},
	{"permission to use, copy, modify, and/or distribute this software for any purpose with or without fee", "ISC"},
	{"gnu affero general public license version", "AGPL"},
	{"gnu general public license version", "GPL"},
	{"gnu lesser general public license version", "LGPL"},
	{"business source license", "BUSL"},
	{"server side public license version", "SSPL"},
	{"commons clause", "Commons-Clause"},
}

// identify returns the SPDX identifiers of the licences that a text has; none if it has none that is known.
func identify(text string) (ids []string) {
	text = strings.ToLower(space.ReplaceAllString(text, " "))
	for _, m := range marks {
		if strings.Contains(text, m.text) && !slices.Contains(ids, m.id) {
			ids = append(ids, m.id)
		}
	}
	if strings.Contains(text, "redistribution and use in source and binary forms") {
		if strings.Contains(text, "to endorse or promote products") {
			ids = append(ids, "BSD-3-Clause")
		} else {
			ids = append(ids, "BSD-2-Clause")
		}
	}
	slices.Sort(ids)
	return ids
}

// licensesOf returns the licences of the module in a directory.
func licensesOf(module, dir string) (ids []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if !e.Type().IsRegular() || !licenseFile.MatchString(e.Name()) {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		found := identify(string(b))
		if len(found) == 0 {
			return nil, fmt.Errorf("%s: the licence in %s is not known: read it, and add what it says to \"marks\"",
				module, e.Name())
		}
		ids = append(ids, found...)
	}
	slices.Sort(ids)
	ids = slices.Compact(ids)
	if len(ids) == 0 {
		return nil, fmt.Errorf("%s has no licence: nobody may use it, take another module", module)
	}
	for _, id := range ids {
		if !slices.Contains(allowed, id) {
			return nil, fmt.Errorf("%s has the licence %s, and allowed are %s: take another module", module, id,
				strings.Join(allowed, ", "))
		}
	}
	return ids, nil
}
