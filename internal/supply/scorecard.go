// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// check is one of those that OpenSSF Scorecard makes, by its name there: "yes", "no", or "n/a" where the tree cannot
// tell, with the reason.
type check struct{ name, is, why string }

// scorecard answers all 18 of them from what is in a tree.
func scorecard(root string) ([]check, error) {
	t := tree{root: root}
	if err := t.read(); err != nil {
		return nil, err
	}
	const hosting = "is of the place where the repository is kept"
	return []check{
		t.yes("Binary-Artifacts", len(t.binaries) == 0, "no program is in the tree", strings.Join(t.binaries, ", ")),
		{"Branch-Protection", "n/a", hosting},
		t.yes("CI-Tests", t.has(".ci/run"), ".ci/run runs all tests", ".ci/run is missing"),
		{"CII-Best-Practices", "n/a", "wants an application to OpenSSF"},
		{"Code-Review", "n/a", hosting},
		{"Contributors", "n/a", hosting},
		t.workflows("Dangerous-Workflow"),
		t.yes("Dependency-Update-Tool", t.has(".github/dependabot.yml"), "dependabot", "none is set up"),
		t.yes("Fuzzing", t.fuzz > 0, fmt.Sprintf("%d native fuzz targets", t.fuzz), "there is no fuzz target"),
		t.yes("License", t.has("LICENSE"), "LICENSE", "LICENSE is missing"),
		{"Maintained", "n/a", hosting},
		{"Packaging", "n/a", "is of where releases are published; make dist makes them"},
		t.yes("Pinned-Dependencies", len(t.unpinned) == 0, "go.sum, and images by digest",
			"go.sum pins modules, but images are named by tag: "+strings.Join(t.unpinned, ", ")),
		t.yes("SAST", t.mentions("Makefile", "$(GOSEC)") && t.mentions("Makefile", "$(STATICCHECK)"),
			"make vet and make audit run staticcheck and gosec", "the Makefile runs no analyser"),
		t.yes("Security-Policy", t.has("SECURITY.md"), "SECURITY.md", "SECURITY.md is missing"),
		t.yes("Signed-Releases", t.mentions("Makefile", "SHA256SUMS.sig"),
			"make dist signs SHA256SUMS with the key that it is given",
			"make dist writes SHA256SUMS, which nobody signs"),
		t.workflows("Token-Permissions"),
		{"Vulnerabilities", "n/a", "make audit asks govulncheck, and says NOT RUN where its database cannot be " +
			"reached"},
	}, nil
}

// tree is what is in a folder that a check asks about.
type tree struct {
	root               string
	binaries, unpinned []string
	fuzz               int
}

var (
	fuzzTarget = regexp.MustCompile(`(?m)^func Fuzz[A-Z]\w*\(`)
	image      = regexp.MustCompile(`(?m)^\s*(?:FROM|image:) +(\S+:\S+)`)
)

func (t *tree) read() error {
	return filepath.WalkDir(t.root, func(path string, d fs.DirEntry, err error) error {
		rel, relErr := filepath.Rel(t.root, path)
		switch {
		case err != nil:
			return err
		case relErr != nil:
			return relErr
		case d.IsDir() && (rel == ".git" || rel == "bin" || rel == "dist"):
			return fs.SkipDir
		case !d.Type().IsRegular():
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, magic := range []string{"\x7fELF", "MZ\x90", "\xcf\xfa\xed\xfe", "\xca\xfe\xba\xbe", "!<arch>"} {
			if bytes.HasPrefix(b, []byte(magic)) {
				t.binaries = append(t.binaries, rel)
			}
		}
		switch name := d.Name(); {
		case strings.HasSuffix(name, "_test.go"):
			t.fuzz += len(fuzzTarget.FindAll(b, -1))
		case name == "Dockerfile" || name == "docker-compose.yml":
			for _, m := range image.FindAllSubmatch(b, -1) {
				if ref := string(m[1]); !strings.Contains(ref, "@sha256:") && ref != "concord:dev" {
					t.unpinned = append(t.unpinned, ref)
				}
			}
		}
		return nil
	})
}

func (t *tree) has(name string) bool {
	_, err := os.Stat(filepath.Join(t.root, name))
	return err == nil
}

func (t *tree) mentions(file, text string) bool {
	b, err := os.ReadFile(filepath.Join(t.root, file))
	return err == nil && bytes.Contains(b, []byte(text))
}

func (t *tree) yes(name string, is bool, why, whyNot string) check {
	if is {
		return check{name, "yes", why}
	}
	return check{name, "no", whyNot}
}

func (t *tree) workflows(name string) check {
	if t.has(".github/workflows") {
		return check{name, "no", "there are workflows, and nobody has looked at them here"}
	}
	return check{name, "n/a", "there are no workflows of GitHub"}
}

func printScorecard(out io.Writer, root string) error {
	checks, err := scorecard(root)
	for _, c := range checks {
		fmt.Fprintf(out, "%-22s %-4s %s\n", c.name, c.is, c.why)
	}
	return err
}
