// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
)

// bill is a bill of materials, in CycloneDX 1.6.
type bill struct {
	Format     string      `json:"bomFormat"`
	Spec       string      `json:"specVersion"`
	Serial     string      `json:"serialNumber"`
	Version    int         `json:"version"`
	Metadata   metadata    `json:"metadata"`
	Components []component `json:"components"`
}

type metadata struct {
	Component  component  `json:"component"`
	Properties []property `json:"properties"` // how it was built
}

type component struct {
	Type       string     `json:"type"`
	Ref        string     `json:"bom-ref"`
	Name       string     `json:"name"`
	Version    string     `json:"version"`
	PURL       string     `json:"purl"`
	Hashes     []hash     `json:"hashes,omitempty"`
	Licenses   []license  `json:"licenses,omitempty"`
	Properties []property `json:"properties,omitempty"`
}

type hash struct {
	Algorithm string `json:"alg"`
	Content   string `json:"content"`
}

type license struct {
	License licenseID `json:"license"`
}

type licenseID struct {
	ID string `json:"id"`
}

type property struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// materials returns what a program is made of.
func materials(program string) (*bill, error) {
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return nil, fmt.Errorf("%s is no program that the Go tool has built with modules: %w", program, err)
	}
	content, err := os.ReadFile(program)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(content)
	b := &bill{Format: "CycloneDX", Spec: "1.6", Version: 1}
	b.Metadata.Component = componentOf(&info.Main, "application")
	b.Metadata.Component.Name = filepath.Base(program)
	b.Metadata.Component.Hashes = []hash{{"SHA-256", hex.EncodeToString(sum[:])}}
	b.Metadata.Component.Licenses = []license{{licenseID{"Apache-2.0"}}}
	b.Metadata.Properties = []property{{"go:version", info.GoVersion}}
	for _, s := range info.Settings {
		b.Metadata.Properties = append(b.Metadata.Properties, property{"go:" + s.Key, s.Value})
	}
	b.Components = []component{{Type: "library", Name: "std", Version: strings.TrimPrefix(info.GoVersion, "go"),
		Ref: "std", PURL: "pkg:golang/std@" + strings.TrimPrefix(info.GoVersion, "go"),
		Licenses: []license{{licenseID{"BSD-3-Clause"}}}}}
	dirs, err := directories(info.Deps)
	if err != nil {
		return nil, err
	}
	for _, d := range info.Deps {
		if d.Replace != nil {
			d = d.Replace
		}
		c := componentOf(d, "library")
		if c.Properties = []property{{"go.sum", d.Sum}}; d.Sum == "" {
			return nil, fmt.Errorf("%s has no checksum: what is linked comes from a directory, not from a release",
				d.Path)
		}
		ids, err := licensesOf(d.Path, dirs[d.Path])
		if err != nil {
			return nil, err
		}
		for _, id := range ids {
			c.Licenses = append(c.Licenses, license{licenseID{id}})
		}
		b.Components = append(b.Components, c)
	}
	slices.SortFunc(b.Components, func(x, y component) int { return strings.Compare(x.Name, y.Name) })
	b.Serial = serial(sum)
	return b, nil
}

func componentOf(m *debug.Module, kind string) component {
	version := m.Version
	if version == "" {
		version = "(devel)"
	}
	purl := "pkg:golang/" + m.Path + "@" + strings.NewReplacer("(", "%28", ")", "%29", "+", "%2B").Replace(version)
	return component{Type: kind, Ref: purl, Name: m.Path, Version: version, PURL: purl}
}

// serial is a UUID made of the hash of the program, so that the same program has the same bill.
func serial(sum [sha256.Size]byte) string {
	sum[6], sum[8] = sum[6]&0x0f|0x80, sum[8]&0x3f|0x80 // version 8, as RFC 9562 has it for such
	return fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", sum[0:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16])
}

// directories says where the sources of modules are.
func directories(modules []*debug.Module) (map[string]string, error) {
	args := []string{"list", "-m", "-json=Path,Dir"}
	for _, m := range modules {
		args = append(args, m.Path)
	}
	cmd := exec.Command("go", args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w: %s", err, stderr.String())
	}
	dirs := map[string]string{}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var m struct{ Path, Dir string }
		switch err := d.Decode(&m); {
		case errors.Is(err, io.EOF):
			return dirs, nil
		case err != nil:
			return nil, err
		}
		dirs[m.Path] = m.Dir
	}
}
