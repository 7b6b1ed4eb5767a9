// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/concordtx/concord/cmd/internal/terminal"
)

// manCommand writes what the commands say of themselves as manual pages.
func (c *cli) manCommand() *cobra.Command {
	return &cobra.Command{
		Use: "man DIR", Short: "Write manual pages into a directory",
		Example: "  concord man /usr/local/share/man/man1",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return terminal.Usagef("want the directory of the pages, for example: %s /usr/local/share/man/man1",
					cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			// #nosec G301 -- manual pages are for everybody
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return err
			}
			root := cmd.Root()
			root.DisableAutoGenTag = true // the same pages every time
			if err := doc.GenManTree(root, &doc.GenManHeader{Section: "1", Source: "concord", Manual: "concord"},
				args[0]); err != nil {
				return fmt.Errorf("write manual pages: %w", err)
			}
			return nil
		},
	}
}
