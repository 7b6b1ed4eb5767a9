// SPDX-License-Identifier: Apache-2.0

package main

import (
	"runtime/debug"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/concordtx/concord/cmd/internal/terminal"
	"github.com/concordtx/concord/txn"
)

// version is what this program is, as far as the Go tool noted it when it was built.
type version struct {
	Version  string `json:"version"`  // of the module: a tag, or (devel)
	Revision string `json:"revision"` // of the source; empty if it was not built from a checkout
	Modified bool   `json:"modified"` // the checkout had changes that were not committed
	Go       string `json:"go"`
	// FeatureLevel is the newest that this program knows, see txn.FeatureLevel.
	FeatureLevel uint16 `json:"feature_level"`
}

func readVersion() version {
	v := version{Version: "(devel)", FeatureLevel: uint16(txn.Newest)}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	v.Go = info.GoVersion
	if info.Main.Version != "" {
		v.Version = info.Main.Version
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Revision = s.Value
		case "vcs.modified":
			v.Modified = s.Value == "true"
		}
	}
	return v
}

func (c *cli) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Show the version of this program", Args: terminal.NoArgs,
		Long: "Shows the version, the revision of the source, the Go release that built it, and the newest\n" +
			"feature level that it knows: new kinds of log entries are switched on once all nodes\n" +
			"know it.",
		RunE: func(*cobra.Command, []string) error {
			v := readVersion()
			if c.output == "json" {
				return c.printJSON(v)
			}
			revision := terminal.OrDash(v.Revision)
			if v.Modified {
				revision += " (modified)"
			}
			return terminal.PrintTable(c.out, []string{"VERSION", "REVISION", "GO", "FEATURE LEVEL"},
				[][]string{{v.Version, revision, v.Go, strconv.Itoa(int(v.FeatureLevel))}})
		},
	}
}
